"""From a user's table to the canonical one: timestamp, asset, and what there is of open, high, low, close, volume.

Long tables have one row per asset and bar; wide tables have one row per bar and a column of closes per asset.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Literal

import polars as pl

from refold.bounds import checked, more_than
from refold.errors import DataError

OHLCV = ("open", "high", "low", "close", "volume")
PRICES = ("open", "high", "low", "close")
NUMBERS = (*OHLCV, "adjusted_close")
COLUMNS = ("timestamp", "asset", *NUMBERS)
ROW = "row of the table"
"""Column that the number of a row, from 0, travels in, so that messages can name it."""

Shape = Literal["auto", "long", "wide"]

# lower case, blanks and dashes as underscores
_USUAL_NAMES = {
    "timestamp": ("timestamp", "date", "datetime", "time"),
    "asset": ("asset", "symbol", "ticker", "name"),
    "adjusted_close": ("adjusted_close", "adj_close"),
    **{name: (name,) for name in OHLCV},
}


class Table:
    """How a user's table is read. All sources of tables share it; the keys stand under data.source.table.

    Args: shape: "auto" takes a table with an asset column, or with one of open, high, low, close, for long, any other
        for wide. columns: canonical name -> the table's, where the usual names do not do. timestamp_format: strptime
        codes for dates that are texts; None expects ISO 8601. price_scale: factor of all prices, such as 0.01 for
        integer cents. adjusted: scale prices by adjusted close / close. assets: those to keep; None keeps all. start,
        end: ISO dates; bars from start on and before end are kept; None is no limit.
    """

    @checked("data.source.table")
    def __init__(
        self,
        *,
        shape: Shape,
        columns: Mapping[str, str | None],
        timestamp_format: str | None,
        price_scale: Annotated[float, more_than(0)],
        adjusted: bool,
        assets: Sequence[str] | None,
        start: str | None,
        end: str | None,
    ) -> None:
        self.shape = shape
        self.columns = dict(columns)
        self.timestamp_format = timestamp_format
        self.price_scale = price_scale
        self.adjusted = adjusted
        self.assets = None if assets is None else list(assets)
        self.start = _date_setting("start", start)
        self.end = _date_setting("end", end)

    def canonical(self, table: pl.DataFrame, *, where: str, single_asset: str, piece: bool = False) -> pl.DataFrame:
        """The canonical table; values may be texts or numbers. Rows keep their order.

        Args: table: may have the numbers of its rows in a column ROW. where: what the table is, for messages.
            single_asset: name of the asset of a long table without an asset column. piece: it is a part of a table, and
            may be empty.
        Raises: DataError: there are no rows, a column is missing, or a text is not a date or a number.
        """
        rows = table[ROW] if ROW in table.columns else None
        table = table.drop(ROW, strict=False)
        if table.height == 0 and not piece:
            raise DataError(f"{where} has no rows; it needs a header and at least data.window_size bars")
        found = self.find(table.columns, where)
        read = _Reader(where, rows)
        bars = self._wide(table, found, read) if self.is_wide(found) else self._long(table, found, read, single_asset)
        bars = bars.with_columns(
            pl.col(name) * self.price_scale for name in (*PRICES, "adjusted_close") if name in bars.columns
        )
        bars = adjust(bars, where) if self.adjusted else bars
        kept = bars.filter(*self._wanted(bars.schema))
        if kept.height == 0 and not piece:
            raise DataError(
                f"{where} has no bars of data.source.table.assets {self.assets or 'all'} from data.source.table.start "
                f"{self.start} to before data.source.table.end {self.end}; it has "
                f"{_some(bars['asset'].unique().sort())} from {bars['timestamp'].min()} to {bars['timestamp'].max()}"
            )
        return kept.select(name for name in ("timestamp", "asset", *OHLCV) if name in kept.columns)

    def push_down(self, scan: pl.LazyFrame, where: str) -> pl.LazyFrame:
        """What of `canonical` can be done before a table is read: only columns and rows that it would keep."""
        schema = scan.collect_schema()
        number = [ROW] if ROW in schema.names() else []
        found = self.find([name for name in schema.names() if name != ROW], where)
        if self.is_wide(found):
            assets = [name for name in schema.names() if name not in (found["timestamp"], ROW)]
            scan = scan.select(found["timestamp"], *number, *filter(self.keeps, assets))
        else:
            scan = scan.select(sorted({*found.values(), *number}, key=schema.names().index))
        return scan.filter(*self._wanted({part: schema[column] for part, column in found.items()}, found))

    def keeps(self, asset: str) -> bool:
        """Whether an asset is among those to keep."""
        return self.assets is None or asset in self.assets

    def find(self, present: Sequence[str], where: str) -> dict[str, str]:
        """Which column of a table plays each canonical part.

        Raises: DataError: a chosen column does not exist, a part has two candidates, or there is no timestamp.
        """
        plain = {column: column.strip().lower().replace(" ", "_").replace("-", "_") for column in present}
        found = {}
        for part in COLUMNS:
            chosen = self.columns.get(part)
            if chosen is not None and chosen not in present:
                raise DataError(f"data.source.table.columns.{part} is {chosen!r}; {where} has {_some(present)}")
            candidates = [column for column in present if plain[column] in _USUAL_NAMES[part]]
            if chosen is None and len(candidates) > 1:
                raise DataError(
                    f"{where} has {' and '.join(candidates)}; name one with data.source.table.columns.{part}"
                )
            if chosen is not None or candidates:
                found[part] = chosen or candidates[0]
        if "timestamp" not in found:
            usual = ", ".join(_USUAL_NAMES["timestamp"])
            raise DataError(
                f"{where} has no date column; its columns are {_some(present)}, and none of them is {usual}. "
                f"Name it with data.source.table.columns.timestamp"
            )
        return found

    def is_wide(self, found: Mapping[str, str]) -> bool:
        """Whether a table with these parts has a column of closes per asset."""
        return self.shape == "wide" or (self.shape == "auto" and not set(found) & {"asset", *PRICES})

    def _wanted(self, schema: Mapping[str, pl.DataType], found: Mapping[str, str] | None = None) -> list[pl.Expr]:
        """Filters for assets and dates, of the parts whose types allow it."""
        name = (lambda part: found[part]) if found else (lambda part: part)
        filters = []
        if self.assets is not None and schema.get("asset") == pl.String:
            filters.append(pl.col(name("asset")).is_in(self.assets))
        if schema["timestamp"] == pl.Date or isinstance(schema["timestamp"], pl.Datetime):
            moment = pl.col(name("timestamp"))
            if self.start is not None:
                filters.append(moment >= as_moment(self.start, schema["timestamp"]))
            if self.end is not None:
                filters.append(moment < as_moment(self.end, schema["timestamp"]))
        return filters

    def _wide(self, table: pl.DataFrame, found: Mapping[str, str], read: "_Reader") -> pl.DataFrame:
        assets = [name for name in table.columns if name != found["timestamp"]]
        if not assets:
            raise DataError(f"{read.where} has only the date column; a wide table has one column of closes per asset")
        timestamps = table.select(read.timestamp(table[found["timestamp"]], self.timestamp_format))
        closes = table.select(read.number(table[name]) for name in assets)
        clash = {"timestamp": "timestamp "} if "timestamp" in assets else {}
        wide = pl.concat([timestamps, closes.rename(clash)], how="horizontal")
        # an empty cell of a wide table says that the asset has no bar then: it enters late, leaves early or has a hole
        return wide.unpivot(index="timestamp", variable_name="asset", value_name="close").drop_nulls("close")

    def _long(self, table: pl.DataFrame, found: Mapping[str, str], read: "_Reader", single: str) -> pl.DataFrame:
        parts = [read.timestamp(table[found["timestamp"]], self.timestamp_format)]
        if "asset" in found:
            parts.append(table[found["asset"]].cast(pl.String).alias("asset"))
        else:
            parts.append(pl.Series("asset", [single]).new_from_index(0, table.height))
        parts.extend(read.number(table[found[part]]).alias(part) for part in NUMBERS if part in found)
        if len(parts) == 2:
            raise DataError(f"{read.where} has no prices; a long table needs one of {', '.join(OHLCV)}")
        return pl.DataFrame(parts)


def _date_setting(key: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError(f"data.source.table.{key} is {text!r}; it must be a date such as 2011-06-30") from None


def as_moment(when: datetime, dtype: pl.DataType) -> pl.Expr:
    """A literal to compare with a column of dates or datetimes; a time without a zone is in the column's own."""
    if dtype == pl.Date:
        # a day is at or after a time of it only if that time is its midnight
        day = when.date() if when.time() == when.min.time() else date.fromordinal(when.toordinal() + 1)
        return pl.lit(day)
    zone, unit = dtype.time_zone, dtype.time_unit
    if zone is None:
        return pl.lit(when.replace(tzinfo=None)).cast(pl.Datetime(unit))
    if when.tzinfo is None:
        return pl.lit(when).cast(pl.Datetime(unit)).dt.replace_time_zone(zone)
    return pl.lit(when.astimezone(UTC)).dt.convert_time_zone(zone).cast(pl.Datetime(unit, zone))


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def adjust(bars: pl.DataFrame, where: str) -> pl.DataFrame:
    """Scale open, high, low and close by adjusted close / close, and volume by the inverse: price x volume stays.

    Raises: DataError: there is no close or no adjusted close.
    """
    if not {"close", "adjusted_close"} <= set(bars.columns):
        raise DataError(f"data.source.table.adjusted is true; {where} has no adjusted close beside a close")
    factor = pl.col("adjusted_close") / pl.col("close")
    prices = [pl.col(name) * factor for name in ("open", "high", "low", "close") if name in bars.columns]
    volume = [pl.col("volume") / factor] if "volume" in bars.columns else []
    return bars.with_columns(prices + volume)


