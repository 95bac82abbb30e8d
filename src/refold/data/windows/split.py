"""Train, validation and test as intervals of time that all assets share, with bars dropped between them.

Rows are split first and windowed inside each part. Between parts, each asset loses at least (T - 1) + (lookback - 1)
of its own bars, so that no bar, and no bar that a feature looked back on, counts for both.
Source: Lopez de Prado 2018, "Advances in financial machine learning", chapter 7 (purging and embargo).
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, Protocol

import numpy as np
import polars as pl

from refold.bounds import at_least, checked, within
from refold.data.bars.table import as_moment
from refold.errors import DataError

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


class Interval(NamedTuple):
    """Positions [start, end) on the calendar of all timestamps that belong to a part."""

    part: Part
    start: int
    end: int


class Split(Protocol):
    """Which moments of a calendar belong to which part, in one of several folds."""

    embargo: int

    def intervals(self, calendar: pl.Series, fold: int) -> list[Interval]:
        """Intervals in order of time. Args: calendar: sorted, unique timestamps. fold: from 0. Raises: DataError."""
        ...


def _refuse_fold(fold: int, folds: int, split: str) -> None:
    if not 0 <= fold < folds:
        only = "only fold 0" if folds == 1 else f"folds 0 to {folds - 1}"
        raise DataError(f"data.fold is {fold}; data/split={split} has {only}")


class ByFraction:
    """The first share of the calendar trains, the next validates, the rest tests.

    Args: train_fraction, val_fraction: shares of the timestamps that occur in any asset; their sum must be at most 1.
        embargo: bars to drop between parts beyond those that window and look-back ask for.
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
        """Intervals in order of time; see Split."""
        _refuse_fold(fold, 1, "fraction")
        count = len(calendar)
        train_end = round(count * self.train_fraction)
        val_end = round(count * min(1.0, self.train_fraction + self.val_fraction))
        return [Interval("train", 0, train_end), Interval("val", train_end, val_end), Interval("test", val_end, count)]


class ByDate:
    """Bars before `val_start` train, those before `test_start` validate, the rest tests.

    Args: val_start, test_start: ISO 8601 dates or datetimes; the first bar of a part is at or after its start.
        embargo: bars to drop between parts beyond those that window and look-back ask for.
    """

    @checked("data.split")
    def __init__(self, *, val_start: str, test_start: str, embargo: Annotated[int, at_least(0)]) -> None:
        self.starts = [_iso_date("val_start", val_start), _iso_date("test_start", test_start)]
        if not self.starts[0] < self.starts[1]:
            raise ValueError(f"data.split.val_start is {val_start}; it must be before test_start, {test_start}")
        self.embargo = embargo

    def intervals(self, calendar: pl.Series, fold: int) -> list[Interval]:
        """Intervals in order of time; see Split."""
        _refuse_fold(fold, 1, "date")
        train_end, val_end = (position(calendar, start) for start in self.starts)
        return [
            Interval("train", 0, train_end),
            Interval("val", train_end, val_end),
            Interval("test", val_end, len(calendar)),
        ]


class WalkForward:
    """Test on one block of the calendar after another, each time trained on what came before.

    The last `test_fraction` of the calendar is cut into `folds` equal blocks. Fold k tests block k, validates on as
    many moments right before it, and trains on what is before those: on all of it (expanding) or on its last
    `train_moments` (rolling).

    Args: folds: how many. test_fraction: share of the calendar that all test blocks make up. train_moments: None
        expands. embargo: bars to drop between parts beyond those that window and look-back ask for.
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
        """Intervals in order of time; see Split."""
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
    """Cut the calendar into k blocks; fold k tests block k, validates on the next (the first after the last), trains on
    the rest, on both sides, with bars dropped wherever two parts meet.

    Training on bars after the test is no look-ahead in the features, but it is knowledge of the future: use it to
    measure how results vary, not to predict what would have been earned.

    Args: folds: at least 3. embargo: bars to drop between parts beyond those that window and look-back ask for.
    Source: Lopez de Prado 2018, section 7.4.
    """

    @checked("data.split")
    def __init__(self, *, folds: Annotated[int, at_least(3)], embargo: Annotated[int, at_least(0)]) -> None:
        self.folds = folds
        self.embargo = embargo

    def intervals(self, calendar: pl.Series, fold: int) -> list[Interval]:
        """Intervals in order of time; see Split."""
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
    """The parts drawn to scale: `=` trains, `v` validates, `t` tests, `.` is dropped, a blank is in no part."""
    marks = {"train": "=", "val": "v", "test": "t"}
    line = [" "] * width
    scale = width / max(1, len(calendar))
    for number, (part, start, end) in enumerate(intervals):
        dropped = start + gap if number and start < end else start
        for column in range(round(start * scale), max(round(end * scale), round(start * scale) + (end > start))):
            if column < width:
                line[column] = "." if (column + 0.5) / scale < dropped else marks[part]
    held = [
        f"{part} {calendar[start]} to {calendar[end - 1]}"
        for part, start, end in intervals
        if start < end <= len(calendar)
    ]
    return f"|{''.join(line)}|\n{', '.join(held)}; {gap} bars dropped between parts (.)"


def _iso_date(key: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError(f"data.split.{key} is {text!r}; it must be a date such as 2011-06-30") from None


def position(calendar: pl.Series, start: datetime) -> int:
    """First position of a sorted calendar at or after a date; a date without a zone is in the calendar's own."""
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
    """The unbroken runs of usable bars inside each part.

    Bars are sorted by asset, then time. In each interval an asset's first bars are dropped until `gap` of
    its bars lie between it and the interval before.

    Args: asset: (N,) number of the asset. run: (N,) changes where windows may not go on. moment: (N,) position on the
        calendar. usable: (N,) bool, False for bars that no window may hold (look-back not filled). intervals: in order
        of time, without overlap. gap: bars.
    Returns: per part, (S, 2) int64: first row and number of rows of each run.
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
    parts = np.array([interval.part for interval in intervals])[place[first]] if len(first) else np.array([], dtype=str)
    return {part: segments[parts == part] for part in PARTS}


def _changes(*columns: np.ndarray) -> np.ndarray:
    """True where any column differs from the row before; the first row changes."""
    changed = np.zeros(len(columns[0]), dtype=bool)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


def _first_of_block(*columns: np.ndarray) -> np.ndarray:
    """For each row, the first row of the block of equal neighbours that it stands in."""
    rows = np.arange(len(columns[0]))
    return np.maximum.accumulate(np.where(_changes(*columns), rows, 0))
