"""Store the series once and address its windows by number: a batch of windows is one gather.

Letters: N bars of all assets one after another, B windows in a batch, T bars in a window, P bars after a window, F
features, S segments.
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
"""Bytes from which on the pages of a mapped file are handed back after each batch."""


class Ahead(NamedTuple):
    """Hold the bars after the windows of a batch.

    Attributes:
        bars: (B, P, F) float32, scaled; relative columns in units of their window's first present bar.
        mask: (B, P) bool, True where a bar is present, which may be nowhere; None if all are.
        weight: this process's share of the present ones, as `Batch.weight`.
    """

    bars: Tensor
    mask: Tensor | None
    weight: float


class Batch(NamedTuple):
    """Hold a batch of windows, as the loader yields it.

    Attributes:
        windows: (B, T, F) float32, scaled; T may differ between training batches.
        mask: (B, T) bool, True where a bar is present; None if all are.
        index: (B,) int64, window numbers.
        weight: this process's share of the batch, local_count * processes / global_count of present bars, so that the
            mean over processes of weight * local mean is the mean over the global batch.
        ahead: the bars after the windows; None without a predictor.
        given: (B, T, F), the windows as the model gets to see them; None: as they are.
    """

    windows: Tensor
    mask: Tensor | None
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]  # tuple.index is not used on a batch
    weight: float
    ahead: Ahead | None = None
    given: Tensor | None = None


@dataclass(frozen=True)
class Series:
    """Hold all bars of all assets, asset after asset, each in order of time.

    Args:
        values: (N, F) float32, scaled, contiguous; 0 where a bar is absent.
        present: (N,) bool, or None if all bars are present.
        times: (N,) int64, in the units of time_dtype (days of pl.Date, or those of a pl.Datetime).
        time_dtype: pl.Date or a pl.Datetime.
        close: (N,) float32 closing prices; None if there are none.
        label: (N,) int8, 1 where a bar is known to be anomalous; (N, A) of a panel. None if nothing is known.
        asset_names: the A assets.
        asset_starts: (A,) int, first row of each asset.
        relative: columns whose value at a window's first present bar is subtracted from all of the window.
        pages: memory maps of the arrays, if they are files.
        moving: (N, 2 F) float32, means and standard deviations of the bars before each row, if the scale needs them.
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
    label: Tensor | None = None
    moving: Tensor | None = None

    def let_pages_go(self) -> None:
        """Hand the pages of large mapped files back to the system, which costs a millisecond a batch.

        The system maps up to 2 MiB around each place that is touched and takes them back only when memory is short.
        Without this call, all of the file would be resident after a few random batches.
        """
        for pages in self.pages:
            if len(pages) > LARGE_FILE:
                pages.madvise(mmap.MADV_DONTNEED)

    def assets(self, rows: np.ndarray) -> list[str]:
        """Name the asset of each row.

        Args:
            rows: (R,) int, rows of the series.
        """
        codes = np.searchsorted(self.asset_starts, rows, side="right") - 1
        return [self.asset_names[code] for code in codes]

    def timestamps(self, rows: np.ndarray) -> np.ndarray:
        """Return the time of each row.

        Args:
            rows: int, rows of the series, of any shape.

        Returns:
            datetime64 of the same shape; UTC if the series has a time zone.
        """
        flat = pl.Series(self.times[rows.reshape(-1)])
        return flat.cast(self.time_dtype).to_numpy().reshape(rows.shape)

    def to(self, device: torch.device) -> "Series":
        """Copy values and presence to a device.

        Args:
            device: where batches are to be gathered.
        """
        present = None if self.present is None else self.present.to(device)
        return replace(self, values=self.values.to(device), present=present)

    @property
    def nbytes(self) -> int:
        """Count the bytes of all arrays."""
        tensors = (self.values, self.present, self.close, self.label, self.moving)
        return self.times.nbytes + sum(tensor.nbytes for tensor in tensors if tensor is not None)


