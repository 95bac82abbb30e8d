"""Find from the first lines of a CSV file how it is written: separator, header, decimal mark."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from refold.data.bars.cells import CellFormat, say
from refold.data.bars.table import OHLCV, ROW, Table
from refold.errors import DataError

SEPARATORS = (";", "\t", "|", ",")
"""Separators that are found. Of two that fit equally well the first is taken: a comma may be a decimal mark too."""

UNUSUAL_SEPARATORS = (*SEPARATORS, "^", "~", "#", "&", "!", " ", ":")
"""Separators that a message proposes where the chosen one leaves no column of dates."""

_HINT = "; if it is one, say how with data.source.decimal and data.source.thousands"
FIELDS = {*OHLCV, "adj_close", "dividends", "stock_splits", "capital_gains", "repaired?"}
"""Names of the prices in tables of yfinance, in lower case and with underscores."""

_TIMES = ("date", "datetime", "timestamp", "time")

_ODD_MARKS = (" ", "'", "\u00a0", "\u202f")  # between thousands; no other number has them
_NUMBER = re.compile(r"[+-]?\d*\.?\d+([eE][+-]?\d+)?")
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d\d(:\d\d(\.\d+)?)?|\d{4}|\d{6}")
_DATE = re.compile(r"\d{4}[-./]?\d\d[-./]?\d\d([T ]\d\d:?\d\d.*)?")

_OHLC = ("open", "high", "low", "close")
_WITHOUT_HEADER = {
    5: ("timestamp", *_OHLC),
    6: ("timestamp", *_OHLC, "volume"),
    7: ("timestamp", *_OHLC, "volume", "trades"),  # Kraken
    8: ("timestamp", *_OHLC, "vwap", "volume", "trades"),
    12: ("open_time", *_OHLC, "volume", "close_time", "quote_volume", "trades", "taker_base", "taker_quote", "ignore"),
}
"""Columns of the files of exchanges that have no header (Kraken, Binance), by their number."""

_METATRADER = ("date", "time", *_OHLC, "volume")
_AGGREGATES = {"t": "timestamp", "o": "open", "h": "high", "l": "low", "c": "close", "v": "volume", "n": "trades"}
"""Short names of Polygon's aggregates."""


@dataclass(frozen=True)
class CsvForm:
    """Describe how a CSV file is written.

    Args:
        separator: between cells, one byte.
        cells: how numbers are written, and where rows begin.
        header_lines: lines above the first row, at least 0.
        names: columns; None takes them from the header line.
        unnamed: columns to leave out, since they have no name.
        day_and_time: columns of the day and of the time of day, which are joined; None: there are no such two.
        tickers: for files with a column for each price and asset, (asset, price, column) of each; otherwise empty.
    """

    separator: str
    cells: CellFormat
    header_lines: int = 1
    names: tuple[str, ...] | None = None
    unnamed: tuple[str, ...] = ()
    day_and_time: tuple[str, str] | None = None
    tickers: tuple[tuple[str, str, str], ...] = ()

    def described(self) -> dict[str, str]:
        """Describe in words how the file is written."""
        decimal, thousands = self.cells.decimal, self.cells.thousands
        return {"separator": repr(self.separator), "decimal": repr(decimal), "thousands": repr(thousands)}

    def arrange(self, table: pl.LazyFrame) -> pl.LazyFrame:
        """Turn the columns of the file into those that `Table` reads.

        Args:
            table: all columns of the file, as texts, and the column ROW.

        Returns:
            The table without unnamed columns, with one column of time, and with one row per asset and bar if the file
            has a column for each price and asset.
        """
        table = table.drop(self.unnamed)
        if self.day_and_time:
            day, time = self.day_and_time
            iso_day = pl.col(day).str.strip_chars().str.replace(r"^(\d{4})(\d\d)(\d\d)$", "${1}-${2}-${3}")
            clock = pl.col(time).str.strip_chars().str.replace(r"^(\d\d)(\d\d)(\d\d)?$", "${1}:${2}:${3}")
            clock = clock.str.replace(r":$", "").str.replace(r"^(\d):", "0${1}:")
            table = table.with_columns((iso_day + " " + clock).alias(day)).drop(time)
        return self._stack(table) if self.tickers else table

    def _stack(self, table: pl.LazyFrame) -> pl.LazyFrame:
        """Put the assets of a table with a column for each price and asset one below the other."""
        stacked = []
        for asset in dict.fromkeys(asset for asset, _, _ in self.tickers):
            columns = {field: name for ticker, field, name in self.tickers if ticker == asset}
            chosen = [pl.col(name).alias(field) for field, name in columns.items()]
            rows = table.filter(pl.any_horizontal(pl.col(name).str.strip_chars() != "" for name in columns.values()))
            stacked.append(rows.select(ROW, "Date", pl.lit(asset).alias("Ticker"), *chosen))
        return pl.concat(stacked, how="diagonal")


