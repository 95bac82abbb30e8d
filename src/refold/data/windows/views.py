"""Windows as numbers: the series is stored once, and a batch of windows is one gather.

Letters: N bars of all assets one after another, B windows in a batch, T bars in a window, F features, S segments.
"""

import mmap
from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

LARGE_FILE = 1 << 30
"""Bytes from which on a mapped file is not left to be resident as a whole."""


class Batch(NamedTuple):
    """What the loader yields.

    windows: (B, T, F) float32, scaled; T may differ between training batches. mask: (B, T) bool, True where a bar is
    present; None if all are.
    index: (B,) int64 window numbers. weight: this process's share of the batch, local_count * processes / global_count
    of present bars, so that the mean over processes of weight * local mean is the mean over the global batch.
    """

    windows: Tensor
    mask: Tensor | None
    index: Tensor
    weight: float


@dataclass(frozen=True)
class Series:
    """All bars of all assets, asset after asset, each in order of time.

    values: (N, F) float32, scaled, contiguous; 0 where a bar is absent. present: (N,) bool, or None if all bars are.
    times: (N,) int64, in the units of time_dtype (days of pl.Date, or those of a pl.Datetime). close: (N,) float32
    closing prices, None if there are none. asset_names, asset_starts: the assets and their first rows.
    relative: columns whose value at a window's first present bar is taken off all of the window. pages: what the
    arrays are mapped from, if they are files.
    """

    values: Tensor
    present: Tensor | None
    times: np.ndarray
    time_dtype: pl.DataType
    close: Tensor | None
    asset_names: tuple[str, ...]
    asset_starts: np.ndarray
    relative: tuple[int, ...] = ()
    pages: tuple[mmap.mmap, ...] = ()

    def let_pages_go(self) -> None:
        """Hand pages of large mapped files back; what is touched again is mapped again, for a millisecond a batch.

        The system maps up to 2 MiB around each place that is touched and takes them back only when memory is short: a
        few random batches would have all of the file resident.
        """
        for pages in self.pages:
            if len(pages) > LARGE_FILE:
                pages.madvise(mmap.MADV_DONTNEED)

    def assets(self, rows: np.ndarray) -> list[str]:
        """The asset of each row."""
        codes = np.searchsorted(self.asset_starts, rows, side="right") - 1
        return [self.asset_names[code] for code in codes]

    def timestamps(self, rows: np.ndarray) -> np.ndarray:
        """datetime64 of each row, of the shape of rows; UTC where there is a time zone."""
        flat = pl.Series(self.times[rows.reshape(-1)])
        return flat.cast(self.time_dtype).to_numpy().reshape(rows.shape)

    def to(self, device: torch.device) -> "Series":
        """The series with its values on a device."""
        present = None if self.present is None else self.present.to(device)
        return replace(self, values=self.values.to(device), present=present)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        tensors = (self.values, self.present, self.close)
        return self.times.nbytes + sum(tensor.nbytes for tensor in tensors if tensor is not None)