_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?P<seconds>:\d\d(\.\d+)?)?(?P<offset>Z|[+-]\d\d:?\d\d)?")


def _iso(texts: pl.Series) -> pl.Series:
    """ISO 8601 texts, all of the form of the first: dates, local times, or times with an offset (kept as UTC)."""
    form = _ISO_TIME.fullmatch(next(iter(texts.drop_nulls()), ""))
    if form is None:
        return texts.str.strptime(pl.Date, "%Y-%m-%d", strict=False)
    code = "%Y-%m-%d %H:%M" + ":%S%.f" * bool(form["seconds"]) + "%#z" * bool(form["offset"])
    kind = pl.Datetime("us", "UTC" if form["offset"] else None)
    plain = texts.str.replace("T", " ", literal=True).str.replace(r"Z$", "+00:00")
    return plain.str.strptime(kind, code, strict=False)


class _Reader:
    """From columns of texts or numbers to timestamps and prices.

    Args: where: what the table is, for messages. rows: numbers of its rows, from 0; None: it is whole.
    """

    def __init__(self, where: str, rows: pl.Series | None) -> None:
        self.where = where
        self.rows = rows

    def timestamp(self, column: pl.Series, timestamp_format: str | None) -> pl.Series:
        """Dates and datetimes as they are (with their time zone); texts by the format, or as ISO 8601."""
        if column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
            return column.alias("timestamp")
        texts = column.cast(pl.String).str.strip_chars()
        texts = texts.set(texts == "", None)
        if timestamp_format is None:
            parsed = _iso(texts)
            complaint = (
                "is not an ISO 8601 date such as 2024-03-28 or 2024-03-28T16:00:00+01:00; "
                "see data.source.table.timestamp_format"
            )
        else:
            pure_date = not any(code in timestamp_format for code in ("%H", "%I", "%s", "%T", "%R"))
            parsed = texts.str.strptime(pl.Date if pure_date else pl.Datetime("us"), timestamp_format, strict=False)
            complaint = f"does not fit data.source.table.timestamp_format {timestamp_format!r}"
        self._refuse(parsed.is_null() & texts.is_not_null(), column, complaint)
        return parsed.alias("timestamp")

    def number(self, column: pl.Series) -> pl.Series:
        """float64 of numbers or texts. An empty cell is null; the text NaN is a NaN, which the checks will find."""
        if column.dtype.is_numeric():
            return column.cast(pl.Float64)
        texts = column.cast(pl.String).str.strip_chars()
        texts = texts.set(texts == "", None)
        numbers = texts.cast(pl.Float64, strict=False)
        self._refuse(numbers.is_null() & texts.is_not_null(), column, "is not a number")
        return numbers

    def _refuse(self, wrong: pl.Series, column: pl.Series, complaint: str) -> None:
        """Raise a DataError that names the first wrong value, its row (the header is row 1), and how many there are."""
        count = int(wrong.sum())
        if count:
            first = int(wrong.arg_max() or 0)
            row = first if self.rows is None else int(self.rows[first])
            more = f" ({count} such values)" if count > 1 else ""
            raise DataError(f"{self.where}, row {row + 2}, column {column.name!r}: {column[first]!r} {complaint}{more}")
