"""Turn columns of a user's table into timestamps, names and numbers, and name the first cell that does not fit."""

import functools
import logging
import re
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import polars as pl

from refold.data.bars.dates import date_forms
from refold.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CellFormat:
    """Describe how numbers are written in a file, and where its rows begin.

    Args:
        decimal: mark before the fraction, "." or ",".
        thousands: mark between groups of three digits; None allows none.
        first_row: number of the first row below the header, counted from 1, for messages.
        hint: what to type if a number is not read, for messages.
        unclear: why the numbers of the file can be read in two ways; empty if they cannot.
    """

    decimal: str = "."
    thousands: str | None = None
    first_row: int = 2
    hint: str = ""
    unclear: str = ""


PLAIN = CellFormat()

_EPOCHS: dict[str, tuple[int, Literal["ms", "us", "ns"], int]] = {
    "seconds": (8, "ms", 1_000),
    "milliseconds": (11, "us", 1_000),
    "microseconds": (14, "us", 1),
    "nanoseconds": (17, "ns", 1),
}
"""Unit -> power of ten of the smallest number (of 1973), unit of the datetime, factor. A hundredfold is the largest."""

_DAYS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
"""Number of digits -> strptime codes."""

_DAY = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])\d*")
_MANY, _SHARED = 10_000, 3
"""Rows from which on each moment is read once, if assets share it: a third of the texts or less are different."""

_ISO_TIME = re.compile(
    r"\d{4}([-./])\d\d\1\d\d[T ]\d\d:\d\d(?P<seconds>:\d\d(\.(?P<fraction>\d+))?)?(?P<offset>Z|[+-]\d\d:?\d\d)?"
)
_LONGEST_MICROSECONDS = len("2024-03-28 16:00:00.000000+01:00")


class _Misfit(NamedTuple):
    """Describe the first cell of a column that does not fit, and count those like it."""

    row: int
    column: str
    value: Any
    misfits: int


@functools.cache
def say(line: str) -> None:
    """Log a line about how a file is read, once per process: a file may be read in many pieces.

    Args:
        line: one sentence, without a point at the end.
    """
    log.info(line)


