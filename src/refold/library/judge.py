"""Score bars with a run's model, for `refold score` and `Run.score` alike."""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from refold.config.build import (
    build_checks,
    build_data,
    build_detector,
    build_drift_test,
    build_source,
    build_table,
    build_threshold,
)
from refold.config.change import all_thresholds, choose_anew
from refold.config.compose import CONF
from refold.data.bars.entries import columns_of
from refold.data.bars.table import Table
from refold.data.long.ordered import OrderedBars, read_sorted
from refold.data.long.spool import PartedTable, TableSpool
from refold.data.sources.source import Source, batches_of
from refold.errors import ConfigError, DataError
from refold.library.decisions import Decisions
from refold.library.fitting import fit_to_data
from refold.library.frames import FrameSource, is_frame, to_polars
from refold.library.on_ray import Done, EncodeAssets, OnRay, ScoreAssets, Work, ray_started, share_out
from refold.library.scoring_result import Scoring, gather_scoring
from refold.library.tally import HERE, Tally
from refold.runs.settings import give_all_anew
from refold.scoring.alarms import AlarmRates
from refold.scoring.detector import Detector
from refold.scoring.latents import scan_latents
from refold.scoring.protocols import TrainedRun
from refold.scoring.scan import PIECE, RECONSTRUCTION, scan, scan_parts, with_columns_of
from refold.scoring.unlike import refuse_unlike, warn_of_unknown

if TYPE_CHECKING:
    from refold.data import WindowDataModule
    from refold.report.evidence import Sample

log = logging.getLogger("refold.score")

SCORES = "scores.parquet"
LATENTS = "latents.parquet"
BARS = "bars"
"""Folder in which the bars are kept while they are scored."""

LABEL_KEY = "data.source.table.columns.label"
"""Setting that names the column of labels. Bars may lack the one that a run was trained with."""

Progress = Callable[[int | None, str], AbstractContextManager[Callable[[int], None]]]
"""How many rows there will be, None if that is not known, and what is done with them -> where to count them."""


def no_progress(total: int | None, what: str) -> AbstractContextManager[Callable[[int], None]]:
    """Show no progress. See `Progress` for the arguments."""
    return nullcontext(lambda rows: None)


