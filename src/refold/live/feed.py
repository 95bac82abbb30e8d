"""A live detector at work: it judges what comes, counts, saves its state, and says what it did."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refold.live.live_detector import LiveDetector
from refold.live.verdict import MALFORMED, Verdict


class Feed:
    """Judge the bars of a feed, and keep the state on disk.

    Args:
        live: the detector.
        state: file that the state is saved to; None saves none.
        every: bars between two saves.

    Attributes:
        bars: number that have come.
        flagged: number of them that were flagged.
        refused: reason -> number of bars that left no trace.
    """

    def __init__(self, live: LiveDetector, state: Path | None, every: int) -> None:
        self.live = live
        self.state = state
        self.every = every
        self.bars = 0
        self.flagged = 0
        self.refused: Counter[str] = Counter()
        self._began = time.monotonic()
        self._saved = 0

    def judge(self, bars: Sequence[Any]) -> list[Verdict]:
        """Judge bars that have come together.

        Args:
            bars: mappings, or a sentence for each that could not be read as one.

        Returns:
            A verdict per bar.
        """
        verdicts = self.live.push_many(list(bars))
        for number, bar in enumerate(bars):
            if isinstance(bar, str):
                verdicts[number] = verdicts[number]._replace(reason=MALFORMED, note=bar)
        self.bars += len(verdicts)
        self.flagged += sum(verdict.flagged for verdict in verdicts)
        self.refused.update(str(verdict.reason) for verdict in verdicts if not verdict.accepted)
        return verdicts

    def save(self, *, due: int = 1) -> bool:
        """Save the state, if there is a file for it and enough bars have come since it was saved.

        Args:
            due: bars that must have come.

        Returns:
            Whether it was saved.
        """
        if self.state is None or self.bars - self._saved < due:
            return False
        self.live.save(self.state)
        self._saved = self.bars
        return True

    def summary(self) -> str:
        """Say in a line what came, what was flagged and refused, and how fast."""
        refused = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.refused.items()))
        drift = self.live.drift and self.live.drift.pooled
        return (
            f"{self.bars:,} bars of {len(self.live.assets):,} assets, {self.flagged:,} flagged, "
            f"{sum(self.refused.values()):,} refused{f' ({refused})' if refused else ''}, "
            f"in {time.monotonic() - self._began:.1f} s{f'; drift: {drift}' if drift else ''}"
            f"{f'; state in {self.state}' if self.state else ''}"
        )