class CellReader:
    """Read the columns of one table, or of a piece of one.

    A cell that does not fit becomes null; `finish` then refuses the table, with what is wrong with all columns.

    Args:
        where: what the table is, for messages.
        rows: (N,) numbers of its rows, from 0; None numbers them from 0.
        cells: how its numbers are written.
    """

    def __init__(self, where: str, rows: pl.Series | None, cells: CellFormat) -> None:
        self.where = where
        self.rows = rows
        self.cells = cells
        self.complaints: dict[str, list[_Misfit]] = {}

    def finish(self) -> None:
        """Refuse the table if a cell did not fit.

        Raises:
            DataError: names the first such cell of each column, its row, and what to type where that is known.
        """
        said = [self.cells.unclear] if self.cells.unclear else []
        for complaint, misfits in self.complaints.items():
            first = misfits[0]
            more = f" ({first.misfits} such values)" if first.misfits > 1 else ""
            others = ", ".join(repr(misfit.column) for misfit in misfits[1:6])
            others += f" and {len(misfits) - 6} more" * (len(misfits) > 6)
            others = f"; the same in {others}" if others else ""
            said.append(f"row {first.row}, column {first.column!r}: {first.value!r} {complaint}{more}{others}")
        if said:
            start = self.where if said[0] is self.cells.unclear else f"{self.where},"
            raise DataError(f"{start} {'; and '.join(said)}")

    def timestamp(self, column: pl.Series, timestamp_format: str | None) -> pl.Series:
        """Read dates or datetimes.

        Args:
            column: (N,) dates or datetimes, which are kept with their time zone; or texts or whole numbers, which are
                ISO 8601, days such as 20240328, or the time since 1970 in a unit that their size tells.
            timestamp_format: strptime codes for texts; None recognises the forms above.

        Returns:
            (N,) Date or Datetime, named timestamp; null for an empty cell.

        Raises:
            DataError: the type of the column or a cell does not fit.
        """
        if column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
            return column.alias("timestamp")
        if not (column.dtype.is_numeric() or _is_text(column.dtype)):
            self._refuse_type(column, "dates, datetimes, texts or whole numbers", "columns.timestamp")
        if column.dtype.is_float() or column.dtype.is_decimal():
            integers = column.cast(pl.Int64, strict=False)
            self._refuse((integers.cast(pl.Float64) != column.cast(pl.Float64)).fill_null(True), column, "is no date")
            column = integers.alias(column.name)
        texts = _stripped(column)
        first = next(iter(texts.drop_nulls()), "")
        if texts.len() >= _MANY and _distinct(texts) < texts.len() / _SHARED:
            moments = texts.unique()
            parsed, complaint = self._parsed(moments, first, timestamp_format, column.name)
            read = pl.DataFrame({"text": moments, "timestamp": parsed})
            parsed = texts.to_frame("text").join(read, on="text", how="left", maintain_order="left")["timestamp"]
        else:
            parsed, complaint = self._parsed(texts, first, timestamp_format, column.name)
        wrong = parsed.is_null() & texts.is_not_null()
        if wrong.any():
            self._refuse(
                wrong, column, complaint or _date_complaint(texts, first, str(texts[int(wrong.arg_max() or 0)]))
            )
        return parsed.alias("timestamp")

    def _parsed(self, texts: pl.Series, first: str, timestamp_format: str | None, name: str) -> tuple[pl.Series, str]:
        """Read texts as the first one of a column is read; return null for others, and what is wrong with those."""
        if timestamp_format is not None:
            pure_date = not any(code in timestamp_format for code in ("%H", "%I", "%s", "%T", "%R"))
            kind = pl.Date if pure_date else pl.Datetime("us")
            complaint = f"does not fit data.source.table.timestamp_format {timestamp_format!r}"
            return texts.str.strptime(kind, timestamp_format, strict=False), complaint
        if len(first) in _DAYS and _DAY.fullmatch(first):
            form = _DAYS[len(first)]
            say(f"{self.where}: the numbers of column {name!r} are read as dates, {form}")
            kind = pl.Date if len(first) == 8 else pl.Datetime("us")
            complaint = f"is not a date such as {first}; see data.source.table.timestamp_format"
            return texts.str.strptime(kind, form, strict=False), complaint
        if (unit := _epoch_unit(first)) is not None:
            say(f"{self.where}: the numbers of column {name!r} are read as {unit} since 1970, UTC")
            complaint = f"is not a number of {unit} since 1970 as {first} is; see data.source.table.timestamp_format"
            return _since_1970(texts, unit), complaint
        return _iso(texts, first), ""

    def asset(self, column: pl.Series) -> pl.Series:
        """Read the names of assets.

        Args:
            column: (N,) texts or numbers.

        Returns:
            (N,) texts, named asset; null for an empty cell or one of blanks.

        Raises:
            DataError: the column is of another type, such as binary or lists.
        """
        if not (column.dtype.is_numeric() or _is_text(column.dtype) or column.dtype in (pl.Boolean, pl.Date)):
            self._refuse_type(column, "texts or whole numbers", "columns.asset")
        names = column.cast(pl.String).alias("asset")
        if str(names.min() or "") > " ~":  # blanks sort before every other name
            return names
        return names.set(names.str.contains(r"^\s*$"), None)

    def number(self, column: pl.Series, key: str) -> pl.Series:
        """Read numbers.

        Args:
            column: (N,) numbers or texts. An empty cell is null; the text NaN is a NaN, which the checks will find.
            key: setting below data.source.table that chooses another column, for messages.

        Returns:
            (N,) float64.

        Raises:
            DataError: the type of the column or a cell does not fit.
        """
        if column.dtype.is_numeric():
            return column.cast(pl.Float64)
        if not (_is_text(column.dtype) or column.dtype == pl.Boolean):
            self._refuse_type(column, "numbers or texts", key)
        texts = _stripped(column)
        plain = texts if self.cells.decimal == "." else self._with_points(texts)
        numbers = plain.cast(pl.Float64, strict=False)
        wrong = numbers.is_null() & texts.is_not_null()
        if self.cells.decimal == "." and self.cells.thousands and wrong.any():
            numbers = self._without_groups(texts).cast(pl.Float64, strict=False)
            wrong = numbers.is_null() & texts.is_not_null()
        if wrong.any():
            unusual = re.search(r"\d[,.' \u00a0\u202f]\d", str(texts[int(wrong.arg_max() or 0)]))
            self._refuse(wrong, column, f"is not a number{self._hint(texts) if unusual else ''}")
        return numbers

    def _hint(self, texts: pl.Series) -> str:
        """Return what to type where a number may be written with other marks: the marks that read all of a column."""
        if not self.cells.hint:
            return ""
        for decimal, thousands in ((",", "."), (".", ","), (",", " "), (".", " "), (",", "'"), (".", "'")):
            other = CellReader(self.where, None, CellFormat(decimal, thousands))
            other.number(texts, "")
            if not other.complaints:
                marks = f"data.source.decimal={decimal!r} data.source.thousands={thousands!r}"
                return f"; it is one with {marks if _is_grouped(texts, thousands) else marks.partition(' ')[0]}"
        return self.cells.hint

    def label(self, column: pl.Series) -> pl.Series:
        """Read labels.

        Args:
            column: (N,) 0 and 1, as numbers, truth values or texts such as "0.0" and "true".

        Returns:
            (N,) Int8, 0 and 1, named label.

        Raises:
            DataError: the type of the column or a cell does not fit; an empty cell does not.
        """
        if not (column.dtype.is_numeric() or _is_text(column.dtype) or column.dtype == pl.Boolean):
            self._refuse_type(column, "0 and 1", "columns.label")
        numbers = column
        if _is_text(column.dtype):
            texts = _stripped(column).str.replace(self.cells.decimal, ".", literal=True).str.to_lowercase()
            numbers = texts.replace({"true": "1", "false": "0"}).cast(pl.Float64, strict=False)
        labels = numbers.cast(pl.Float64)
        wrong = ~labels.is_in([0.0, 1.0]).fill_null(False)
        self._refuse(wrong, column, "is no label; data.source.table.columns.label must name a column of 0 and 1")
        return labels.set(wrong, None).cast(pl.Int8).alias("label")

    def _without_groups(self, texts: pl.Series) -> pl.Series:
        """Remove the marks between well-formed groups of three digits."""
        mark, point = re.escape(self.cells.thousands or ""), re.escape(self.cells.decimal)
        grouped = texts.str.contains(rf"^[+-]?\d{{1,3}}({mark}\d{{3}})+({point}\d*)?$")
        return texts.zip_with(~grouped.fill_null(False), texts.str.replace_all(mark, ""))

    def _with_points(self, texts: pl.Series) -> pl.Series:
        """Replace decimal commas by points; a text that still has a point then is no number, and becomes a word."""
        plain = self._without_groups(texts) if self.cells.thousands else texts
        return plain.str.replace_all(".", "point", literal=True).str.replace(",", ".", literal=True)

    def _refuse_type(self, column: pl.Series, wanted: str, key: str) -> None:
        raise DataError(
            f"{self.where}, column {column.name!r}: it is of type {column.dtype}; it must hold {wanted}. Convert it, "
            f"or choose another column with data.source.table.{key}"
        )

    def _refuse(self, wrong: pl.Series, column: pl.Series, complaint: str) -> None:
        """Keep the first wrong value, its row and the number of wrong values for `finish`."""
        count = int(wrong.sum())
        if count:
            first = int(wrong.arg_max() or 0)
            row = self.cells.first_row + (first if self.rows is None else int(self.rows[first]))
            self.complaints.setdefault(complaint, []).append(_Misfit(row, column.name, column[first], count))


