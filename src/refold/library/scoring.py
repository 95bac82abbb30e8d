"""From a table of bars to verdicts: `refold score` and `Run.score` both end here."""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl
from omegaconf import DictConfig

from refold.config.build import build_checks, build_data, build_detector, build_source, build_table
from refold.config.change import choose_anew
from refold.config.compose import CONF
from refold.data.bars.findings import merge
from refold.data.long.ordered import OrderedBars, read_sorted
from refold.data.long.spool import TableSpool
from refold.data.sources.base import Source, batches_of
from refold.errors import DataError
from refold.library.frames import FrameSource, is_frame, to_polars
from refold.scoring.alarms import covered
from refold.scoring.detector import Detector, per_asset_year
from refold.scoring.events import CONTRIBUTION, OTHER, Events, blame
from refold.scoring.scan import refuse_unlike, scan, scan_parts

if TYPE_CHECKING:
    from refold.library.run import Run

log = logging.getLogger("refold.score")

SCORES = "scores.parquet"
HERE = "these bars"
"""Name of the bars of a table, where a run's own parts are called validation and test."""

Progress = Callable[[int | None, str], AbstractContextManager[Callable[[int], None]]]
"""How many rows there will be, None if that is not known, and what is done with them -> where to count them."""


def no_progress(total: int | None, what: str) -> AbstractContextManager[Callable[[int], None]]:
    """Show no progress. See `Progress` for the arguments."""
    return nullcontext(lambda rows: None)


class Scoring(NamedTuple):
    """What a scoring found.

    Attributes:
        detector: what judged.
        scores: a row per bar, as `refold.scoring.scan.frame` makes them; without kind if they were written to a folder.
        events: runs of flagged bars.
        findings: what the checks of the data found.
        facts: counts of bars and events, and alarms per asset and year.
    """

    detector: Detector
    scores: pl.LazyFrame
    events: pl.DataFrame
    findings: pl.DataFrame
    facts: dict[str, Any]


class Asked(NamedTuple):
    """What is to be scored, and by what.

    Attributes:
        run: whose model scores.
        bars: a table, the path of one, or None: what the settings name, or the run's own validation and test parts.
        settings: key -> value, of what is chosen anew.
    """

    run: "Run"
    bars: Any
    settings: Mapping[str, Any]


def judge(asked: Asked, *, folder: Path | None = None, progress: Progress = no_progress) -> Scoring:
    """Score bars with a run.

    Args:
        asked: what is to be scored, and by what.
        folder: to keep tables in that may be longer than memory; None: memory.
        progress: shows how far it is.

    Returns:
        What was found.

    Raises:
        ConfigError: a setting is wrong.
        DataError: the bars cannot be read, or the run's model cannot judge them.
    """
    run, settings = asked.run, dict(asked.settings)
    if asked.bars is not None:  # a table in memory is read like a file
        settings["data.path"] = "frame.parquet" if is_frame(asked.bars) else str(asked.bars)
    cfg = choose_anew(run.config, {key: str(value) for key, value in settings.items()}, CONF)
    detector = find_detector(run, cfg, settings).checking(build_checks(cfg))
    if is_frame(asked.bars):
        source = FrameSource(to_polars(asked.bars), build_table(cfg))
    elif any(key.startswith("data.") for key in settings):
        source = build_source(cfg)
    else:
        return _judge_own(run, detector, folder, progress)
    return _judge_source(detector, source, folder, progress)


def find_detector(run: "Run", cfg: DictConfig, settings: Mapping[str, Any]) -> Detector:
    """Return the run's detector, or one that is fitted to the run's own data where its parts are chosen anew."""
    anew = any(key.partition(".")[0] in ("score", "threshold", "alignment") for key in settings)
    if run.detector is not None and not anew:
        return run.detector
    data = own_data(run)
    detector = build_detector(cfg, run.autoencoder, data.recipe, run.scaler, data.feature_names)
    series = data.train_windows.series
    return detector.fit_series((series, data.segments("train")), (series, data.segments("val")))


