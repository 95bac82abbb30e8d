"""Collect events and counts of scored bars, piece by piece, and add up those of different assets."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from refold.data.bars.findings import FaultyRuns
from refold.data.long.ordered import OrderedBars
from refold.library.decisions import Decisions
from refold.scoring.alarms import AlarmRates
from refold.scoring.detector import Detector
from refold.scoring.drift import DriftTest
from refold.scoring.events import Events
from refold.scoring.scan import scan

if TYPE_CHECKING:
    from refold.report.evidence import Sample

HERE = "these bars"
"""Name of the bars of a table, where a run's own parts are called validation and test."""


class Counted(NamedTuple):
    """Hold what a tally has collected of some whole assets, small enough to be sent to another process.

    Attributes:
        events: of the model.
        flagged: number of flagged bars.
        unscored: reason -> bars without a score.
        dismissed: flagged bars that a reader's decisions do not raise again.
        findings: what the checks found, piece by piece.
        faulty: runs of faulty bars.
        alarms: threshold -> alarms and bars; None if no thresholds are compared.
        drift: of these assets, not finished.
        sample: windows for a report.
    """

    events: pl.DataFrame
    flagged: int
    unscored: Counter[str]
    dismissed: int
    findings: list[pl.DataFrame]
    faulty: FaultyRuns
    alarms: dict[str, tuple[int, int]] | None
    drift: DriftTest | None
    sample: "Sample | None"


class Tally:
    """Collect events, reasons, findings, alarms, drift and a report's windows of bars while they are scored.

    Args:
        rows: number of all bars.
        compared: counts the alarms of several thresholds, if they are to be compared.
        drift: gets the bars, if there is a test.
        sample: collects windows, if there is to be a report.
        decisions: flagged bars that they dismiss are not raised again.
        findings: what the checks found before.
        faulty: runs of faulty bars that they found before.
    """

    def __init__(
        self,
        rows: int,
        *,
        compared: AlarmRates | None,
        drift: DriftTest | None,
        sample: "Sample | None",
        decisions: Decisions | None,
        findings: Iterable[pl.DataFrame] = (),
        faulty: FaultyRuns | None = None,
    ) -> None:
        self.rows = rows
        self.compared = compared
        self.drift = drift
        self.sample = sample
        self.decisions = decisions
        self.findings = list(findings)
        self.faulty = faulty or FaultyRuns()
        self.events, self.unscored, self.dismissed = Events(), Counter[str](), 0

    def of_assets(self, names: Iterable[str]) -> "Tally":
        """Return an empty tally of some assets, whose `counted` can be merged with this one."""
        return Tally(
            self.rows,
            compared=self.compared and self.compared.anew(),
            drift=self.drift and self.drift.of_assets(names),
            sample=self.sample and self.sample.anew(),
            decisions=self.decisions,
        )

    def scan(
        self, detector: Detector, bars: OrderedBars, piece: int, progress: Callable[[int], None] = lambda rows: None
    ) -> Iterator[pl.DataFrame]:
        """Score bars, and yield them piece by piece as `refold.scoring.scan.scan` does.

        Args:
            detector: fitted.
            bars: some whole assets.
            piece: rows at a time.
            progress: gets the number of rows that are done.
        """
        watch = self.sample and self.sample.of_piece(HERE, self.rows)
        frames = scan(
            detector,
            bars,
            piece=piece,
            progress=progress,
            findings=self.findings.append,
            faulty=self.faulty,
            watch=watch,
            drift=self.drift,
        )
        yield from self.count(detector, frames)

    def count(
        self, detector: Detector, frames: Iterable[pl.DataFrame], compared_part: str | None = None
    ) -> Iterator[pl.DataFrame]:
        """Count scored bars, and yield them; decisions have taken away the verdict of some.

        Args:
            detector: which scored.
            frames: in order, with the column place.
            compared_part: the part whose alarms are compared; None: the bars are of no parts.
        """
        if self.decisions is not None:
            frames = self.decisions.dismiss(frames, detector.score_function.question)
        for table in frames:
            self.unscored.update(dict(table["reason"].drop_nulls().value_counts().iter_rows()))
            self.events.add(table)
            if self.compared and (compared_part is None or table["part"][0] == compared_part):
                self.compared.add(table)
            yield table
        if self.decisions is not None:
            self.dismissed = self.decisions.dismissed_bars

    def counted(self) -> Counted:
        """Return what was collected of at least one piece."""
        return Counted(
            self.events.table(),
            self.events.flagged,
            self.unscored,
            self.dismissed,
            self.findings,
            self.faulty,
            self.compared and self.compared.counted(),
            self.drift,
            self.sample,
        )

    def merge(self, other: Counted) -> None:
        """Add what another tally collected of the assets that come next."""
        self.events.merge(other.flagged, other.events)
        self.unscored.update(other.unscored)
        self.dismissed += other.dismissed
        self.findings += other.findings
        self.faulty.merge(other.faulty)
        if self.compared is not None and other.alarms is not None:
            self.compared.merge(other.alarms)
        if self.drift is not None and other.drift is not None:
            self.drift.merge(other.drift)
        if self.sample is not None and other.sample is not None:
            self.sample.merge(other.sample)
