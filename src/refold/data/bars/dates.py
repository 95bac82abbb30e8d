"""Recognise the ways in which people write dates, to say in a message what would read them."""

import polars as pl

_DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%d/%m/%y")
_DAYS += ("%m/%d/%y", "%d.%m.%y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S%.f", "T%H:%M", "T%H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p")
_CLOCKS += (", %H:%M", ", %H:%M:%S", ", %I:%M:%S %p", " %H:%M:%S%z", "T%H:%M:%S%.f%z")

_SAMPLE = 100


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
