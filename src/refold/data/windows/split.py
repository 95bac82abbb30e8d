"""Divide the calendar into train, validation and test, which all assets share, and drop bars between the parts.

Rows are split first and windowed inside each part. Between parts, each asset loses at least (T - 1) + (lookback - 1)
of its own bars, and P more where P bars after each window are predicted, so that no bar, and no bar that a feature
looked back on, counts for both.
Source: Lopez de Prado 2018, "Advances in financial machine learning", chapter 7 (purging and embargo).
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, Protocol

import numpy as np
import polars as pl

from refold.bounds import at_least, checked, within
from refold.data.bars.dates import as_moment
from refold.errors import DataError

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


class Interval(NamedTuple):
    """Give the positions [start, end) on the calendar that belong to a part."""

    part: Part
    start: int
    end: int


class SplitRule(Protocol):
    """Decide which moments of a calendar belong to which part, in one of several folds.

    Attributes:
        embargo: bars to drop between parts beyond those that window and look-back ask for, at least 0.
    """

    embargo: int

    def intervals(self, calendar: pl.Series, fold: int) -> list[Interval]:
        """Divide a calendar.

        Args:
            calendar: sorted, unique timestamps.
            fold: number of the fold, from 0.

        Returns:
            Intervals in order of time, without overlap.

        Raises:
            DataError: there is no such fold.
        """
        ...


def divide(split: SplitRule, fold: int, calendar: pl.Series, occurs: np.ndarray) -> list[Interval]:
    """Divide a calendar that has moments without any bar, which do not count for the shares of the parts.

    Args:
        split: the rule.
        fold: number of the fold, from 0.
        calendar: (M,) sorted, unique timestamps.
        occurs: (M,) bool, False for moments that do not count.

    Returns:
        Intervals of positions on the calendar, in order of time, without overlap.

    Raises:
        DataError: there is no such fold.
    """
    place = np.append(np.flatnonzero(occurs), len(calendar))
    intervals = split.intervals(calendar.filter(pl.Series(occurs)), fold)
    return [Interval(part, int(place[start]), int(place[end])) for part, start, end in intervals]


def _refuse_fold(fold: int, folds: int, split: str) -> None:
    if not 0 <= fold < folds:
        only = "only fold 0" if folds == 1 else f"folds 0 to {folds - 1}"
        raise DataError(f"data.fold is {fold}; data/split={split} has {only}")


class ByFraction:
    """Train on the first share of the calendar, validate on the next, test on the rest.

    Args:
        train_fraction: share of the timestamps that occur in any asset, in (0, 1].
        val_fraction: share of the same, in [0, 1].
        embargo: bars to drop between parts beyond those that window and look-back ask for, at least 0.

    Raises:
        ValueError: the two shares add up to more than 1, or a value is out of bounds.
    """

    @checked("data.split")
    def __init__(
        self,
        *,
        train_fraction: Annotated[float, within(0, 1, open_start=True)],
        val_fraction: Annotated[float, within(0, 1)],
        embargo: Annotated[int, at_least(0)],
    ) -> None:
        if train_fraction + val_fraction > 1 + 1e-9:
            raise ValueError(
                f"data.split.train_fraction + data.split.val_fraction is {train_fraction + val_fraction:g}; "
                f"it must be at most 1"
            )
        self.train_fraction = train_fraction
        self.val_fraction = val_fraction
        self.embargo = embargo

    def intervals(self, calendar: pl.Series, fold: int) -> list[Interval]:
        _refuse_fold(fold, 1, "fraction")
        count = len(calendar)
        train_end = round(count * self.train_fraction)
        val_end = round(count * min(1.0, self.train_fraction + self.val_fraction))
        return [Interval("train", 0, train_end), Interval("val", train_end, val_end), Interval("test", val_end, count)]


class ByDate:
    """Train on bars before one date, validate on those before another, test on the rest.

    Args:
        val_start: ISO 8601 date or datetime; the first bar of validation is at or after it.
        test_start: the same for test; it must be after val_start.
        embargo: bars to drop between parts beyond those that window and look-back ask for, at least 0.

    Raises:
        ValueError: a text is not a date, the dates are not in order, or a value is out of bounds.
    """

    @checked("data.split")
    def __init__(self, *, val_start: str, test_start: str, embargo: Annotated[int, at_least(0)]) -> None:
        self.starts = [_iso_date("val_start", val_start), _iso_date("test_start", test_start)]
        if not self.starts[0] < self.starts[1]:
            raise ValueError(f"data.split.val_start is {val_start}; it must be before test_start, {test_start}")
        self.embargo = embargo

    def intervals(self, calendar: pl.Series, fold: int) -> list[Interval]:
        _refuse_fold(fold, 1, "date")
        train_end, val_end = (position(calendar, start) for start in self.starts)
        return [
            Interval("train", 0, train_end),
            Interval("val", train_end, val_end),
            Interval("test", val_end, len(calendar)),
        ]


class WalkForward:
    """Test on one block of the calendar after another, and train each time on the bars before it.

    The last `test_fraction` of the calendar is cut into `folds` equal blocks. Fold k tests block k, validates on as
    many moments right before it, and trains on the moments before those: on all of them (expanding) or on the last
    `train_moments` (rolling).

    Args:
        folds: number of blocks, at least 1.
        test_fraction: share of the calendar that all test blocks make up, in (0, 1).
        train_moments: moments to train on, at least 1; None trains on all moments before.
        embargo: bars to drop between parts beyond those that window and look-back ask for, at least 0.
    """

    @checked("data.split")
    def __init__(
        self,
        *,
        folds: Annotated[int, at_least(1)],
        test_fraction: Annotated[float, within(0, 1, open_start=True, open_end=True)],
        train_moments: Annotated[int | None, at_least(1)],
        embargo: Annotated[int, at_least(0)],
    ) -> None:
        self.folds = folds
        self.test_fraction = test_fraction
        self.train_moments = train_moments
        self.embargo = embargo

    def intervals(self, calendar: pl.Series, fold: int) -> list[Interval]:
        _refuse_fold(fold, self.folds, "walk_forward")
        count = len(calendar)
        first_test = round(count * (1 - self.test_fraction))
        borders = np.linspace(first_test, count, self.folds + 1).round().astype(int).tolist()
        test_start, test_end = borders[fold], borders[fold + 1]
        val_start = max(0, test_start - (test_end - test_start))
        train_start = 0 if self.train_moments is None else max(0, val_start - self.train_moments)
        return [
            Interval("train", train_start, val_start),
            Interval("val", val_start, test_start),
            Interval("test", test_start, test_end),
        ]


class PurgedKFold:
    """Test on one block of the calendar, validate on the next, train on the blocks on both sides.

    The first block follows the last. Bars are dropped wherever two parts meet. Training on bars after the test is no
    look-ahead in the features, but it is knowledge of the future: use it to measure how results vary, not to predict
    what would have been earned.

    Args:
        folds: number of blocks, at least 3.
        embargo: bars to drop between parts beyond those that window and look-back ask for, at least 0.

    Source: Lopez de Prado 2018, section 7.4.
    """

    @checked("data.split")
    def __init__(self, *, folds: Annotated[int, at_least(3)], embargo: Annotated[int, at_least(0)]) -> None:
        self.folds = folds
        self.embargo = embargo

    def intervals(self, calendar: pl.Series, fold: int) -> list[Interval]:
        _refuse_fold(fold, self.folds, "purged_kfold")
        borders = np.linspace(0, len(calendar), self.folds + 1).round().astype(int).tolist()
        parts: list[Part] = ["train"] * self.folds
        parts[fold] = "test"
        parts[(fold + 1) % self.folds] = "val"
        intervals: list[Interval] = []
        for part, (start, end) in zip(parts, pairwise(borders), strict=True):
            if intervals and intervals[-1].part == part:  # neighbouring blocks that train are one interval: no gap
                start = intervals.pop().start
            intervals.append(Interval(part, start, end))
        return intervals


def timeline(intervals: Sequence[Interval], calendar: pl.Series, gap: int, width: int = 72) -> str:
    """Draw the parts to scale: `=` trains, `v` validates, `t` tests, `.` is dropped, a blank is in no part.

    Args:
        intervals: in order of time.
        calendar: sorted, unique timestamps that the intervals count on.
        gap: bars dropped between parts, at least 0.
        width: characters of the drawing.

    Returns:
        Two lines: the drawing, then the first and last day of each part.
    """
    marks = {"train": "=", "val": "v", "test": "t"}
    line = [" "] * width
    scale = width / max(1, len(calendar))
    for number, (part, start, end) in enumerate(intervals):
        dropped = start + gap if number and start < end else start
        for column in range(round(start * scale), max(round(end * scale), round(start * scale) + (end > start))):
            if column < width:
                line[column] = "." if (column + 0.5) / scale < dropped else marks[part]
    spans = [
        f"{part} {calendar[start]} to {calendar[end - 1]}"
        for part, start, end in intervals
        if start < end <= len(calendar)
    ]
    return f"|{''.join(line)}|\n{', '.join(spans)}; {gap} bars dropped between parts (.)"


def _iso_date(key: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError(f"data.split.{key} is {text!r}; it must be a date such as 2011-06-30") from None


def position(calendar: pl.Series, start: datetime) -> int:
    """Find the first position of a calendar at or after a date.

    Args:
        calendar: sorted, unique timestamps.
        start: date; without a time zone it is in the zone of the calendar.

    Returns:
        Position in [0, number of timestamps].
    """
    return int(
        calendar.to_frame("timestamp").select((pl.col("timestamp") < as_moment(start, calendar.dtype)).sum()).item()
    )


def cut(
    *,
    asset: np.ndarray,
    run: np.ndarray,
    moment: np.ndarray,
    usable: np.ndarray,
    intervals: Sequence[Interval],
    gap: int,
) -> dict[Part, np.ndarray]:
    """Find the stretches of usable bars that windows of each part may be cut from.

    Bars are sorted by asset, then time. In each interval an asset's first bars are dropped until `gap` of its bars lie
    between the rest and the interval before.

    Args:
        asset: (N,) int, number of each bar's asset.
        run: (N,) int, number of each bar's unbroken run; no window crosses from one run to the next.
        moment: (N,) int, position of each bar on the calendar.
        usable: (N,) bool, False for bars that no window may contain, such as those whose look-back is not filled.
        intervals: in order of time, without overlap.
        gap: bars to drop between two parts, at least 0.

    Returns:
        Part -> (S, 2) int64, first row and number of rows of each stretch.
    """
    starts = np.array([interval.start for interval in intervals])
    ends = np.array([interval.end for interval in intervals])
    place = np.searchsorted(starts, moment, side="right") - 1  # empty intervals are passed over: the last start wins
    inside = (place >= 0) & (moment < ends[place])
    rows = np.arange(len(asset))
    entry = _first_of_block(asset, place)  # where the asset came into the interval
    last_inside = np.append(np.maximum.accumulate(np.where(inside, rows, -1)), -1)  # [-1] answers for "before row 0"
    earlier = last_inside[entry - 1]  # last row of the interval before, if that is a row of the same asset
    apart = (earlier < _first_of_block(asset)) | (rows - earlier > gap)
    kept = inside & usable & apart
    begins = kept & _changes(asset, place, run, kept)
    first = np.flatnonzero(begins)
    last = np.flatnonzero(kept & np.append(_changes(asset, place, run, kept)[1:], True))
    segments = np.stack([first, last - first + 1], axis=1).astype(np.int64)
    parts = np.array([interval.part for interval in intervals], dtype=str)[place[first]]
    return {part: segments[parts == part] for part in PARTS}


def _changes(*columns: np.ndarray) -> np.ndarray:
    """Mark the rows where any column differs from the row before; the first row is marked."""
    changed = np.zeros(len(columns[0]), dtype=bool)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def _first_of_block(*columns: np.ndarray) -> np.ndarray:
    """Give for each row the first row of its block of equal neighbours."""
    rows = np.arange(len(columns[0]))
    return np.maximum.accumulate(np.where(_changes(*columns), rows, 0))
