"""The moments at which bars are expected: those that any asset has, or the sessions of an exchange."""

import difflib
from datetime import date

import holidays
import polars as pl

from refold.errors import DataError


def sessions(exchange: str, first: date, last: date) -> pl.Series:
    """List the days on which an exchange traded: weekdays that are not its holidays or special closings.

    Args:
        exchange: market identifier code (ISO 10383), such as XNYS.
        first: first day to consider.
        last: last day to consider.

    Returns:
        Sorted dates, named timestamp.

    Raises:
        DataError: the exchange is not known.

    Source: the `holidays` package, which knows single closings too, such as New York's of 2001-09-11 and 2012-10-29.
    """
    codes = holidays.list_supported_financial()
    if exchange not in codes:
        near = difflib.get_close_matches(exchange, codes, n=1)
        hint = f"; did you mean {near[0]}?" if near else " such as XNYS, XLON or XJPX"
        raise DataError(
            f"data.checks.calendar is {exchange!r}; it must be union, 24x7, weekdays, null or the code of an "
            f"exchange{hint}"
        )
    closed = holidays.financial_holidays(exchange, years=range(first.year, last.year + 1))
    days = pl.date_range(first, last, eager=True).alias("timestamp")
    return days.filter((days.dt.weekday() <= 5) & ~days.is_in(list(closed)))


WEEKS = ("24x7", "weekdays")
"""Calendars that say on which days of the week bars come, and name no exchange."""


def moments(timestamps: pl.Series, exchange: str | None) -> tuple[pl.Series, pl.Series | None]:
    """Build the calendar of a set of bars, and list the sessions of their exchange.

    Args:
        timestamps: (N,) times of the bars of all assets, in any order, with repetitions and nulls.
        exchange: market identifier code; None looks at the bars alone.

    Returns:
        The calendar: sorted unique moments that any asset has, and one moment for each session without any bar.
        The sessions: sorted dates, or None without an exchange or without bars.

    Raises:
        DataError: the exchange is not known.
    """
    union = timestamps.unique().drop_nulls().sort()
    if exchange is None or union.is_empty():
        return union, None
    days = union.dt.date()
    open_days = sessions(exchange, days[0], days[-1])
    lacking = open_days.filter(~open_days.is_in(days.unique().implode()))
    if union.dtype == pl.Date:
        return pl.concat([union, lacking]).sort(), open_days
    assert isinstance(union.dtype, pl.Datetime)
    zone = union.dtype.time_zone
    midnights = lacking.cast(pl.Datetime(union.dtype.time_unit))
    midnights = midnights.dt.replace_time_zone(zone) if zone else midnights
    return pl.concat([union, midnights]).sort(), open_days


def not_session(open_days: pl.Series | None, week: str | None = None) -> pl.Expr:
    """Return an expression that is true for bars on a day without a session.

    Args:
        open_days: dates of the sessions; None if no exchange is named.
        week: one of `WEEKS`; Saturdays and Sundays are closed under "weekdays".
    """
    if open_days is None:
        return pl.col("timestamp").dt.weekday() > 5 if week == "weekdays" else pl.lit(False)
    return ~pl.col("timestamp").dt.date().is_in(open_days.implode())
