"""Score bars with a run's model, for `refold score` and `Run.score` alike."""

import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from refold.data.bars.findings import FaultyRuns, merge
from refold.data.bars.table import LABEL, Table
from refold.data.long.ordered import OrderedBars, read_sorted
from refold.data.long.spool import TableSpool
from refold.data.sources.source import Source, batches_of
from refold.errors import ConfigError, DataError
from refold.library.decisions import Decisions
from refold.library.fitting import fit_to_data
from refold.library.frames import FrameSource, is_frame, to_polars
from refold.runs.settings import give_all_anew
from refold.scoring.alarms import AlarmRates, covered, covered_days
from refold.scoring.detector import Detector
from refold.scoring.drift import DriftTest, count_states
from refold.scoring.events import MODEL, Events, with_findings
from refold.scoring.labelled import LabelledTable
from refold.scoring.latents import scan_latents
from refold.scoring.protocols import TrainedRun
from refold.scoring.rarity import with_periods
from refold.scoring.scan import RECONSTRUCTION, scan, scan_parts, with_columns_of, without_verdict
from refold.scoring.scored import count_rates
from refold.scoring.unlike import refuse_unlike, warn_of_unknown

if TYPE_CHECKING:
    from refold.data import WindowDataModule
    from refold.report.evidence import Evidence, Sample

log = logging.getLogger("refold.score")

SCORES = "scores.parquet"
LATENTS = "latents.parquet"
BARS = "bars"
"""Folder in which the bars are kept while they are scored."""

LABEL_KEY = "data.source.table.columns.label"
"""Setting that names the column of labels. Bars may lack the one that a run was trained with."""

HERE = "these bars"
"""Name of the bars of a table, where a run's own parts are called validation and test."""

Progress = Callable[[int | None, str], AbstractContextManager[Callable[[int], None]]]
"""How many rows there will be, None if that is not known, and what is done with them -> where to count them."""


def no_progress(total: int | None, what: str) -> AbstractContextManager[Callable[[int], None]]:
    """Show no progress. See `Progress` for the arguments."""
    return nullcontext(lambda rows: None)


