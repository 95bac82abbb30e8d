"""The moves of all assets at nearby moments: which asset had a bar, and how many jumped.

The twin of `refold.data.bars.market.survey` and `refold.data.bars.expected.with_expected` for bars that come singly.
Letters: M moments that are kept, K kinds of assets.
"""

import numpy as np
import polars as pl

from refold.data.bars.expected import PEERS, Timetables
from refold.live.clock import Clock

KEPT = 8192
"""Moments that are kept, M."""

MOVE = 0.1
"""Log ratio to the last close from which on an asset counts among those that moved, as in data.bars.market."""


class Peers:
    """Count the bars at each of the last moments.

    Args:
        timetables: of the run's assets.

    Attributes:
        times: (M,) int64, sorted; the first `used` count.
        counts: (M, 3 + K) int64: assets with a bar, those that jumped up, down, and those of each kind with a bar.
        used: moments that are known.
    """

    def __init__(self, timetables: Timetables) -> None:
        self.timetables = timetables
        self.kinds = 1 + max(timetables.apart.values(), default=-1)
        self.times = np.zeros(KEPT, dtype=np.int64)
        self.counts = np.zeros((KEPT, 3 + self.kinds), dtype=np.int64)
        self.used = 0

    def column(self, asset: str) -> int:
        """Return the column of `counts` that holds the bars of an asset's peers, as `expected.peers_column` does."""
        timetable = self.timetables.find(asset)
        kind = -1 if timetable is None else self.timetables.kinds.index(timetable)
        return 3 + kind if 0 <= kind < self.kinds else 0

    def find(self, time: int) -> int:
        """Return the row of a moment, a new one if it is not known."""
        row = self.used if self.used and time > self.times[self.used - 1] else self._search(time)
        if row < self.used and self.times[row] == time:
            return row
        if self.used == KEPT:
            half = KEPT // 2
            self.times[:half], self.counts[:half] = self.times[half:], self.counts[half:]
            self.counts[half:] = 0
            self.used, row = half, max(0, row - half)
        self.times[row + 1 : self.used + 1] = self.times[row : self.used].copy()
        self.counts[row + 1 : self.used + 1] = self.counts[row : self.used].copy()
        self.times[row], self.counts[row] = time, 0
        self.used += 1
        return row

    def _search(self, time: int) -> int:
        return int(self.times[: self.used].searchsorted(time))

    def add(self, time: int, jump: np.ndarray, known: np.ndarray, kinds: np.ndarray, sign: int = 1) -> int:
        """Count bars of one moment, and return its row.

        Args:
            time: of the bars.
            jump: (n,) log ratios to the last close.
            known: (n,) bool, whether there is one.
            kinds: (n,) number of each asset's kind, -1 for none.
            sign: -1 takes the bars out again.
        """
        row = self.find(time)
        counts = self.counts[row]
        counts[0] += sign * len(jump)
        counts[1] += sign * int((~(jump < MOVE) & known).sum())  # NaN counts as large, as in a table
        counts[2] += sign * int(((jump <= -MOVE) & known).sum())
        if self.kinds:
            counts[3:] += sign * np.bincount(kinds[kinds >= 0], minlength=self.kinds)
        return row

    def loud(self, row: int) -> tuple[bool, bool]:
        """Tell whether more than half of the other assets jump up, and down, at a moment."""
        assets, up, down = self.counts[row, :3].tolist()
        return 2 * (up - 1) > assets - 1, 2 * (down - 1) > assets - 1

    def between(self, first: int, last: int, column: int) -> np.ndarray:
        """Return the moments after `first` and before `last` at which a peer has a bar; of the kept ones alone."""
        low, high = int(self.times[: self.used].searchsorted(first, side="right")), self._search(last)
        return self.times[low:high][self.counts[low:high, column] > 0]

    def any_between(self, first: np.ndarray, last: int) -> np.ndarray:
        """Tell for (n,) times whether any moment lies after them and before `last`, (n,) bool."""
        times = self.times[: self.used]
        return times.searchsorted(first, side="right") < int(times.searchsorted(last))

    def known(self, times: np.ndarray) -> np.ndarray:
        """Tell which of some times are moments that are known, (n,) bool."""
        row = self.times[: self.used].searchsorted(times)
        return (row < self.used) & (self.times[np.minimum(row, self.used - 1)] == times)

    def table(self, clock: Clock) -> pl.DataFrame:
        """Return the kept moments as `refold.data.bars.market.survey` returns them."""
        counts = self.counts[: self.used]
        parts = {name: counts[:, n] for n, name in enumerate(("assets", "up", "down"))}
        parts |= {f"{PEERS}{n}": counts[:, 3 + n] for n in range(self.kinds)}
        return pl.DataFrame({"timestamp": clock.series(self.times[: self.used]), **parts})
