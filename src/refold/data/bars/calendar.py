"""When bars were to be expected: the moments that any asset has, or the sessions of an exchange."""

import difflib
from datetime import date

import holidays
import polars as pl

from refold.errors import DataError


def sessions(exchange: str, first: date, last: date) -> pl.Series:
    """Days from first to last on which an exchange traded: weekdays that are not its holidays or special closings.

    Args: exchange: market identifier code (ISO 10383), such as XNYS. Raises: DataError: the exchange is not known.
    Source: the `holidays` package, which knows single closings too, such as New York's of 2001-09-11 and 2012-10-29.
    """
    codes = holidays.list_supported_financial()
    if exchange not in codes:
        near = difflib.get_close_matches(exchange, codes, n=1)
        hint = f"; did you mean {near[0]}?" if near else " such as XNYS, XLON or XJPX"
        raise DataError(
            f"data.checks.calendar is {exchange!r}; it must be union, null or the code of an exchange{hint}"
        )
    closed = holidays.financial_holidays(exchange, years=range(first.year, last.year + 1))
    days = pl.date_range(first, last, eager=True).alias("timestamp")
    return days.filter((days.dt.weekday() <= 5) & ~days.is_in(list(closed)))


def moments(timestamps: pl.Series, exchange: str | None) -> tuple[pl.Series, pl.Series | None]:
    """The calendar of a set of bars, and the sessions of the exchange if there is one.

    The calendar holds every moment that any asset has, and one moment for each session on which no asset has a bar.

    Args: timestamps: (N,) of all assets. exchange: None looks at the bars alone.
    """
    union = timestamps.unique().drop_nulls().sort()
    if exchange is None or union.is_empty():
        return union, None
    days = union.dt.date()
    open_days = sessions(exchange, days[0], days[-1])
    lacking = open_days.filter(~open_days.is_in(days.unique().implode()))
    if union.dtype == pl.Date:
        return pl.concat([union, lacking]).sort(), open_days
    zone = union.dtype.time_zone
    midnights = lacking.cast(pl.Datetime(union.dtype.time_unit))
    midnights = midnights.dt.replace_time_zone(zone) if zone else midnights
    return pl.concat([union, midnights]).sort(), open_days


def not_session(open_days: pl.Series | None) -> pl.Expr:
    """Whether a bar lies on a day without a session."""
    if open_days is None:
        return pl.lit(False)
    return ~pl.col("timestamp").dt.date().is_in(open_days.implode())
