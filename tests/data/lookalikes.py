"""Times of bars as markets have them: made here, with the hours, holidays and clocks of the real ones."""

import functools
from datetime import date, datetime, time, timedelta

import numpy as np
import polars as pl

from refold.data.bars.calendar import sessions

EARLY = (date(2024, 7, 3), date(2024, 11, 29), date(2024, 12, 24))
"""Days of 2024 on which New York closed at 13:00."""


def every(first: datetime, last: datetime, step: str) -> pl.Series:
    return pl.datetime_range(first, last, step, eager=True).alias("timestamp")


def without(times: pl.Series, first: date, last: date) -> pl.Series:
    """The times without those from `first` to before `last`."""
    within = pl.col(times.name).is_between(pl.lit(first), pl.lit(last), closed="left")
    return times.to_frame().filter(~within).to_series()


def in_zone(times: pl.Series, zone: str) -> pl.Series:
    """Times of a clock, told in UTC; an hour that the clock skips is left out."""
    there = times.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").drop_nulls()
    return there.dt.convert_time_zone("UTC").unique().sort()


def crypto(days: int = 20, step: str = "1m") -> pl.Series:
    """Day and night, from a Monday on."""
    return every(datetime(2024, 1, 1), datetime(2024, 1, 1) + timedelta(days=days), step)


@functools.cache
def new_york(first: date = date(2024, 1, 2), last: date = date(2025, 2, 1), step: str = "5m") -> pl.Series:
    """09:30 to 16:00 on the sessions of XNYS, to 13:00 on the days before holidays; New York's clock."""
    days = sessions("XNYS", first, last)
    times = every(datetime.combine(first, time(9, 30)), datetime.combine(last, time(15, 55)), step)
    day, clock = times.dt.date(), times.dt.time()
    is_open = day.is_in(days.implode()) & clock.is_between(time(9, 30), time(15, 55))
    return times.filter(is_open & ~(day.is_in(EARLY) & (clock > time(12, 55))))


@functools.cache
def futures(last: datetime = datetime(2024, 12, 20), step: str = "5m") -> pl.Series:
    """Sunday 17:00 to Friday 16:00 with an hour's break from 16:00 on each day; Chicago's clock."""
    times = every(datetime(2024, 1, 1, 17), last, step)
    hour, weekday = times.dt.hour(), times.dt.weekday()
    within_week = (weekday <= 4) | ((weekday == 5) & (hour < 16)) | ((weekday == 7) & (hour >= 17))
    return times.filter(within_week & (hour != 16))


@functools.cache
def tokyo(days: int = 100) -> pl.Series:
    """09:00 to 11:30 and 12:30 to 15:00 on the first weekdays of 2024."""
    weekdays = pl.date_range(date(2024, 1, 1), date(2024, 12, 31), eager=True)
    weekdays = weekdays.filter(weekdays.dt.weekday() <= 5)[:days]
    times = every(datetime.combine(weekdays[0], time(9)), datetime.combine(weekdays[-1], time(14, 59)), "1m")
    clock = times.dt.time()
    within_day = clock.is_between(time(9), time(11, 29)) | clock.is_between(time(12, 30), time(14, 59))
    return times.filter(times.dt.date().is_in(weekdays.implode()) & within_day)


def days_of(weekdays: str, first: date = date(2023, 1, 2), last: date = date(2024, 3, 1)) -> pl.Series:
    """Dates of some days of the week, such as "12345" from Monday to Friday."""
    days = pl.date_range(first, last, eager=True).alias("timestamp")
    return days.filter(days.dt.weekday().is_in([int(digit) for digit in weekdays]))


def currency(step: str = "1h", hours: tuple[int, ...] = tuple(range(24))) -> pl.Series:
    """Sunday 17:00 to Friday 17:00 at some hours of New York's clock, told in UTC."""
    times = every(datetime(2023, 1, 1, 17), datetime(2024, 3, 1), step)
    hour, weekday = times.dt.hour(), times.dt.weekday()
    within_week = (weekday <= 4) | ((weekday == 5) & (hour < 17)) | ((weekday == 7) & (hour >= 17))
    return in_zone(times.filter(within_week & hour.is_in(hours)), "America/New_York")


def walk(times: pl.Series, asset: str = "A", *, seed: int = 0) -> pl.DataFrame:
    """Bars of a random walk at some times."""
    generator = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(generator.normal(0, 0.001, len(times))))
    open_ = close * np.exp(generator.normal(0, 0.0005, len(times)))
    high, low = np.maximum(open_, close) * 1.001, np.minimum(open_, close) * 0.999
    volume = np.round(1e4 * np.exp(generator.normal(0, 0.3, len(times))))
    table = {"open": open_, "high": high, "low": low, "close": close, "volume": volume}
    times = times.cast(pl.Datetime("us", getattr(times.dtype, "time_zone", None)))
    return pl.DataFrame({"timestamp": times, "asset": [asset] * len(times), **table})
