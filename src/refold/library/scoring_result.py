"""The result of a scoring: scores, events, and what is counted of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from refold.data.bars.findings import merge
from refold.data.bars.table import LABEL
from refold.data.long.ordered import OrderedBars
from refold.data.long.spool import PartedTable, TableSpool
from refold.errors import DataError
from refold.library.decisions import Decisions
from refold.library.tally import HERE, Tally
from refold.scoring.alarms import covered, covered_days
from refold.scoring.detector import Detector
from refold.scoring.drift import count_states
from refold.scoring.events import MODEL, with_findings
from refold.scoring.labelled import LabelledTable
from refold.scoring.rarity import with_periods
from refold.scoring.scan import without_verdict
from refold.scoring.scored import count_rates

if TYPE_CHECKING:
    from refold.report.evidence import Evidence

REFUSED = "refused"
"""Reason of the bars of an asset that a worker of Ray could not score."""


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


def gather_scoring(
    detector: Detector,
    tally: Tally,
    spool: TableSpool | PartedTable,
    name: str,
    bars: OrderedBars | None = None,
    refused: Mapping[str, str] | None = None,
) -> Scoring:
    """Gather scored bars, their events and what is said about them.

    Args:
        detector: which scored.
        tally: of all bars.
        spool: the scored bars.
        name: "test" of a run's own parts, else HERE.
        bars: of a source.
        refused: name of each asset that has no scores -> why.

    Raises:
        DataError: no bar has a score.
    """
    labelled = _labelled(spool, name)
    if bars is not None:
        _add_unscored(spool, bars, refused or {}, tally)
    scores = spool.table()
    scored, moments, span = covered(scores)
    if not scored:
        why = ", ".join(f"{count:,} {reason}" for reason, count in tally.unscored.most_common())
        raise DataError(f"no bar could be scored: no unbroken run of bars is as long as a window ({why})")
    found, counted = with_periods(tally.events.table(), detector.validation), merge(tally.findings)
    per_check = counted.group_by("check", maintain_order=True).agg(pl.col("bars").sum())
    facts = {
        "bars": spool.rows,
        "scored_bars": scored,
        "flagged_bars": tally.events.flagged,
        "alarms": found.height,
        **count_rates(found.height, tally.events.flagged, scored, moments, covered_days(scores), span).named(),
        "kinds": dict(sorted(found["kind"].value_counts().iter_rows())),
        "without_score": dict(tally.unscored.most_common()),
        "found_by_checks": dict(per_check.iter_rows()),
    }
    if refused:
        facts["refused_assets"] = dict(refused)
    if tally.decisions is not None:
        facts |= {"decisions": tally.decisions.counted(), "dismissed_bars": tally.dismissed}
    everything = with_findings(found, tally.faulty.table())
    own = pl.when(found_by=MODEL).then(pl.lit(detector.score_function.question))
    everything = everything.with_columns(own.alias("verdict"))
    moved = None
    if tally.drift is not None:
        tally.drift.finish()
        moved = tally.drift.table(scores.collect_schema()["timestamp"])
        facts["drift"] = count_states(moved)
    if labelled:
        facts["detection"] = labelled.measure()
        everything = everything.with_columns(labelled.count_in(everything))
    rates = {}
    if tally.compared:
        others = scores if name == HERE else scores.filter(part=name)
        _, moments, span = covered(others)
        rates = tally.compared.rates(moments, covered_days(others), span, name)
    shown = None
    if tally.sample is not None:
        from refold.report.evidence import gather

        shown = gather(detector, tally.sample, bars, scores)
    return Scoring(detector, scores, everything, counted, facts, rates, moved, shown, tally.decisions)


def _labelled(spool: TableSpool | PartedTable, name: str) -> LabelledTable:
    """Collect the labelled rows of scored bars; none if the bars have no labels."""
    labelled = LabelledTable()
    for table in spool.frames():
        if LABEL not in table.columns:
            break
        labelled.add(table, table["part"][0] if "part" in table.columns else name)
    return labelled


def _add_unscored(spool: TableSpool | PartedTable, bars: OrderedBars, refused: Mapping[str, str], tally: Tally) -> None:
    """Add the rows that nothing was said about: those of refused assets, then those without a date or an asset.

    Args:
        spool: the scored bars, at least one piece.
        bars: all of the table.
        refused: name of each asset that has no scores -> why.
        tally: counts the rows.
    """
    if not refused and not bars.nameless.rows:
        return
    like = next(spool.frames()).clear()
    for asset in refused:
        number = list(bars.assets).index(asset)
        rows = bars.slice(int(bars.starts[number]), int(bars.starts[number + 1]))
        rows = rows.with_columns(pl.col("asset").cast(pl.String))
        spool.add(without_verdict(rows, like, REFUSED))
        tally.unscored[REFUSED] += rows.height
    for rows in bars.nameless.frames():
        spool.add(without_verdict(rows, like, "missing_timestamp"))
        tally.unscored["missing_timestamp"] += rows.height