def find_form(
    lines: Sequence[str], table: Table, *, where: str, separator: str | None, decimal: str | None, thousands: str | None
) -> CsvForm:
    """Find how a CSV file is written.

    Args:
        lines: the first lines of the file, at least one, all of them complete.
        table: how the table is read; columns that it names are not joined or renamed.
        where: what the file is, for messages.
        separator: one byte; None finds it among `SEPARATORS`.
        decimal: mark before the fraction; None finds it.
        thousands: mark between groups of three digits; None finds it.

    Returns:
        The form.

    Raises:
        DataError: two columns have the same name.
    """
    separator = separator or find_separator(lines)
    rows = [row for row in csv.reader(lines, delimiter=separator) if row]
    if not rows:
        return CsvForm(separator, CellFormat(hint=_HINT))
    form = _find_header(rows, where, separator)
    body = rows[form.header_lines :]
    names = form.names or tuple(rows[0])
    if table.columns.get("timestamp") is None:
        form = _join_time(form, names, body, where)
    decimal, thousands, unclear = _find_marks(body, where, decimal, thousands)
    return replace(form, cells=CellFormat(decimal, thousands, form.header_lines + 1, _HINT, unclear))


def find_separator(lines: Sequence[str], among: Sequence[str] = SEPARATORS) -> str:
    """Find the separator that cuts the first lines into the same number of cells, the larger the better.

    Args:
        lines: the first lines of the file.
        among: separators to choose from.

    Returns:
        One of these; a comma if none of them occurs.
    """

    def fit(separator: str) -> tuple[bool, int]:
        counts = [len(row) for row in csv.reader(lines[:20], delimiter=separator) if row]
        return len(set(counts)) == 1 and counts[0] > 1, counts[0] if counts else 0

    best = max(among, key=fit)  # the first of equals
    return best if fit(best)[1] > 1 else ","


def _find_header(rows: list[list[str]], where: str, separator: str) -> CsvForm:
    """Find how many lines the header has, and the names of the columns."""
    form = CsvForm(separator, CellFormat())
    first = [cell.strip() for cell in rows[0]]
    if names := _names_without_header(rows):
        say(f"{where} has no header; its columns are read as {', '.join(names)}")
        return replace(form, header_lines=0, names=names)
    if tickers := _find_tickers(rows):
        lines = 3 if len(rows) > 2 and not any(cell.strip() for cell in rows[2][1:]) else 2
        assets = ", ".join(dict.fromkeys(asset for asset, _, _ in tickers))
        say(f"{where} has a header of {lines} lines, with the prices of {assets}")
        names = ("Date", *(name for _, _, name in tickers))
        return replace(form, header_lines=lines, names=names, tickers=tickers)
    if twice := sorted({name for name in first if name and first.count(name) > 1}):
        raise DataError(
            f"{where} has the column {twice[0]!r} {first.count(twice[0])} times; rename all but one of them"
        )
    plain = [name.strip("<>") if re.fullmatch("<.*>", name) else name for name in first]
    if {"t", *"ohlc"} <= set(plain):
        plain = [_AGGREGATES.get(name, name) for name in plain]
    if "" not in plain:
        return form if plain == first else replace(form, names=tuple(plain))
    names = [name or f"column {number} without a name" for number, name in enumerate(plain, 1)]
    if not plain[0] and not any(_normal(name) in _TIMES for name in plain) and _all(rows[1:], 0, _DATE):
        names[0] = "timestamp"  # as pandas writes an index of dates that has no name
        say(f"{where}: the first column has no name; it holds dates and is read as timestamp")
    unnamed = tuple(name for name in names if name.endswith(" without a name"))
    if unnamed:
        say(f"{where}: {', '.join(unnamed)} is not used")
    return replace(form, names=tuple(names), unnamed=unnamed)


def _normal(name: str) -> str:
    return name.strip().strip("<>").lower().replace(" ", "_")


def _all(rows: Sequence[Sequence[str]], column: int, pattern: re.Pattern) -> bool:
    """Test whether a column has at least one cell, and all its cells have a form."""
    cells = [row[column].strip() for row in rows if len(row) > column]
    return bool(cells) and all(pattern.fullmatch(cell) for cell in cells)


