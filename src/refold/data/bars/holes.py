"""Judge the steps from bar to bar by a timetable: which bars are missing, and where the market closed.

Letters: N steps from one bar of an asset to the next. A slot is a place for one bar: a stretch of one interval. Slots
are numbered along a clock, from Monday 1970-01-05 on, so that a week of a market with hours has the same slots always.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import polars as pl

from refold.data.bars.timetable import DAY, WEEK, Timetable

EARLY_CLOSE = 4 * 3600
"""Seconds that a session may end early or begin late, as on the days before holidays, and at most half of it."""
LONGEST_HOLE = 100_000
"""Most bars that are written out for one hole: a single wrong date can be fifty years away."""


_MONDAY = 4 * DAY  # 1970-01-01 was a Thursday
_US = 1_000_000


class Steps(NamedTuple):
    """Hold the verdicts of a timetable on the steps from one bar of an asset to the next.

    Attributes:
        missing: (N,) int64, bars that are missing in between, without those of a closed market.
        slots: (N,) int64, slots from one bar to the next; 0 where both are in one.
        closing: (N,) bool, whether the market closed in between, as it does every day.
        first: (N,) int64, number of the first missing bar among all that the timetable expects.
    """

    missing: np.ndarray
    slots: np.ndarray
    closing: np.ndarray
    first: np.ndarray


def clock_us(times: pl.Series, zone: str | None) -> np.ndarray:
    """Read times off a clock, in microseconds since Monday 1970-01-05 00:00 of that clock.

    Args:
        times: (N,) dates or datetimes without nulls; those without a zone are in UTC if `zone` is given.
        zone: of the clock; None is that of the times.
    """
    if isinstance(times.dtype, pl.Datetime):
        if zone is not None:
            aware = times if times.dtype.time_zone else times.dt.replace_time_zone("UTC")
            times = aware.dt.convert_time_zone(zone)
        times = times.dt.replace_time_zone(None)
    return times.cast(pl.Datetime("us")).to_physical().to_numpy() - _MONDAY * _US


def in_utc(times: pl.Series) -> pl.Series:
    """Return times with a zone in UTC, others as they are."""
    zone = times.dtype.time_zone if isinstance(times.dtype, pl.Datetime) else None
    return times if zone is None else times.dt.convert_time_zone("UTC")


def _from_clock(us: np.ndarray, zone: str | None, dtype: pl.DataType) -> pl.Series:
    """Turn readings of a clock, see `clock_us`, into times of a dtype; null where the clock skips an hour."""
    times = pl.Series("timestamp", us + _MONDAY * _US).cast(pl.Datetime("us"))
    if not isinstance(dtype, pl.Datetime):
        return times.cast(dtype)
    own = zone or dtype.time_zone
    if own is not None:
        times = times.dt.replace_time_zone(own, ambiguous="earliest", non_existent="null")
        times = times.dt.convert_time_zone(dtype.time_zone or "UTC")
        times = times if dtype.time_zone else times.dt.replace_time_zone(None)
    return times.cast(dtype)


def slots(timetable: Timetable, times: pl.Series) -> np.ndarray:
    """Number the slots of times.

    Args:
        timetable: of their asset.
        times: (N,) without nulls.

    Returns:
        (N,) int64, rising with time.
    """
    # where a market never closes, an hour that a clock skips is no hole
    us = clock_us(in_utc(times) if timetable.unit == "second" and timetable.always else times, timetable.zone)
    if timetable.unit == "second":
        width = round(timetable.count * _US)
        return (us - round(timetable.phase * _US) + (width - 1) // 2) // width
    day = us // (DAY * _US)
    if timetable.unit == "month":
        local = pl.Series(us + _MONDAY * _US).cast(pl.Datetime("us")).dt
        day = local.year().to_numpy().astype(np.int64) * 12 + local.month().to_numpy() - 1
    elif timetable.unit == "week":
        day = day // 7
    return ((day - timetable.phase) // timetable.count).astype(np.int64)


class _Week(NamedTuple):
    """The week of a market with hours, from the first slot after its longest break on: n slots, W of them with a bar.

    Attributes:
        origin: number of the first slot.
        before: (n + 1,) slots with a bar before each.
        place: (W,) number of the slot of each bar.
        days: (K + 1,) first bar of each trading day, and W. A session belongs to the day on which it ends.
    """

    origin: int
    before: np.ndarray
    place: np.ndarray
    days: np.ndarray


@lru_cache(maxsize=256)
def _week(timetable: Timetable) -> _Week:
    width = DAY if timetable.unit == "day" else timetable.count
    count = round(WEEK / width)
    starts = timetable.phase + np.arange(count) * width if timetable.unit == "second" else np.arange(count) * width
    there = np.zeros(count, dtype=bool)
    for start, end in timetable.hours:
        there |= (starts >= start - 1e-6) & (starts < end - 1e-6)
    places = np.flatnonzero(there)
    breaks = np.diff(places, append=places[0] + count)
    longest = int(breaks.argmax())
    origin = int(places[(longest + 1) % len(places)])
    turned = np.roll(there, -origin)
    place = np.flatnonzero(turned)
    per_day = round(DAY / width)
    session = np.cumsum(np.diff(place, prepend=place[0] - 2) > 1)
    first = place[np.searchsorted(session, session)]
    session = session * 1000 + (place - first) // per_day  # one of more than 24 hours is divided
    last = place[np.searchsorted(session, session, side="right") - 1]
    day = (origin + last) // per_day
    days = np.append(np.flatnonzero(np.diff(day, prepend=-1)), len(place))
    return _Week(origin, np.append(0, np.cumsum(turned)), place, days)


def read_steps(timetable: Timetable, before: pl.Series, after: pl.Series, open_days: pl.Series | None = None) -> Steps:
    """Count the bars that are missing between bars.

    Up to `Timetable.slack` bars in a row may be missing.
    A session may end early or begin late by `EARLY_CLOSE`, and `Timetable.closed` days may have no bar at all: that is
    a closed market. With the days of an exchange, any of its days without a bar is missing, and no other day is.

    Args:
        timetable: of the asset, regular.
        before: (N,) times of bars.
        after: (N,) times of the next bars of the asset.
        open_days: sorted dates on which the exchange trades; None if none is named.
    """
    left, right = slots(timetable, before), slots(timetable, after)
    apart = right - left
    if timetable.always or timetable.unit in ("week", "month"):
        missing = _beyond_slack(timetable, np.maximum(apart - 1, 0))
        return Steps(missing, apart, np.zeros(len(apart), dtype=bool), left + 1)
    week = _week(timetable)
    slots_a_week, bars_a_week, days_a_week = len(week.before) - 1, len(week.place), len(week.days) - 1
    turns, place = np.divmod(left - week.origin, slots_a_week)
    first = turns * bars_a_week + week.before[place + 1]
    turns, place = np.divmod(right - week.origin, slots_a_week)
    end = turns * bars_a_week + week.before[place]
    missing = np.maximum(end - first, 0)

    def day_of(bar: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        turns, rest = np.divmod(bar, bars_a_week)
        day = np.searchsorted(week.days, rest, side="right") - 1
        base = turns * bars_a_week
        return turns * days_a_week + day, base + week.days[day], base + week.days[day + 1], day

    first_day, first_start, first_end, one = day_of(first)
    last_day, last_start, last_end, other = day_of(end - 1)
    late_start, early_end = first > first_start, end < last_end
    inside = (first_day == last_day) & late_start & early_end
    tail = np.where(late_start, np.minimum(first_end, end) - first, 0)
    head = np.where(early_end, end - np.maximum(last_start, first), 0)
    partial = np.where(first_day == last_day, late_start | early_end, late_start.astype(int) + early_end)
    whole = np.maximum(last_day - first_day + 1 - partial, 0)
    allowed = np.minimum(np.diff(week.days) // 2, int(EARLY_CLOSE // timetable.seconds))
    usual = ~inside & (tail <= allowed[one]) & (head <= allowed[other])
    if open_days is None:
        usual &= whole <= timetable.closed
    else:
        opened = open_days.to_physical().to_numpy() - _MONDAY // DAY
        low = _date_of_day(timetable, first_day + late_start)
        high = _date_of_day(timetable, last_day - early_end)
        usual &= (whole == 0) | (np.searchsorted(opened, high, "right") - np.searchsorted(opened, low) <= 0)
    missing = np.where(usual, 0, missing)
    closing = (missing == 0) & (apart > 1) & timetable.intraday
    return Steps(_beyond_slack(timetable, missing), apart, closing, first)


def _beyond_slack(timetable: Timetable, missing: np.ndarray) -> np.ndarray:
    """Return the numbers of missing bars, with 0 where so few of them are no hole."""
    return np.where(missing <= timetable.slack, 0, missing)


def _date_of_day(timetable: Timetable, day: np.ndarray) -> np.ndarray:
    """Return the dates, in days since Monday 1970-01-05, of numbers of trading days."""
    week = _week(timetable)
    slots_a_week = len(week.before) - 1
    turns, rest = np.divmod(day, len(week.days) - 1)
    last = week.place[week.days[rest + 1] - 1]
    return (turns * slots_a_week + week.origin + last) // (slots_a_week // 7)


def missing_times(
    timetable: Timetable, steps: Steps, before: pl.Series, open_days: pl.Series | None = None
) -> tuple[np.ndarray, pl.Series]:
    """Write out the times of the missing bars.

    Args:
        timetable: of the asset.
        steps: what it says of (N,) steps.
        before: (N,) times of the bars before the steps.
        open_days: as for `read_steps`.

    Returns:
        (M,) int64, the number of the step of each missing bar, and the M times, in order; at most `LONGEST_HOLE` of a
        step.
    """
    counts = np.minimum(steps.missing, LONGEST_HOLE)
    step = np.repeat(np.arange(len(counts)), counts)
    offset = np.arange(len(step)) - np.repeat(np.cumsum(counts) - counts, counts)
    zone, unit = timetable.zone, timetable.unit
    bar = steps.first[step] + offset
    if unit == "second" and timetable.always:
        us = bar * round(timetable.count * _US) + round(timetable.phase * _US)
        times = pl.Series("timestamp", us + _MONDAY * _US).cast(pl.Datetime("us"))
        own = before.dtype.time_zone if isinstance(before.dtype, pl.Datetime) else None
        times = times.dt.replace_time_zone("UTC").dt.convert_time_zone(own) if own else times
        return step, times.cast(before.dtype)
    local = clock_us(before, zone)[step]
    if unit == "month":
        moved = pl.DataFrame({"time": local + _MONDAY * _US, "by": (offset + 1) * int(timetable.count)})
        moved = moved.with_columns(pl.col("time").cast(pl.Datetime("us")), pl.format("{}mo", "by").alias("by"))
        us = (
            moved.select(pl.col("time").dt.offset_by(pl.col("by"))).to_series().to_physical().to_numpy() - _MONDAY * _US
        )
    elif unit == "week" or timetable.always:
        us = local + (offset + 1) * round(timetable.seconds) * _US
    else:
        week = _week(timetable)
        turns, rest = np.divmod(bar, len(week.place))
        slot = turns * (len(week.before) - 1) + week.origin + week.place[rest]
        if unit == "day":
            us = slot * DAY * _US + local % (DAY * _US)
        else:
            us = slot * round(timetable.count * _US) + round(timetable.phase * _US)
        if open_days is not None:
            day = (np.searchsorted(week.days, rest, side="right") - 1) + turns * (len(week.days) - 1)
            opened = np.isin(_date_of_day(timetable, day), open_days.to_physical().to_numpy() - _MONDAY // DAY)
            step, us = step[opened], us[opened]
    times = _from_clock(us, zone, before.dtype)
    there = times.is_not_null().to_numpy()
    return step[there], times.filter(times.is_not_null())


def outside_hours(timetable: Timetable, times: pl.Series) -> np.ndarray:
    """Mark the times at which the market is closed as a rule.

    Args:
        timetable: of the asset.
        times: (N,) without nulls.

    Returns:
        (N,) bool.
    """
    if timetable.always or timetable.unit in ("week", "month"):
        return np.zeros(len(times), dtype=bool)
    week = _week(timetable)
    place = (slots(timetable, times) - week.origin) % (len(week.before) - 1)
    return np.diff(week.before)[place] == 0


def off_grid(timetable: Timetable, times: pl.Series) -> np.ndarray:
    """Mark the bars that lie off the grid of their timetable.

    Args:
        timetable: of the asset.
        times: (N,) of its bars, in order.

    Returns:
        (N,) bool: between two places of the grid, or on a day on which the asset's bars do not come.
    """
    nothing = np.zeros(len(times), dtype=bool)
    if not timetable.regular or timetable.unit in ("week", "month"):
        return nothing
    if timetable.unit == "day":
        return outside_hours(timetable, times)
    if not timetable.grid:
        return nothing
    us = clock_us(in_utc(times) if timetable.always else times, timetable.zone)
    off = (us - round(timetable.phase * _US)) % round(timetable.count * _US) != 0
    return off & ~np.isin(
        us % (DAY * _US), np.array([round(second * _US) for second in timetable.also], dtype=np.int64)
    )