class Windows:
    """Address the windows of one part by number, in [0, len). No window crosses an asset, a part or a hole.

    Args:
        series: the bars, shared by all parts.
        segments: (S, 2) int64, first row and number of bars of each unbroken run that belongs to the part.
        window_size: T, bars in a window, at least 1.
        stride: bars between the first bars of neighbouring windows, at least 1.
        horizon: P, bars that follow each window in its segment, at least 0; see `ahead`.
    """

    def __init__(
        self, series: Series, segments: np.ndarray, *, window_size: int, stride: int, horizon: int = 0
    ) -> None:
        self.series = series
        self.window_size = window_size
        self.stride = stride
        self.horizon = horizon
        counts = np.maximum(0, (segments[:, 1] - window_size - horizon) // stride + 1)
        kept = counts > 0
        self.first_rows = segments[kept, 0]
        self.offsets = np.concatenate([[0], np.cumsum(counts[kept])])  # (S + 1,) first window of each segment

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def shortened(self, first: int, bars: int) -> "Windows":
        """Cut each window down to some of its bars.

        Args:
            first: first bar to keep, from 0.
            bars: number of bars to keep.

        Returns:
            As many windows, of the same numbers, on the same series.
        """
        shorter = copy(self)
        shorter.window_size = bars
        shorter.first_rows = self.first_rows + first
        return shorter

    def of(self, series: Series) -> "Windows":
        """Return the same windows of another series.

        Args:
            series: with the same rows.
        """
        others = copy(self)
        others.series = series
        return others

    @property
    def per_asset(self) -> np.ndarray:
        """Count the windows of each asset of the series, (A,) int64; windows are numbered asset after asset."""
        asset = np.searchsorted(self.series.asset_starts, self.first_rows, side="right") - 1
        counts = np.bincount(asset, weights=np.diff(self.offsets), minlength=len(self.series.asset_starts))
        return counts.astype(np.int64)

    def starts(self, index: Tensor | np.ndarray) -> np.ndarray:
        """Return the first row of each window.

        Args:
            index: (B,) int64, window numbers in [0, len).

        Returns:
            (B,) int64, rows of the series.

        Raises:
            IndexError: a number is out of bounds.
        """
        numbers = np.asarray(index)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"window {int(numbers.max())} of {len(self)}")
        segment = np.searchsorted(self.offsets, numbers, side="right") - 1
        return self.first_rows[segment] + (numbers - self.offsets[segment]) * self.stride

    def rows(self, index: Tensor | np.ndarray) -> np.ndarray:
        """Return the rows of the series that each window covers, (B, T) int64."""
        return self.starts(index)[:, None] + np.arange(self.window_size)

    def gather(self, index: Tensor | np.ndarray) -> Tensor:
        """Copy windows out of the series.

        Args:
            index: (B,) int64, window numbers in [0, len).

        Returns:
            (B, T, F) float32, scaled, on the device of the series.
        """
        windows = _take(self.series.values, self.starts(index), self.window_size)
        for column in self.series.relative:
            _subtract_first(windows[..., column], self.mask(index))
        return windows

    def mask(self, index: Tensor | np.ndarray) -> Tensor | None:
        """Return where the bars of windows are present, (B, T) bool; None if every bar of the series is."""
        if self.series.present is None:
            return None
        return _take(self.series.present.view(-1, 1), self.starts(index), self.window_size).squeeze(-1)

    def ahead(self, index: Tensor | np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Copy the bars after windows out of the series.

        Args:
            index: (B,) int64, window numbers in [0, len).

        Returns:
            Bars (B, P, F) float32, scaled, a relative column relative to the window's first present bar; and where they
            are present, (B, P) bool, None if every bar of the series is.
        """
        starts, bars = self.starts(index), self.window_size + self.horizon
        values, mask = _take(self.series.values, starts, bars), self.series.present
        mask = None if mask is None else _take(mask.view(-1, 1), starts, bars).squeeze(-1)
        for column in self.series.relative:
            _subtract_first(values[..., column], mask)
        return values[:, self.window_size :], mask if mask is None else mask[:, self.window_size :]

    def timestamps(self, index: Tensor | np.ndarray) -> np.ndarray:
        """Return the time of each bar of each window, (B, T) datetime64."""
        return self.series.timestamps(self.rows(index))

    def assets(self, index: Tensor | np.ndarray) -> list[str]:
        """Name the asset of each window."""
        return self.series.assets(self.starts(index))

    def last_close(self, index: Tensor | np.ndarray) -> Tensor | None:
        """Return the close right before each window.

        Args:
            index: (B,) int64, window numbers in [0, len).

        Returns:
            (B,) float32, NaN if it is absent or of another asset; None if the series has no closes.
        """
        if self.series.close is None:
            return None
        starts = self.starts(index)
        inside = starts > self.series.asset_starts[np.searchsorted(self.series.asset_starts, starts, side="right") - 1]
        closes = self.series.close[torch.from_numpy(np.maximum(starts - 1, 0))]
        return torch.where(torch.from_numpy(inside), closes, torch.nan)

    def first_close(self, index: Tensor | np.ndarray) -> Tensor | None:
        """Return the close of each window's first present bar.

        Args:
            index: (B,) int64, window numbers in [0, len).

        Returns:
            (B,) float32, NaN if the bar has none; None if the series has no closes.
        """
        if self.series.close is None:
            return None
        starts, mask = self.starts(index), self.mask(index)
        first = 0 if mask is None else mask.cpu().int().argmax(dim=1).numpy()
        return self.series.close[torch.from_numpy(starts + first)]


def _subtract_first(levels: Tensor, mask: Tensor | None) -> None:
    """Subtract each window's first present bar from the window, in place; levels and mask are (B, T)."""
    if mask is None:
        levels -= levels[:, :1].clone()
    else:
        levels -= levels.gather(1, mask.int().argmax(dim=1, keepdim=True))
        levels.masked_fill_(~mask, 0.0)


def _take(values: Tensor, starts: np.ndarray, bars: int) -> Tensor:
    """Copy `bars` rows of contiguous values (N, F) from each start (B,) on, as (B, bars, F)."""
    F = values.shape[1]
    if not values.is_cpu:
        # overlapping view (N - bars + 1, bars * F) of the flat series: a window is one contiguous row of it
        view = values.view(-1).unfold(0, bars * F, F)
        return view.index_select(0, torch.from_numpy(starts).to(values.device)).view(-1, bars, F)
    # NumPy, because torch shares a copy of this size out to threads: on busy cores each batch then waits for the
    # slowest of them (8 ms instead of 0.05 ms was seen), as in any job of several processes on a CPU
    array = values.numpy()
    # the same view, with a whole window as one opaque element: one memcpy each, twice as fast as rows of floats
    window = np.dtype((np.void, bars * F * array.itemsize))
    view = np.ndarray(len(array) - bars + 1, window, array, strides=array.strides[:1])
    return torch.from_numpy(view[starts].view(array.dtype).reshape(-1, bars, F))