def _names_without_header(rows: list[list[str]]) -> tuple[str, ...] | None:
    """Name the columns of a file of bars without a header, if its numbers are those of bars."""
    width = len(rows[0])
    names = _WITHOUT_HEADER.get(width)
    if width == len(_METATRADER) and _all(rows, 0, _DATE) and _all(rows, 1, _TIME_OF_DAY):
        names = _METATRADER
    if names is None or not (_all(rows, 0, _DATE) or _all(rows, 0, re.compile(r"\d{9,19}"))):
        return None
    start = names.index("open")
    for row in rows:
        cells = [cell.strip().replace(",", ".") for cell in row[start : start + 4]]
        if len(row) != width or not all(_NUMBER.fullmatch(cell) for cell in cells):
            return None
        open_, high, low, close = map(float, cells)
        if not low <= min(open_, close) <= max(open_, close) <= high:
            return None
    return names


def _find_tickers(rows: list[list[str]]) -> tuple[tuple[str, str, str], ...]:
    """Find (asset, price, column) of yfinance's header: a line of prices and one of tickers, in either order."""
    if len(rows) < 2 or len(rows[0]) != len(rows[1]):
        return ()
    one, other = ([cell.strip() for cell in row[1:]] for row in rows[:2])
    for fields, assets in ((one, other), (other, one)):
        are_fields = all(_normal(field) in FIELDS for field in fields)
        if fields and are_fields and all(asset and not _NUMBER.fullmatch(asset) for asset in assets):
            pairs = list(zip(assets, fields, strict=True))
            if len(set(pairs)) == len(pairs) and not re.match(r"\s*\d", rows[1][0]):
                return tuple((asset, field, f"{field} {asset}") for asset, field in pairs)
    return ()


def _join_time(form: CsvForm, names: Sequence[str], body: Sequence[Sequence[str]], where: str) -> CsvForm:
    """Join a column of days and one of times of the day; leave the times out if all are midnight, as of daily bars."""
    normal = [_normal(name) for name in names]
    if normal.count("date") != 1 or normal.count("time") != 1:
        return form
    day, time = normal.index("date"), normal.index("time")
    if not (_all(body, time, _TIME_OF_DAY) and _all(body, day, _DATE)):
        return form
    if _all(body, time, re.compile(r"0{4}|0{6}|00?:00(:00)?")):
        say(f"{where}: all times of column {names[time]!r} are midnight; the dates alone are read")
        return replace(form, names=tuple(names), unnamed=(*form.unnamed, names[time]))
    say(f"{where}: columns {names[day]!r} and {names[time]!r} are read as one")
    return replace(form, day_and_time=(names[day], names[time]))


def _find_marks(
    body: Sequence[Sequence[str]], where: str, decimal: str | None, thousands: str | None
) -> tuple[str, str | None, str]:
    """Find the marks of decimals and thousands that fit all numbers, and say what is unclear if two readings fit."""
    cells = {cell.strip() for row in body for cell in row if not cell.strip().isdigit()}
    if thousands is None:
        thousands = next((mark for mark in _ODD_MARKS if any(_grouped(mark).fullmatch(cell) for cell in cells)), None)
    if thousands in (",", "."):
        decimal = decimal or ("." if thousands == "," else ",")
    elif thousands:
        grouped = _grouped(thousands)
        cells = {cell.replace(thousands, "") if grouped.fullmatch(cell) else cell for cell in cells}
    point = any(_shows(cell, ".", ",") for cell in cells)
    comma = any(_shows(cell, ",", ".") for cell in cells)
    unclear = next((cell for cell in sorted(cells) if re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", cell)), None)
    if decimal is None and unclear and not (point or comma):
        return (
            ".",
            ",",
            f"has the number {unclear!r}, which may be {unclear.replace(',', '')} or {unclear.replace(',', '.')}; say "
            f"data.source.decimal='.' or data.source.decimal=','",
        )
    decimal = decimal or ("," if comma and not point else ".")
    if thousands is None and (decimal == "," or not (point and comma)):
        thousands = "." if decimal == "," else ","
    if decimal == ",":
        say(f"{where}: numbers are read with decimal commas, and {thousands!r} between thousands")
    return decimal, thousands, ""


def _grouped(mark: str) -> re.Pattern:
    return re.compile(rf"[+-]?\d{{1,3}}({re.escape(mark)}\d{{3}})+([.,]\d*)?")


def _shows(cell: str, decimal: str, thousands: str) -> bool:
    """Test whether a text is a number with these marks, and none with the two exchanged."""
    d, t = re.escape(decimal), re.escape(thousands)
    if not re.fullmatch(rf"[+-]?(?=.*\d)(\d+|\d{{1,3}}({t}\d{{3}})+)?({d}\d*)?([eE][+-]?\d+)?", cell):
        return False
    if decimal not in cell and cell.count(thousands) < 2:
        return False
    return not re.fullmatch(rf"[+-]?[1-9]\d{{0,2}}{d}\d{{3}}", cell)