class Judge:
    """A run's model with the score, threshold, alignment and data that are asked for.

    Args:
        run: the run whose model scores.
        bars: a table or the path of one; None for the data that the settings name, or else for the run's own validation
            and test parts.
        settings: key -> value, to use in place of the run's own.
        decisions: path of a reader's decisions about events of the run; what was dismissed is not raised again.
        folder: where tables are kept that may be longer than memory; None keeps them in memory.
        progress: shows how many rows are done.
        on_ray: shares the assets out among the workers of Ray; with a folder, and only of a layout with windows of
            their own for each asset. None: this process does all.

    Raises:
        ConfigError: a setting is wrong, or the decisions are not about this run.
    """

    def __init__(
        self,
        run: TrainedRun,
        bars: Any = None,
        settings: Mapping[str, Any] | None = None,
        *,
        decisions: str | os.PathLike[str] | None = None,
        folder: Path | None = None,
        progress: Progress = no_progress,
        on_ray: OnRay | None = None,
    ) -> None:
        given = {key: "null" if value is None else str(value) for key, value in (settings or {}).items()}
        if bars is not None and not is_frame(bars) and not isinstance(bars, str | os.PathLike):
            raise ConfigError(
                f"the bars are a {type(bars).__name__}; they must be a table of polars or pandas, or the path of a file"
            )
        if bars is not None:  # a table in memory is read like a file
            given["data.path"] = "frame.parquet" if is_frame(bars) else str(bars)
        given = give_all_anew(run.config, given)
        self.run = run
        self.cfg = choose_anew(run.config, given, CONF)
        self.decisions = None if decisions is None else Decisions.read(decisions, run.config.run.id)
        policies = "data.checks.policies."
        self.given_policies = {key.removeprefix(policies) for key in given if key.startswith(policies)}
        self.folder = folder
        self.progress = progress
        self.on_ray = on_ray
        if on_ray is not None and self.cfg.data.layout == "panel":
            raise ConfigError("on is ray, which shares assets out; a window of a panel holds all of them: on=local")
        self.source: Source | None = None
        if is_frame(bars):
            self.source = FrameSource(to_polars(bars), build_table(self.cfg))
        elif any(key.startswith("data.") for key in given):
            self.source = build_source(self.cfg)
        if LABEL_KEY not in given:
            _let_label_lack(self.source)
        self.new_times = bool({"data.checks.interval", "data.checks.calendar"} & set(given))
        self.refits = any(key.partition(".")[0] in ("score", "threshold", "alignment") for key in given)

    @property
    def name(self) -> str:
        """Return a name for the folder of the results: that of the scored file, or "own"."""
        path = self.cfg.data.get("path") if self.source is not None else None
        return Path(path).name.split(".")[0] if path else "own"

    @cached_property
    def own_data(self) -> "WindowDataModule":
        """Load the data that the run was trained on, on the run's own scale."""
        data = build_data(self.run.config)
        data.scaler = self.run.scaler
        data.recipe = replace(data.recipe, entries=tuple(self.run.entries))
        data.setup()
        trained_on = self.run.result.get("data_fingerprint", data.fingerprint)
        if data.fingerprint != trained_on:
            log.warning("the run's data has changed since it was trained (%s, now %s)", trained_on, data.fingerprint)
        return data

    @cached_property
    def detector(self) -> Detector:
        """Return the run's detector, or fit one to the run's own data if score, threshold or alignment are changed."""
        detector = self.run.detector
        if detector is None or self.refits:
            data = self.own_data
            detector = build_detector(self.cfg, self.run.autoencoder, data.recipe, self.run.scaler, data.feature_names)
            fit_to_data(detector, data)
        checks = build_checks(self.cfg).when_scoring(kept=self.given_policies)
        if not self.new_times:  # the run's own interval and hours, also of a table too short to tell
            checks = checks.knowing(detector.recipe.checks.timetables)
        return detector.checking(checks)

    def read_bars(self, source: Source) -> OrderedBars:
        """Read all bars of a source, sorted by asset, then time.

        Args:
            source: of the bars.

        Raises:
            DataError: the bars cannot be read, or the run's model cannot judge them.
        """
        place = None if self.folder is None else self.folder.absolute() / BARS  # workers may stand elsewhere
        if place is not None:
            place.mkdir()
        with self.progress(None, "bars read") as count:
            bars = self._needed(read_sorted(batches_of(source), self.detector.recipe.checks, place, count))
        refuse_unlike(self.detector, bars, str(source))
        warn_of_unknown(self.detector, bars, str(source))
        return bars

    def _needed(self, bars: OrderedBars) -> OrderedBars:
        """Leave out the columns of a series that the run's features are not made of: what they hold is no fault."""
        if self.detector.recipe.checks.kind == "prices":
            return bars
        return bars.keeping(sorted(columns_of(self.detector.recipe.entries or ())))

    def score(self, *, thresholds: bool = False, evidence: bool = False) -> Scoring:
        """Score the bars.

        Args:
            thresholds: whether to count the alarms of all thresholds beside the chosen one.
            evidence: whether to collect what a report shows.

        Raises:
            DataError: the bars cannot be read or judged, or none of them has a score.
        """
        sample = None
        if evidence:
            from refold.report.evidence import Sample

            sample = Sample(self.detector)
        scoring = self._score_own(sample, thresholds) if self.source is None else self._score(sample, thresholds)
        if self.folder is not None:
            shutil.rmtree(self.folder / BARS, ignore_errors=True)
        return scoring

    def _score(self, sample: "Sample | None", thresholds: bool) -> Scoring:
        """Score all bars of the source."""
        assert self.source is not None
        with self._workers() as workers:
            bars = self.read_bars(self.source)
            tally = Tally(
                bars.rows,
                compared=self._comparison(bars.rows) if thresholds else None,
                drift=build_drift_test(self.cfg, self.detector),
                sample=sample,
                decisions=self.decisions,
                findings=[bars.findings],
                faulty=bars.faulty,
            )
            with self.progress(bars.rows, "bars scored") as count:
                if workers:
                    work = ScoreAssets(self.detector, tally.of_assets(bars.assets), PIECE, self._hidden)
                    spool, done = self._share_out(work, bars, SCORES, workers, count)
                    for found in done.found:
                        tally.merge(found)
                    return gather_scoring(self.detector, tally, spool, HERE, bars, done.refused)
                scored = tally.scan(self.detector, bars, PIECE, count)
                return gather_scoring(self.detector, tally, self._spooled(scored), HERE, bars)

    def _score_own(self, sample: "Sample | None", thresholds: bool) -> Scoring:
        """Score the validation and test parts of the data that the run was trained on."""
        if self.on_ray is not None:
            raise ConfigError("on is ray, which scores a table: data.path=FILE; the run's own parts need on=local")
        data = self.own_data
        bars = self._needed(read_sorted([data.source.load()], self.detector.recipe.checks))
        parts = {part: data.segments(part) for part in ("val", "test")}
        tally = Tally(
            bars.rows,
            compared=self._comparison(int(parts["test"][:, 1].sum())) if thresholds else None,
            drift=build_drift_test(self.cfg, self.detector),
            sample=sample,
            decisions=self.decisions,
            findings=[data.findings],
        )
        watch = sample and (lambda part, made: sample.of_part("validation" if part == "val" else part, made))
        whole = bars.slice(0, bars.rows)
        with self.progress(sum(int(runs[:, 1].sum()) for runs in parts.values()), "bars scored") as count:
            frames = scan_parts(self.detector, whole, parts, count, watch, tally.faulty, tally.drift)
            scored = tally.count(self.detector, frames, compared_part="test")
            return gather_scoring(self.detector, tally, self._spooled(scored), "test")

    @property
    def _hidden(self) -> tuple[str, ...]:
        """Columns of scored bars that are not kept."""
        return ("place",) if self.folder is None else ("place", "kind", "guess")

    def _spooled(self, scored: Iterable[pl.DataFrame]) -> TableSpool:
        """Keep the scored bars."""
        spool = TableSpool(self.folder and self.folder / SCORES)
        for table in scored:
            spool.add(table.drop(self._hidden))
        return spool

    def _workers(self) -> AbstractContextManager[int]:
        """Start Ray for the block, if it is to be used; yields how many workers it has, or 0."""
        return nullcontext(0) if self.on_ray is None else ray_started(self.on_ray)

    def _share_out(
        self, work: Work, bars: OrderedBars, name: str, workers: int, progress: Callable[[int], None]
    ) -> tuple[PartedTable, Done]:
        """Let the workers of Ray write a table; see `share_out`.

        Args:
            work: for some assets.
            bars: all of them.
            name: of the table's folder.
            workers: at least 1.
            progress: gets the number of rows that are done.

        Raises:
            DataError: no asset can be done; the message is that about the first one.
        """
        assert self.folder is not None
        folder = self.folder.absolute()
        parts = PartedTable(folder / name, len(bars.assets))
        done = share_out(work, bars, parts, folder / BARS, piece=PIECE, workers=workers, progress=progress)
        if not done.found:
            raise DataError(next(iter(done.refused.values())))
        return parts, done

    def _comparison(self, rows: int) -> AlarmRates | None:
        """Fit all thresholds to the detector's validation scores."""
        if "asset" not in self.detector.validation:
            log.warning("the run's detector kept no validation scores in order: no other thresholds")
            return None
        thresholds = {name: build_threshold(choice) for name, choice in all_thresholds(self.cfg, CONF).items()}
        return AlarmRates(thresholds, self.detector.validation, rows)

    def reconstruct(self) -> pl.DataFrame:
        """Reconstruct each bar of a table in memory; see `Run.reconstruct`."""
        assert self.source is not None
        bars = self.read_bars(self.source)
        made = [f"{RECONSTRUCTION}{name}" for name in self.detector.features]
        table = pl.concat(scan(self.detector, bars, features=True))
        table = pl.concat([table, *(with_columns_of(rows, table) for rows in bars.nameless.frames())])
        close = ["reconstructed_close"] if "reconstructed_close" in table.columns else []
        return table.select("timestamp", "asset", *made, *close).rename(lambda name: name.removeprefix(RECONSTRUCTION))

    def encode(self) -> tuple[TableSpool | PartedTable, dict[str, str]]:
        """Encode each window of the bars; of the run's own data, the windows of all parts.

        Returns:
            A row per window: timestamp and asset of its last bar, z_0, z_1, ...; and name of each asset that a worker
            could not encode -> why.

        Raises:
            DataError: the bars cannot be read or judged, or there is no window.
        """
        with self._workers() as workers:
            bars = self.read_bars(self.source or build_source(self.cfg))
            with self.progress(bars.rows, "bars encoded") as count:
                if workers:
                    spool, done = self._share_out(EncodeAssets(self.detector, PIECE), bars, LATENTS, workers, count)
                    refused = done.refused
                else:
                    spool, refused = TableSpool(self.folder and self.folder / LATENTS), {}
                    for table in scan_latents(self.detector, bars, piece=PIECE, progress=count):
                        spool.add(table)
        if not spool.rows:
            raise DataError("no window could be encoded: no unbroken run of bars is as long as a window")
        if self.folder is not None:
            shutil.rmtree(self.folder / BARS)
        return spool, refused


def _let_label_lack(source: Source | None) -> None:
    """Let a table lack the column of labels that the run was trained with."""
    table = getattr(source, "table", None)
    if isinstance(table, Table):
        setattr(source, "table", table.with_optional_label())  # noqa: B010  a source need not have one