def _date_complaint(texts: pl.Series, first: str, wrong: str) -> str:
    """Say what is wrong with a text that is not read as the first one of its column is."""
    iso = "is not an ISO 8601 date such as 2024-03-28 or 2024-03-28T16:00:00+01:00; "
    if re.search(r"\.\d{7,}", wrong):  # nanoseconds, which no form of strptime may cut
        return f"{iso}see data.source.table.timestamp_format"
    if forms := date_forms(texts):
        codes = " or ".join(f"data.source.table.timestamp_format={form!r}" for form in forms)
        return f"{iso}it is a date with {codes}"
    if wrong != first and date_forms(pl.Series([first])) and date_forms(pl.Series([wrong])):
        return f"is a date of another form than {first!r}, the first of the column; write all of them in one form"
    return f"{iso}see data.source.table.timestamp_format"


def _is_grouped(texts: pl.Series, thousands: str) -> bool:
    """Test whether a mark between thousands occurs in a column of numbers."""
    return bool(texts.str.contains(thousands, literal=True).any())


def _is_text(dtype: pl.DataType) -> bool:
    return dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)


def _stripped(column: pl.Series) -> pl.Series:
    """Cast to texts without blanks around them; empty texts become null."""
    texts = column.cast(pl.String).str.strip_chars()
    return texts.set(texts == "", None)


