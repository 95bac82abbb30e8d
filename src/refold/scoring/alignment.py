"""Reduce values of windows to values of bars: a bar is in up to T windows, and gets one value.

    bars of the series      0    1    2    3    4    5
    window 0  (T = 3)      [a0   a1   a2]
    window 1                    [b0   b1   b2]
    window 2                         [c0   c1   c2]
    window 3                              [d0   d1   d2]
                            |    |    |    |    |    |
    bar 3 is in windows 1, 2, 3, at their places 2, 1, 0: its values are b2, c1, d0

    mean, median, max       over those values; the windows reach up to T - 1 bars beyond the bar
    last                    b2, of the window that ends at the bar: nothing after the bar counts

Under `last`, the first T - 1 bars of a run end no window of T bars. Each ends a window of the bars that there are,
which is read as a window with a mask (`partial_windows`), also where the run ends before T bars: what comes later must
not decide which bars count. A bar is never reported at another bar's place, and an absent bar has no value (NaN).

Letters: T bars in a window, R rows of a series, S runs, B rows in a block, C values of a bar.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

Alignment = Literal["mean", "median", "max", "last"]
ALIGNMENTS: tuple[Alignment, ...] = get_args(Alignment)


class RowBlock(NamedTuple):
    """Rows of a series that are aligned next. Each may be the first row of a window.

    Attributes:
        rows: (B,) numbers of the rows.
        begins: (B,) bool, True where a window of T bars begins.
        window: number of the first window that begins here.
    """

    rows: np.ndarray
    begins: np.ndarray
    window: int


def row_blocks(segments: np.ndarray, window_size: int, size: int) -> Iterator[RowBlock]:
    """Cut the rows of all runs that are as long as a window into blocks, in order.

    A block may go on from one run to the next.

    Args:
        segments: (S, 2) first row and number of rows of each run.
        window_size: T.
        size: rows of a block, at least 1.
    """
    runs = segments[segments[:, 1] >= window_size]
    ends = np.cumsum(runs[:, 1])
    total = int(ends[-1]) if len(ends) else 0
    window = 0
    for start in range(0, total, size):
        number = np.arange(start, min(start + size, total))
        run = np.searchsorted(ends, number, side="right")
        place = number - (ends - runs[:, 1])[run]
        begins = place + window_size <= runs[run, 1]
        yield RowBlock(runs[run, 0] + place, begins, window)
        window += int(begins.sum())


class Aligner:
    """Turn values of windows into values of bars, block by block; between blocks it keeps the last T - 1 windows.

    Args:
        alignment: see above.
        window_size: T.
        newest: under `last` take the window that begins at the bar, not the one that ends there: of predictions, whose
            windows hold the bars that were predicted together, it is the one that was made last.
    """

    def __init__(self, alignment: Alignment, window_size: int, *, newest: bool = False) -> None:
        self.alignment: Alignment = alignment
        self.window_size = window_size
        self.newest = newest
        self.kept: Tensor | None = None

    def align(self, values: Tensor, block: RowBlock) -> Tensor:
        """Align the next block.

        Args:
            values: (n, T, C) of the n windows that begin in the block, in order, NaN at absent bars.
            block: B rows, which follow those of the block before.

        Returns:
            (B, C), one row for each row of the block; NaN where it is in no window, or under `last` ends none.
        """
        T, C = self.window_size, values.shape[2]
        # one slot for each row, empty where no window begins: the last T - 1 rows of a run, so that runs stay apart
        slots = values
        if not block.begins.all():
            slots = values.new_full((len(block.rows), T, C), torch.nan)
            slots[torch.from_numpy(block.begins).to(values.device)] = values
        before = values.new_full((T - 1, T, C), torch.nan) if self.kept is None else self.kept
        windows = torch.cat([before, slots])
        self.kept = windows[len(windows) - (T - 1) :].clone()
        # row r of the block is at place T - 1 of windows[r], T - 2 of windows[r + 1], ... 0 of windows[r + T - 1]
        diagonals = windows.as_strided((len(slots), T, C), (T * C, T * C - C, 1), (T - 1) * C)
        return _reduce(diagonals.flip(1) if self.newest else diagonals, self.alignment)


def _reduce(diagonals: Tensor, alignment: Alignment) -> Tensor:
    """Reduce the values (B, T, C) of each bar, from the oldest window to the newest, to (B, C)."""
    if alignment == "last":
        return diagonals[:, 0].clone()
    if alignment == "mean":
        return diagonals.nanmean(dim=1)
    if alignment == "median":
        return torch.nanquantile(diagonals, 0.5, dim=1)
    highest = diagonals.nan_to_num(nan=-torch.inf).amax(dim=1)
    return highest.masked_fill(highest == -torch.inf, torch.nan)


def partial_windows(segments: np.ndarray, window_size: int) -> tuple[np.ndarray, np.ndarray]:
    """List the windows that hold only the first bars of a run, as `last` needs them.

    Args:
        segments: (S, 2) first row and number of rows of each run.
        window_size: T.

    Returns:
        (n,) first rows and (n,) numbers of bars, from 1 to T - 1 or to the end of a shorter run, for each run.
    """
    counts = np.minimum(segments[:, 1], window_size - 1)
    first = np.repeat(segments[:, 0], counts)
    return first, np.arange(1, len(first) + 1) - np.repeat(np.cumsum(counts) - counts, counts)
