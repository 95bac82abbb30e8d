"""Read the dates of settings, and recognise the ways in which people write dates in tables.

A message can then say what would read the dates of a table.
"""

import re
from datetime import UTC, date, datetime

import polars as pl

_DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%d/%m/%y")
_DAYS += ("%m/%d/%y", "%d.%m.%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S%.f", "T%H:%M", "T%H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p")
_CLOCKS += (", %H:%M", ", %H:%M:%S", ", %I:%M:%S %p", " %H:%M:%S%z", "T%H:%M:%S%.f%z")

_SAMPLE = 100
_MIDNIGHT = re.compile(r"[ T]00:00(:00(\.0+)?)?([+-]\d\d:\d\d)?$")


def date_forms(texts: pl.Series) -> list[str]:
    """Find the strptime codes that read all of some texts.

    Args:
        texts: (N,) dates, or dates with times.

    Returns:
        Codes such as `%d/%m/%Y`; more than one if no day is above 12, none if no known form fits.
    """
    texts = texts.drop_nulls()
    sample = pl.concat([texts.head(_SAMPLE), texts.tail(_SAMPLE)])
    forms = (day + clock for day in _DAYS for clock in _CLOCKS)
    return [form for form in forms if _reads(form, sample) and _reads(form, texts)]


def _reads(form: str, texts: pl.Series) -> bool:
    kind = pl.Datetime("us", "UTC" if form.endswith("%z") else None)
    years = texts.str.strptime(kind, form, strict=False).dt.year()
    return bool(len(years)) and bool(years.is_between(1600, 2300).fill_null(False).all())


def date_setting(key: str, text: str | None) -> datetime | None:
    """Read a date among the settings of a table.

    Args:
        key: of data.source.table, for the message.
        text: ISO date, or None.

    Raises:
        ValueError: it is not a date.
    """
    if text is None:
        return None
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError(f"data.source.table.{key} is {text!r}; it must be a date such as 2011-06-30") from None


def moment_in_words(moment: object) -> str:
    """Return a time as text, without the clock at midnight: daily bars often come as datetimes.

    Args:
        moment: date, datetime, or its text.
    """
    return _MIDNIGHT.sub("", str(moment))


def as_moment(when: datetime, dtype: pl.DataType) -> pl.Expr:
    """Return a literal to compare with a column of dates or datetimes.

    Args:
        when: moment; without a time zone it is in the zone of the column.
        dtype: pl.Date or a pl.Datetime.
    """
    if dtype == pl.Date:
        # a day is at or after a time of it only if that time is its midnight
        day = when.date() if when.time() == when.min.time() else date.fromordinal(when.toordinal() + 1)
        return pl.lit(day)
    assert isinstance(dtype, pl.Datetime)
    zone, unit = dtype.time_zone, dtype.time_unit
    if zone is None:
        return pl.lit(when.replace(tzinfo=None)).cast(pl.Datetime(unit))
    if when.tzinfo is None:
        return pl.lit(when).cast(pl.Datetime(unit)).dt.replace_time_zone(zone)
    return pl.lit(when.astimezone(UTC)).dt.convert_time_zone(zone).cast(pl.Datetime(unit, zone))
