"""Infer how often an asset's bars come and at which hours, from its first bars.

A timetable is a property of a table, as its column names are. It is inferred from the first `SAMPLE` of an asset, and
its daylight saving from the first `CHANGES`: bars that come later cannot change what is said of earlier ones.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl

from refold.data.bars.holes import clock_us, in_utc, outside_hours, read_steps, slots
from refold.data.bars.timetable import (
    ALL_WEEK,
    CLOCKS,
    CLOSED_DAILY,
    CLOSED_INTRADAY,
    DAY,
    MOST_SLACK,
    WEEK,
    Timetable,
    Unit,
)

SAMPLE = timedelta(days=28)
"""The time of an asset from which interval and hours are inferred; it has at least `SAMPLED` bars."""
SAMPLED = 100
CHANGES = timedelta(days=400)
"""The time of an asset from which daylight saving is inferred: one with both changes of the clock."""
HEAD = 100_000
"""Most bars of an asset that are looked at."""
FEWEST = 20
"""Bars below which an asset has no timetable."""
REGULAR = 0.95
"""Share of the steps from bar to bar that a timetable has to explain; two of them it never has to."""
RARE = 0.01
"""Share of the steps from which on missing bars come so often that one or two in a row are no hole."""
WITHIN = 0.8
"""Share of the bars that come within the hours of a timetable."""
ALL_DAY = 0.8
"""Share of a week with bars from which on a market never closes: currencies reach 0.72."""
MOSTLY = 0.6
"""Share of times that lie on a grid, for there to be one."""
CONSTANT = 0.9
"""Share of days that begin and end at the usual time of their day of the week by the right clock."""
MONTHS = timedelta(days=60)
"""The shortest time in which a change of the clock is looked for."""

_US = 1_000_000
_SIZES: dict[str, tuple[Unit, float]] = {
    "s": ("second", 1),
    "m": ("second", 60),
    "min": ("second", 60),
    "h": ("second", 3600),
    "d": ("day", 1),
    "w": ("week", 1),
    "mo": ("month", 1),
}
# days from a step to the next -> what it is
_LONG: tuple[tuple[float, float, Unit, float], ...] = (
    (0.9, 1.1, "day", 1),
    (6.5, 7.5, "week", 1),
    (13.5, 14.5, "week", 2),
    (26, 35, "month", 1),
    (85, 98, "month", 3),
    (175, 190, "month", 6),
    (350, 380, "month", 12),
)
_ROUND = np.array([1, 2, 5, 10, 15, 30, 60, 120, 180, 300, 600, 900, 1200, 1800])
_ROUND = np.concatenate([_ROUND, 3600 * np.array([1, 2, 3, 4, 6, 8, 12])])


def parse_interval(text: str) -> tuple[Unit, float]:
    """Read an interval such as 5m, 1h, 1d, 1w or 1mo.

    Args:
        text: as in data.checks.interval.

    Returns:
        Unit and number of units.

    Raises:
        ValueError: the text is no interval.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", str(text).strip())
    if match is None or match[2] not in _SIZES or float(match[1]) <= 0:
        raise ValueError(
            f"data.checks.interval is {text!r}; it must be null (inferred), none (nothing is expected), or a number "
            f"and one of s, m, h, d, w, mo, such as 5m, 1h or 1d"
        )
    unit, size = _SIZES[match[2]]
    count = float(match[1]) * size
    if unit == "second" and count == DAY:
        return "day", 1
    if unit != "second" and count % 1:
        raise ValueError(f"data.checks.interval is {text!r}; the number of days, weeks or months must be whole")
    if unit == "second" and count > DAY:
        raise ValueError(f"data.checks.interval is {text!r}; say more than a day in d, w or mo")
    return unit, count


def describe_timetables(timetables: Mapping[str, Timetable | None]) -> list[str]:
    """Describe timetables, one line for assets with the same one.

    Args:
        timetables: asset -> its timetable.

    Returns:
        Lines such as `every 5 min (AAPL, MSFT), Mon-Fri 09:30-16:00, the clock of the timestamps`.
    """
    groups: dict[str, list[str]] = {}
    for asset, timetable in timetables.items():
        groups.setdefault(_words(timetable), []).append(asset)
    lines = []
    for words, assets in groups.items():
        names = ", ".join(assets[:6]) + (f" and {len(assets) - 6} more" if len(assets) > 6 else "")
        lines.append(words.format(f"({names})"))
    return lines


def _words(timetable: Timetable | None) -> str:
    if timetable is None:
        return f"too few bars for an interval {{}}: fewer than {FEWEST}"
    if not timetable.regular:
        return (
            f"no regular interval {{}}: usually {timetable.interval}; no bar is expected beside those of other assets"
        )
    clock = f", {timetable.clock}" if timetable.intraday and not timetable.always else ""
    skips = f", often with {timetable.slack} missing, which is no hole" if timetable.slack else ""
    return f"every {timetable.interval} {{}}, {timetable.sessions}{clock}{skips}"