def own_data(run: "Run") -> Any:
    """Load the data that a run was trained on, on the run's own scale."""
    data = build_data(run.config)
    data.scaler = run.scaler
    data.setup()
    trained_on = run.result.get("data_fingerprint", data.fingerprint)
    if data.fingerprint != trained_on:
        log.warning("the run's data has changed since it was trained (%s, now %s)", trained_on, data.fingerprint)
    return data


def _judge_source(detector: Detector, source: Source, folder: Path | None, progress: Progress) -> Scoring:
    bars = read_in_order(detector, source, folder, progress)
    findings = [bars.findings]
    with progress(bars.rows, "bars scored") as count:
        frames = scan(detector, bars, progress=count, findings=findings.append)
        scores, events, facts = collect(frames, folder)
    return Scoring(detector, scores, events, merge(findings), facts)


def read_in_order(detector: Detector, source: Source, folder: Path | None, progress: Progress) -> OrderedBars:
    """Read all bars of a source, sorted by asset, then time.

    Args:
        detector: which will judge them.
        source: of bars.
        folder: to keep them in, below it; None: memory.
        progress: shows how far it is.

    Raises:
        DataError: the bars cannot be read, or the run's model cannot judge them.
    """
    place = None if folder is None else folder / "bars"
    if place is not None:
        place.mkdir()
    with progress(None, "bars read") as count:
        bars = read_sorted(batches_of(source), detector.recipe.checks, place, count)
    refuse_unlike(detector, bars, str(source))
    return bars


def _judge_own(run: "Run", detector: Detector, folder: Path | None, progress: Progress) -> Scoring:
    """Score the validation and test parts of the data that the run was trained on."""
    data = own_data(run)
    bars = read_sorted([data.source.load()], detector.recipe.checks)
    parts = {part: data.segments(part) for part in ("val", "test")}
    total = sum(int(runs[:, 1].sum()) for runs in parts.values())
    with progress(total, "bars scored") as count:
        frames = scan_parts(detector, bars.slice(0, bars.rows), parts, count)
        scores, events, facts = collect(frames, folder)
    return Scoring(detector, scores, events, data.findings, facts)


def collect(frames: Iterable[pl.DataFrame], folder: Path | None) -> tuple[pl.LazyFrame, pl.DataFrame, dict[str, Any]]:
    """Gather scored bars and their events.

    Args:
        frames: scored bars, as `scan` and `scan_parts` yield them.
        folder: to write them in; None: memory.

    Returns:
        The scores; the events; counts, and alarms per asset and year.

    Raises:
        DataError: no bar has a score.
    """
    spool, events = TableSpool(folder and folder / SCORES), Events()
    for table in frames:
        spool.add(table.drop("place") if folder is None else table.drop("place", "kind"))
        events.add(table)
    scores = spool.table()
    scored, moments, span = covered(scores)
    if not scored:
        raise DataError("no bar could be scored: no unbroken run of bars is as long as a window")
    found = events.table()
    return (
        scores,
        found,
        {
            "bars": spool.rows,
            "scored_bars": scored,
            "flagged_bars": events.flagged,
            "alarms": found.height,
            "alarms_per_asset_year": per_asset_year(found.height, scored, moments, span),
            "kinds": dict(sorted(found["kind"].value_counts().iter_rows())),
        },
    )


def verdicts(scoring: Scoring) -> pl.DataFrame:
    """Return a row per bar with what a reader asks of it; see `Run.score`.

    Args:
        scoring: in memory.
    """
    table = scoring.scores.collect()
    shares = [name for name in table.columns if name.startswith(CONTRIBUTION)]
    features = [name.removeprefix(CONTRIBUTION) for name in shares]
    flagged = table["verdict"].to_list()
    blamed = iter(table.filter("verdict").select(shares).to_numpy()) if shares else iter(())
    to_blame = [";".join(blame(next(blamed), features)) if flag and shares else None for flag in flagged]
    return table.select(
        "timestamp",
        "asset",
        "score",
        pl.col("threshold").alias("level"),
        pl.col("verdict").alias("flagged"),
        pl.when("verdict").then(pl.col("kind").fill_null(OTHER)).alias("kind"),
        pl.Series("to_blame", to_blame, dtype=pl.String),
        *(["reconstructed_close"] if "reconstructed_close" in table.columns else []),
        *(["part"] if "part" in table.columns else []),
    )