class Windows:
    """The windows of one part. Window i is a number in [0, len); none crosses an asset, a part or a hole.

    Args: series: what the windows look at, shared by all parts. segments: (S, 2) int64, first row and number of bars of
    each unbroken run that belongs to the part. stride: bars between the first bars of neighbouring windows.
    """

    def __init__(self, series: Series, segments: np.ndarray, *, window_size: int, stride: int) -> None:
        self.series = series
        self.window_size = window_size
        self.stride = stride
        counts = np.maximum(0, (segments[:, 1] - window_size) // stride + 1)
        kept = counts > 0
        self.first_rows = segments[kept, 0]
        self.offsets = np.concatenate([[0], np.cumsum(counts[kept])])  # (S + 1,) first window of each segment

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def shortened(self, first: int, bars: int) -> "Windows":
        """The same windows, each cut down to some of its bars. Args: first: of them, from 0. bars: how many."""
        shorter = copy(self)
        shorter.window_size = bars
        shorter.first_rows = self.first_rows + first
        return shorter

    @property
    def per_asset(self) -> np.ndarray:
        """(A,) windows of each asset of the series; they stand asset after asset."""
        asset = np.searchsorted(self.series.asset_starts, self.first_rows, side="right") - 1
        counts = np.bincount(asset, weights=np.diff(self.offsets), minlength=len(self.series.asset_starts))
        return counts.astype(np.int64)

    def starts(self, index: Tensor | np.ndarray) -> np.ndarray:
        """First row of each window. Args: index: (B,) int64 in [0, len). Raises: IndexError."""
        numbers = np.asarray(index)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"window {int(numbers.max())} of {len(self)}")
        segment = np.searchsorted(self.offsets, numbers, side="right") - 1
        return self.first_rows[segment] + (numbers - self.offsets[segment]) * self.stride

    def rows(self, index: Tensor | np.ndarray) -> np.ndarray:
        """(B, T) rows of the series that each window covers."""
        return self.starts(index)[:, None] + np.arange(self.window_size)

    def gather(self, index: Tensor | np.ndarray) -> Tensor:
        """(B,) window numbers -> (B, T, F) float32, scaled, on the series' device."""
        windows = _take(self.series.values, self.starts(index), self.window_size)
        for column in self.series.relative:
            self._relate(windows[..., column], self.mask(index))
        return windows

    def _relate(self, levels: Tensor, mask: Tensor | None) -> None:
        """Take the first present bar off each window, in place. Args: levels, mask: (B, T); None: all present."""
        if mask is None:
            levels -= levels[:, :1].clone()
        else:
            levels -= levels.gather(1, mask.int().argmax(dim=1, keepdim=True))
            levels.masked_fill_(~mask, 0.0)

    def mask(self, index: Tensor | np.ndarray) -> Tensor | None:
        """(B, T) bool, True where a bar is present; None if every bar of the series is."""
        if self.series.present is None:
            return None
        return _take(self.series.present.view(-1, 1), self.starts(index), self.window_size).squeeze(-1)

    def timestamps(self, index: Tensor | np.ndarray) -> np.ndarray:
        """(B, T) datetime64: when each bar of each window was."""
        return self.series.timestamps(self.rows(index))

    def assets(self, index: Tensor | np.ndarray) -> list[str]:
        """The asset of each window."""
        return self.series.assets(self.starts(index))

    def last_close(self, index: Tensor | np.ndarray) -> Tensor | None:
        """(B,) the close right before each window, NaN if it is absent or of another asset; None without closes."""
        if self.series.close is None:
            return None
        starts = self.starts(index)
        inside = starts > self.series.asset_starts[np.searchsorted(self.series.asset_starts, starts, side="right") - 1]
        closes = self.series.close[torch.from_numpy(np.maximum(starts - 1, 0))]
        return torch.where(torch.from_numpy(inside), closes, torch.nan)

    def first_close(self, index: Tensor | np.ndarray) -> Tensor | None:
        """(B,) the close of each window's first present bar, NaN if it has none; None without closes."""
        if self.series.close is None:
            return None
        starts, mask = self.starts(index), self.mask(index)
        first = 0 if mask is None else mask.cpu().int().argmax(dim=1).numpy()
        return self.series.close[torch.from_numpy(starts + first)]


def _take(values: Tensor, starts: np.ndarray, bars: int) -> Tensor:
    """Copies of `bars` rows from some rows on. Args: values: (N, F) contiguous. starts: (B,). Returns: (B, bars, F)."""
    F = values.shape[1]
    if not values.is_cpu:
        # overlapping view (N - bars + 1, bars * F) of the flat series: a window is one contiguous row of it
        view = values.view(-1).unfold(0, bars * F, F)
        return view.index_select(0, torch.from_numpy(starts).to(values.device)).view(-1, bars, F)
    # NumPy, because torch shares a copy of this size out to threads: on busy cores each batch then waits for the
    # slowest of them (8 ms instead of 0.05 ms was seen), as in any job of several processes on a CPU
    array = values.numpy()
    # the same view, with a whole window as one opaque element: one memcpy each, twice as fast as rows of floats
    whole = np.dtype((np.void, bars * F * array.itemsize))
    view = np.ndarray(len(array) - bars + 1, whole, array, strides=array.strides[:1])
    return torch.from_numpy(view[starts].view(array.dtype).reshape(-1, bars, F))