def infer(times: pl.Series, interval: str | None = None, week: str | None = None) -> Timetable | None:
    """Infer interval and hours from the first bars of an asset.

    Args:
        times: (N,) sorted, unique, without nulls; dates or datetimes.
        interval: such as 5m, which the bars are then held to; None infers it.
        week: "24x7" or "weekdays", which the bars are then held to; None infers the hours.

    Returns:
        The timetable; None if there are fewer than `FEWEST` bars.
    """
    if len(times) < FEWEST:
        return None
    start = times[FEWEST - 1]  # a few wrong dates, such as 1970-01-01, do not count
    sample = times.head(max(SAMPLED, int((times <= start + SAMPLE).sum())))
    found = [_infer(times, sample.head(bars), interval, week) for bars in _heads(len(sample))]
    return next((one for one in found if one.regular), found[0])


def _heads(bars: int) -> list[int]:
    """Return numbers of first bars to infer from: fewer of them, if the interval changes among the first."""
    return [bars, *(part for part in (bars // 2, bars // 4) if part >= FEWEST)]


def _infer(times: pl.Series, sample: pl.Series, interval: str | None, week: str | None) -> Timetable:
    """Infer a timetable from a sample of an asset's times."""
    steps = np.diff(clock_us(sample, None)) / _US
    unit, count = parse_interval(interval) if interval else _usual(steps)
    made = _made(unit, count, sample, None, week)
    if ((made.intraday and not made.always) or unit == "day") and (zone := _zone(times)):
        made = _made(unit, count, sample, zone, week)
    read = read_steps(made, sample[:-1], sample[1:])
    faults = int((read.missing > 0).sum()) + int((read.slots <= 0).sum())
    odd = unit == "day" and count > 1  # bars every other day are those of a daily asset with holes
    within = 1 - outside_hours(made, sample).mean() >= WITHIN
    slack = 0 if interval or made.unit != "second" else _slack(read.missing)
    regular = bool(interval or week) or (within and not odd and faults <= max(2, (1 - REGULAR) * len(steps)))
    return replace(made, regular=regular, slack=slack if regular else 0)


def _slack(missing: np.ndarray) -> int:
    """Return the least number of bars in a row of which `RARE` of the steps, or two of them, lack more.

    Args:
        missing: (N,) bars that are missing in each step of a sample.
    """
    rare = max(2, RARE * len(missing))
    return next((bars for bars in range(MOST_SLACK) if (missing > bars).sum() <= rare), MOST_SLACK)


def _usual(steps: np.ndarray) -> tuple[Unit, float]:
    """Find the interval in steps of seconds."""
    values, counts = np.unique(np.round(steps, 6), return_counts=True)
    usual = float(np.median(steps))
    if usual < 1.5 * DAY and counts.max() >= 0.3 * len(steps):
        usual = float(values[counts.argmax()])
    elif usual < 0.9 * DAY:  # times that are not round
        near = float(_ROUND[np.abs(_ROUND / usual - 1).argmin()])
        usual = near if abs(near / usual - 1) < 0.02 else usual
    for low, high, unit, count in _LONG:
        if low * DAY <= usual <= high * DAY:
            return unit, count
    return ("second", usual) if usual < DAY else ("day", float(round(usual / DAY)))


def _made(unit: Unit, count: float, sample: pl.Series, zone: str | None, week: str | None) -> Timetable:
    """Make the timetable of a sample for an interval and a clock."""
    made = Timetable(unit, count, 0.0, (), zone, ALL_WEEK, regular=True, grid=True, closed=0, slack=0)
    if unit in ("week", "month") or (unit == "day" and count > 1):
        return replace(made, phase=float(slots(replace(made, count=1.0), sample[:1])[0] % count))
    if unit == "day":
        days = list(range(5)) if week == "weekdays" else _open_days(slots(made, sample))
        if week == "24x7" or len(days) == 7:
            return made
        return replace(
            made, hours=_join_stretches([day * DAY for day in days], DAY), closed=0 if week else CLOSED_DAILY
        )
    if week == "24x7" or DAY % count:
        return _with_grid(replace(made, zone=None), sample)
    some = _with_grid(replace(made, hours=((0.0, count),)), sample)  # of a clock, which `ALL_WEEK` has none of
    hours = _open_slots(slots(some, sample), round(DAY / count), fixed=week == "weekdays")
    if week is None and len(hours) >= ALL_DAY * WEEK / count:
        return _with_grid(replace(made, zone=None), sample)
    starts = [some.phase + slot * count for slot in hours]
    return replace(some, hours=_join_stretches(starts, count), closed=0 if week else CLOSED_INTRADAY)


def _with_grid(timetable: Timetable, sample: pl.Series) -> Timetable:
    """Return the timetable with the phase that most times have, and the times of the day that are off it day by day."""
    us, width = clock_us(in_utc(sample) if timetable.always else sample, timetable.zone), round(timetable.count * _US)
    phases, counts = np.unique(us % width, return_counts=True)
    phase = int(phases[counts.argmax()])
    if counts.max() < MOSTLY * len(us):
        return replace(timetable, phase=float(np.median(us % width)) / _US, grid=False)
    off = us[us % width != phase]
    times, counts = np.unique(off % (DAY * _US), return_counts=True)
    days = len(np.unique(us // (DAY * _US)))
    daily = times[counts >= max(0.5 * days, 3)]
    return replace(timetable, phase=phase / _US, also=tuple((daily / _US).tolist()))


def _open_days(day: np.ndarray) -> list[int]:
    """Return the days of the week, from 0 for Monday, on which bars come, given the numbers of days with a bar."""
    every = (np.unique(day // 7)[:, None] * 7 + np.arange(7)).reshape(-1)  # of weeks that have bars
    every = every[(every >= day[0]) & (every <= day[-1])]
    there = np.isin(every, day)
    share = [there[every % 7 == weekday].mean() if (every % 7 == weekday).any() else 0.0 for weekday in range(7)]
    open_ = {weekday for weekday in range(7) if share[weekday] >= 0.5} | {0, 1, 2, 3}
    if not (6 in open_ and share[4] == 0):  # a week from Sunday to Thursday
        open_.add(4)
    return sorted(open_)


def _open_slots(slot: np.ndarray, per_day: int, *, fixed: bool) -> list[int]:
    """Return the slots of the week in which bars come.

    A slot counts if half of the days with bars have it. Days from Monday to Thursday are alike; a day that begins late
    or ends early, as Friday and Sunday do, has the slots of those between its own first and last.

    Args:
        slot: (N,) numbers of the slots of bars.
        per_day: slots of a day.
        fixed: True for Monday to Friday, whatever days have bars.
    """
    slot = np.unique(slot)
    day, place = np.divmod(slot, per_day)
    open_days = range(5) if fixed else _open_days(day)

    def usual(weekdays: list[int]) -> np.ndarray:
        chosen = np.isin(day % 7, weekdays)
        days = len(np.unique(day[chosen]))
        return np.bincount(place[chosen], minlength=per_day) >= max(0.5 * days, 1)

    core = usual([0, 1, 2, 3])
    if day[0] == day[-1]:  # nothing says that the market breaks at the same time each day
        core[place[0] : place[-1]] = True
    if core.all() and not fixed:  # a few days without a night, and no weekend yet: nothing says that there is one
        unseen = set(range(7)) - set((np.arange(day[0], day[-1] + 1) % 7).tolist())
        open_days = sorted({*open_days, *unseen})
    found = []
    for weekday in open_days:
        own = core
        if weekday > 3 and (day % 7 == weekday).any():
            own = usual([weekday]) if day[0] < day[-1] else core
            ends = np.flatnonzero(own)
            own[ends[0] : ends[-1]] |= core[ends[0] : ends[-1]]
        found += (weekday * per_day + np.flatnonzero(own)).tolist()
    return found


def _join_stretches(starts: list[float], length: float) -> tuple[tuple[float, float], ...]:
    """Join stretches of one length that touch."""
    joined: list[list[float]] = []
    for start in starts:
        if joined and abs(joined[-1][1] - start) < 1e-6:
            joined[-1][1] = float(start + length)
        else:
            joined.append([float(start), float(start + length)])
    return tuple((start, end) for start, end in joined)


def _zone(times: pl.Series) -> str | None:
    """Find the zone in which days begin and end at the same hour, where that of the times is none.

    Args:
        times: (N,) of an asset.

    Returns:
        One of `CLOCKS`, or None if the times have a zone other than UTC, or are as good in their own.
    """
    if not isinstance(times.dtype, pl.Datetime):
        return None
    head = times.filter(times <= times[0] + CHANGES)
    _, day, bars = np.unique(clock_us(head, None) // (DAY * _US), return_inverse=True, return_counts=True)
    head = head.filter(pl.Series(bars[day] <= 1.2 * np.median(bars[:20])))  # days of longer hours came later
    if times.dtype.time_zone not in (None, "UTC", "Etc/UTC", "GMT") or head[-1] - head[0] < MONTHS:
        return None
    own = _constancy(head, None)
    best = max(CLOCKS, key=lambda zone: _constancy(head, zone))  # the first of equal ones
    constancy = _constancy(head, best)  # low where the hours change later: that says nothing about the clock
    return best if constancy >= CONSTANT and constancy > own + 0.05 else None


def _constancy(times: pl.Series, zone: str | None) -> float:
    """Measure the share of days whose first and last bar come at the usual time of their day of the week."""
    us = clock_us(times, zone)
    day, first = np.unique(us // (DAY * _US), return_index=True)
    last = np.append(first[1:], len(us)) - 1
    shares = []
    for ends in (us[first] % (DAY * _US), us[last] % (DAY * _US)):
        for weekday in range(7):
            own = ends[day % 7 == weekday]
            if len(own) >= 4:
                shares.append(np.unique(own, return_counts=True)[1].max() / len(own))
    return float(np.mean(shares)) if shares else 0.0
