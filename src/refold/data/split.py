"""Train, validation and test as intervals of time that all assets share, with bars dropped between them.

Rows are split first and windowed inside each part. Between parts, each asset loses at least (T - 1) + (lookback - 1)
of its own bars, so that no bar, and no bar that a feature looked back on, counts for both.
Source: Lopez de Prado 2018, "Advances in financial machine learning", chapter 7 (purging and embargo).
"""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Literal, NamedTuple

import numpy as np
import polars as pl

from refold.bounds import at_least, checked, within

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


class Interval(NamedTuple):
    """Positions [start, end) on the calendar of all timestamps that belong to a part."""

    part: Part
    start: int
    end: int


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

    def intervals(self, calendar: pl.Series) -> list[Interval]:
        """Intervals in order of time. Args: calendar: sorted, unique timestamps."""
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

    def intervals(self, calendar: pl.Series) -> list[Interval]:
        """Intervals in order of time. Args: calendar: sorted, unique timestamps."""
        train_end, val_end = (position(calendar, start) for start in self.starts)
        return [
            Interval("train", 0, train_end),
            Interval("val", train_end, val_end),
            Interval("test", val_end, len(calendar)),
        ]


def _iso_date(key: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError(f"data.split.{key} is {text!r}; it must be a date such as 2011-06-30") from None


def position(calendar: pl.Series, start: datetime) -> int:
    """First position of a sorted calendar at or after a date; a date without a zone is in the calendar's own."""
    zone = getattr(calendar.dtype, "time_zone", None)
    if calendar.dtype == pl.Date:
        bound: date | datetime = start.date() if start == datetime.combine(start.date(), start.min.time()) else start
        literal = pl.lit(bound)
        calendar = calendar if not isinstance(bound, datetime) else calendar.cast(pl.Datetime("us"))
    else:
        literal = pl.lit(start.replace(tzinfo=None)).cast(calendar.dtype if zone is None else pl.Datetime("us"))
        if zone is not None:
            literal = literal.dt.replace_time_zone(str(start.tzinfo) if start.tzinfo else zone).dt.convert_time_zone(
                zone
            )
    return int(calendar.to_frame("timestamp").select((pl.col("timestamp") < literal).sum()).item())


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