def _epoch_unit(text: str) -> str | None:
    """Tell the unit of a time since 1970 by its size: each unit covers the years 1973 to 2286."""
    if not re.fullmatch(r"\d{9,19}", text):
        return None
    return next((unit for unit, (power, _, _) in _EPOCHS.items() if 10**power <= int(text) < 10 ** (power + 2)), None)


def _since_1970(texts: pl.Series, unit: str) -> pl.Series:
    """Convert numbers of a unit since 1970 to datetimes in UTC; null for numbers of another size."""
    power, resolution, factor = _EPOCHS[unit]
    numbers = texts.cast(pl.Int64, strict=False)
    numbers = numbers.set(~numbers.is_between(10**power, min(10 ** (power + 2), 2**63) - 1).fill_null(True), None)
    moments = (numbers * factor).cast(pl.Datetime(resolution, "UTC"))
    return moments if unit == "nanoseconds" else moments.cast(pl.Datetime("us", "UTC"))


def _iso(texts: pl.Series, first: str) -> pl.Series:
    """Parse ISO 8601 texts, all of the form of the first: dates, local times, or times with an offset (kept as UTC).

    Dates may be written with points or slashes too, the year first. Nanoseconds are kept if the first text has them;
    a text with more digits than the first allows becomes null.
    """
    if re.match(r"\d{4}[./]", first):
        texts = texts.str.replace(r"^(\d{4})[./](\d\d)[./](\d\d)", "${1}-${2}-${3}")
    form = _ISO_TIME.fullmatch(first)
    if form is None:
        return texts.str.strptime(pl.Date, "%Y-%m-%d", strict=False)
    unit = "ns" if len(form["fraction"] or "") > 6 else "us"
    code = "%Y-%m-%d %H:%M" + ":%S%.f" * bool(form["seconds"]) + "%#z" * bool(form["offset"])
    kind = pl.Datetime(unit, "UTC" if form["offset"] else None)
    plain = texts.str.replace("T", " ", literal=True).str.replace(r"Z$", "+00:00")
    parsed = plain.str.strptime(kind, code, strict=False)
    longest = plain.str.len_bytes().max()
    limit = _LONGEST_MICROSECONDS - (0 if form["offset"] else 6)
    if unit == "us" and isinstance(longest, int) and longest > limit:
        parsed = parsed.set(plain.str.contains(r"\.\d{6}\d*[1-9]").fill_null(False), None)
    return parsed


def _distinct(texts: pl.Series) -> int:
    """Estimate the number of different texts."""
    return texts.to_frame("text").select(pl.col("text").approx_n_unique()).item()