class Scoring(NamedTuple):
    """Hold the scores, verdicts and counts of a scoring.

    Attributes:
        detector: what judged.
        scores: a row per bar, as `refold.scoring.scan.frame` makes them; without kind if they were written to a folder.
            Rows without a date or an asset are the last ones.
        events: runs of flagged bars, and what the checks found; see `refold.scoring.events.with_findings`.
        findings: what the checks of the data found, counted.
        facts: counts of bars, of events of the model and of faulty bars, and alarms per asset and year.
        thresholds: threshold -> column -> level and alarms per asset and year (or day, of bars within the day), if
            thresholds were to be compared.
        drift: as `DriftTest.table` returns it; None if validation has too few bars for a test.
        evidence: what a report shows beside scores, if there is to be one.
        decisions: those about the events of the run that were given.
        beside: facts of a second verdict whose events stand after these, if there is one.
    """

    detector: Detector
    scores: pl.LazyFrame
    events: pl.DataFrame
    findings: pl.DataFrame
    facts: dict[str, Any]
    thresholds: dict[str, dict[str, float]]
    drift: pl.DataFrame | None
    evidence: "Evidence | None"
    decisions: Decisions | None = None
    beside: dict[str, Any] | None = None


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
        place = None if self.folder is None else self.folder / BARS
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
        bars = self.read_bars(self.source)
        compared = self._comparison(bars.rows) if thresholds else None
        findings, faulty, drift = [bars.findings], bars.faulty, build_drift_test(self.cfg, self.detector)
        watch = sample and sample.of_piece(HERE, bars.rows)
        with self.progress(bars.rows, "bars scored") as count:
            frames = scan(
                self.detector, bars, progress=count, findings=findings.append, faulty=faulty, watch=watch, drift=drift
            )
            return self._collect(frames, drift, compared, HERE, lambda: merge(findings), faulty, sample, bars)

    def _score_own(self, sample: "Sample | None", thresholds: bool) -> Scoring:
        """Score the validation and test parts of the data that the run was trained on."""
        data = self.own_data
        bars = self._needed(read_sorted([data.source.load()], self.detector.recipe.checks))
        parts = {part: data.segments(part) for part in ("val", "test")}
        compared = self._comparison(int(parts["test"][:, 1].sum())) if thresholds else None
        watch = sample and (lambda part, made: sample.of_part("validation" if part == "val" else part, made))
        faulty, drift = FaultyRuns(), build_drift_test(self.cfg, self.detector)
        with self.progress(sum(int(runs[:, 1].sum()) for runs in parts.values()), "bars scored") as count:
            frames = scan_parts(self.detector, bars.slice(0, bars.rows), parts, count, watch, faulty, drift)
            return self._collect(frames, drift, compared, "test", lambda: data.findings, faulty, sample, None)

    def _comparison(self, rows: int) -> AlarmRates | None:
        """Fit all thresholds to the detector's validation scores."""
        if "asset" not in self.detector.validation:
            log.warning("the run's detector kept no validation scores in order: no other thresholds")
            return None
        thresholds = {name: build_threshold(choice) for name, choice in all_thresholds(self.cfg, CONF).items()}
        return AlarmRates(thresholds, self.detector.validation, rows)

    def _collect(
        self,
        frames: Iterable[pl.DataFrame],
        drift: DriftTest | None,
        compared: AlarmRates | None,
        name: str,
        findings: Callable[[], pl.DataFrame],
        faulty: FaultyRuns,
        sample: "Sample | None",
        bars: OrderedBars | None,
    ) -> Scoring:
        """Gather scored bars, their events and what is said about them.

        Args:
            frames: scored bars, as `scan` and `scan_parts` yield them.
            drift: gets the scored bars as they are made.
            compared: gets the rows that are not of validation; `name` is theirs.
            name: "test" of a run's own parts, else HERE.
            findings: what the checks found, asked when all bars are scored.
            faulty: runs of faulty bars, complete when all bars are scored.
            sample: what saw the windows.
            bars: of a source.
        """
        spool, events, unscored = TableSpool(self.folder and self.folder / SCORES), Events(), Counter[str]()
        hidden = ("place",) if self.folder is None else ("place", "kind", "guess")
        labelled = LabelledTable()
        like = None
        if self.decisions is not None:
            frames = self.decisions.dismiss(frames, self.detector.score_function.question)
        for table in frames:
            like = table.drop(hidden)
            spool.add(like)
            unscored.update(dict(table["reason"].drop_nulls().value_counts().iter_rows()))
            if LABEL in table.columns:
                labelled.add(table, table["part"][0] if "part" in table.columns else name)
            events.add(table)
            if compared and (name == HERE or table["part"][0] == name):
                compared.add(table)
        if bars is not None and like is not None:
            for rows in bars.nameless.frames():
                spool.add(without_verdict(rows, like))
                unscored["missing_timestamp"] += rows.height
        scores = spool.table()
        scored, moments, span = covered(scores)
        if not scored:
            why = ", ".join(f"{count:,} {reason}" for reason, count in unscored.most_common())
            raise DataError(f"no bar could be scored: no unbroken run of bars is as long as a window ({why})")
        found, counted = with_periods(events.table(), self.detector.validation), findings()
        per_check = counted.group_by("check", maintain_order=True).agg(pl.col("bars").sum())
        facts = {
            "bars": spool.rows,
            "scored_bars": scored,
            "flagged_bars": events.flagged,
            "alarms": found.height,
            **count_rates(found.height, events.flagged, scored, moments, covered_days(scores), span).named(),
            "kinds": dict(sorted(found["kind"].value_counts().iter_rows())),
            "without_score": dict(unscored.most_common()),
            "found_by_checks": dict(per_check.iter_rows()),
        }
        if self.decisions is not None:
            facts |= {"decisions": self.decisions.counted(), "dismissed_bars": self.decisions.dismissed_bars}
        everything = with_findings(found, faulty.table())
        own = pl.when(found_by=MODEL).then(pl.lit(self.detector.score_function.question))
        everything = everything.with_columns(own.alias("verdict"))
        moved = drift and drift.table(scores.collect_schema()["timestamp"])
        facts |= {} if moved is None else {"drift": count_states(moved)}
        if labelled:
            facts["detection"] = labelled.measure()
            everything = everything.with_columns(labelled.count_in(everything))
        rates = {}
        if compared:
            others = scores if name == HERE else scores.filter(part=name)
            _, moments, span = covered(others)
            rates = compared.rates(moments, covered_days(others), span, name)
        shown = None
        if sample is not None:
            from refold.report.evidence import gather

            shown = gather(sample, bars, scores)
        return Scoring(self.detector, scores, everything, counted, facts, rates, moved, shown, self.decisions)

    def reconstruct(self) -> pl.DataFrame:
        """Reconstruct each bar of a table in memory; see `Run.reconstruct`."""
        assert self.source is not None
        bars = self.read_bars(self.source)
        made = [f"{RECONSTRUCTION}{name}" for name in self.detector.features]
        table = pl.concat(scan(self.detector, bars, features=True))
        table = pl.concat([table, *(with_columns_of(rows, table) for rows in bars.nameless.frames())])
        close = ["reconstructed_close"] if "reconstructed_close" in table.columns else []
        return table.select("timestamp", "asset", *made, *close).rename(lambda name: name.removeprefix(RECONSTRUCTION))

    def encode(self) -> TableSpool:
        """Encode each window of the bars; of the run's own data, the windows of all parts.

        Returns:
            A row per window: timestamp and asset of its last bar, z_0, z_1, ...

        Raises:
            DataError: the bars cannot be read or judged, or there is no window.
        """
        bars = self.read_bars(self.source or build_source(self.cfg))
        spool = TableSpool(self.folder and self.folder / LATENTS)
        with self.progress(bars.rows, "bars encoded") as count:
            for table in scan_latents(self.detector, bars, progress=count):
                spool.add(table)
        if not spool.rows:
            raise DataError("no window could be encoded: no unbroken run of bars is as long as a window")
        if self.folder is not None:
            shutil.rmtree(self.folder / BARS)
        return spool


def _let_label_lack(source: Source | None) -> None:
    """Let a table lack the column of labels that the run was trained with."""
    table = getattr(source, "table", None)
    if isinstance(table, Table):
        setattr(source, "table", table.with_optional_label())  # noqa: B010  a source need not have one
