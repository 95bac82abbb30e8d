"""Read a user's table into the canonical one: timestamp, asset, and those of open, high, low, close, volume it has.

Long tables have one row per asset and bar; wide tables have one row per bar and a column of closes per asset. A column
of labels, if one is named, becomes the column `label`: 1 where a bar is known to be anomalous, else 0. Tables of any
numbers (`kind` "series") keep their columns of numbers under their own names.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Annotated, Literal

import polars as pl

from refold.bounds import checked, more_than
from refold.data.bars.adjusting import adjust_prices
from refold.data.bars.cells import PLAIN, CellFormat, CellReader, say
from refold.data.bars.dates import as_moment, date_setting, moment_in_words
from refold.data.bars.label_names import tell_labels
from refold.data.bars.series_columns import HEAD, SeriesColumns, find_series_columns
from refold.errors import DataError

OHLCV = ("open", "high", "low", "close", "volume")
PRICES = ("open", "high", "low", "close")
NUMBERS = (*OHLCV, "adjusted_close")
LABEL = "label"
"""Column of the canonical table with what is known of a bar: 1 anomalous, 0 not. It is never a feature."""

NOT_VALUES = ("timestamp", "asset", LABEL)
"""Columns of the canonical table that features are not made of."""

COLUMNS = ("timestamp", "asset", LABEL, *NUMBERS)
ROW = "row of the table"
"""Column with the number of each row, from 0, so that messages can name it."""

OWN = "refold/"
"""Begins the names of columns that travel with bars for a while, so that they are no values of a series."""

Shape = Literal["auto", "long", "wide"]
TableKind = Literal["prices", "series"]

# lower case, blanks and dashes as underscores
_USUAL_NAMES = {
    "timestamp": ("timestamp", "date", "datetime", "time", "open_time", "window_start", "ts_event"),
    "asset": ("asset", "symbol", "ticker", "name"),
    LABEL: (),  # a column of labels has to be named
    "adjusted_close": ("adjusted_close", "adj_close"),
    **{name: (name,) for name in PRICES},
    "volume": ("volume", "vol"),
}


class Table:
    """Read a user's table. All sources of tables share this class; its keys stand under data.source.table.

    Args:
        kind: "prices" reads open, high, low, close and volume, "series" any columns of numbers under their own names,
            in a row per moment (or per moment and asset, with an asset column).
        shape: "auto" reads a table with an asset column, or with one of open, high, low, close, as long, any other as
            wide.
        columns: canonical name -> the table's, for columns without a usual name, and for the column of labels.
        timestamp_format: strptime codes for dates that are texts; None recognises ISO 8601, days such as 20240328 and
            numbers of seconds, milliseconds, microseconds or nanoseconds since 1970.
        price_scale: factor of all prices, above 0, such as 0.01 for integer cents.
        adjusted: True scales prices by adjusted close / close, and volumes by the inverse.
        assets: assets to keep; None keeps all.
        start: ISO date; bars from then on are kept; None is no limit.
        end: ISO date; bars before then are kept; None is no limit.
        values: of a series, the columns of numbers to read; None reads all.

    Raises:
        ValueError: a setting is out of bounds or means nothing for the kind, or start or end is not a date.
    """

    @checked("data.source.table")
    def __init__(
        self,
        *,
        kind: TableKind,
        shape: Shape,
        columns: Mapping[str, str | None],
        timestamp_format: str | None,
        price_scale: Annotated[float, more_than(0)],
        adjusted: bool,
        assets: Sequence[str] | None,
        start: str | None,
        end: str | None,
        values: Sequence[str] | None,
    ) -> None:
        self.kind = kind
        self.shape = shape
        self.columns = dict(columns)
        self.timestamp_format = timestamp_format
        self.price_scale = price_scale
        self.adjusted = adjusted
        self.assets = None if assets is None else list(assets)
        self.start = date_setting("start", start)
        self.end = date_setting("end", end)
        self.cells = PLAIN
        self.values = None if values is None else tuple(values)
        self.label_may_lack = False
        self.series: SeriesColumns | None = None
        self._refuse_meaningless()

    def _refuse_meaningless(self) -> None:
        """Raise a ValueError for a setting that the kind of table has no use for."""
        prices = [f"columns.{part}" for part in NUMBERS if self.columns.get(part) is not None]
        meaningless = [
            *(f"{key} is {self.columns[key.partition('.')[2]]!r}" for key in prices),
            *([f"shape is {self.shape!r}"] if self.shape != "auto" else []),
            *([f"price_scale is {self.price_scale:g}"] if self.price_scale != 1 else []),
            *(["adjusted is true"] if self.adjusted else []),
        ]
        if self.kind == "series" and meaningless:
            raise ValueError(f"data.source.table.{meaningless[0]}; it means nothing for data.source.table.kind=series")
        if self.kind == "prices" and self.values is not None:
            raise ValueError("data.source.table.values is for data.source.table.kind=series; prices have usual names")

    def with_cells(self, cells: CellFormat) -> "Table":
        """Copy the settings for a file whose numbers are written in a format of its own.

        Args:
            cells: how numbers are written, and where rows begin.
        """
        other = copy(self)
        other.cells = cells
        return other

    def with_optional_label(self) -> "Table":
        """Copy the settings for tables that may lack the column of labels, such as those that a run scores."""
        other = copy(self)
        other.label_may_lack = True
        return other

    def canonical(self, table: pl.DataFrame, *, where: str, single_asset: str, piece: bool = False) -> pl.DataFrame:
        """Read a table into the canonical one. Rows keep their order.

        Args:
            table: values may be texts or numbers; a column ROW may give the numbers of the rows.
            where: what the table is, for messages.
            single_asset: name of the asset of a long table without an asset column.
            piece: True for a part of a table, which may be empty.

        Returns:
            timestamp, asset, label (Int8) if a column of labels is named, and the columns of `OHLCV` that the table
            has, or the values of a series, as float64.

        Raises:
            DataError: there are no rows, a column is missing or of a type that does not fit, a text is not a date or a
                number, or a label is neither 0 nor 1.
        """
        rows = table[ROW] if ROW in table.columns else None
        table = table.drop(ROW, strict=False)
        if table.height == 0 and not piece:
            raise DataError(f"{where} has no rows; it needs a header and at least data.window_size bars")
        read = CellReader(where, rows, self.cells)
        if self.kind == "series":
            return self._kept(self._series(table, read, single_asset), where, piece)
        found = self.find(table.columns, where)
        bars = self._wide(table, found, read) if self.is_wide(found) else self._long(table, found, read, single_asset)
        read.finish()
        bars = bars.with_columns(
            pl.col(name) * self.price_scale for name in (*PRICES, "adjusted_close") if name in bars.columns
        )
        if self.adjusted:
            bars = adjust_prices(bars, where)
        elif "adjusted_close" in bars.columns:
            adjusted = found["adjusted_close"]
            say(f"{where}: column {adjusted!r} is not used; data.source.table.adjusted=true adjusts all prices by it")
        if found["timestamp"] == "ts_event" and self.price_scale == 1.0 and _is_fixed_point(bars):
            say(
                f"{where}: the prices are Databento's fixed-point numbers, in units of 1e-9; "
                f"data.source.table.price_scale=1e-9 reads them in units of the currency"
            )
        kept = self._kept(bars, where, piece)
        return kept.select(name for name in (*NOT_VALUES, *OHLCV) if name in kept.columns)

    def _kept(self, bars: pl.DataFrame, where: str, piece: bool) -> pl.DataFrame:
        """Return the bars of the assets and dates that are kept."""
        kept = bars.filter(*self._wanted(bars.schema))
        if kept.height == 0 and not piece:
            times = self.start, self.end, bars["timestamp"].min(), bars["timestamp"].max()
            start, end, first, last = map(moment_in_words, times)
            assets = _some(bars["asset"].unique().sort())
            raise DataError(
                f"{where} has no bars of data.source.table.assets {self.assets or 'all'} from data.source.table.start "
                f"{start} to before data.source.table.end {end}; it has {assets} from {first} to {last}"
            )
        return kept

    def push_down(self, scan: pl.LazyFrame, where: str) -> pl.LazyFrame:
        """Select the columns and rows that `canonical` would keep, before a table is read.

        Args:
            scan: the table; a column ROW is kept.
            where: what the table is, for messages.

        Returns:
            The table with fewer columns and rows, not read yet.

        Raises:
            DataError: a column is missing.
        """
        schema = scan.collect_schema()
        number = [ROW] if ROW in schema.names() else []
        if self.kind == "series":
            settled = self.settled(scan.head(HEAD).collect() if self.series is None else pl.DataFrame(), where)
            assert settled.series is not None
            keys = settled.series.keys
            scan = scan.select(*keys.values(), *settled.series.values, *number)
            types = {part: schema[column] for part, column in keys.items()}
            return scan.filter(*self._wanted(types, keys))
        found = self.find([name for name in schema.names() if name != ROW], where)
        if self.is_wide(found):
            keys = [found[part] for part in ("timestamp", LABEL) if part in found]
            assets = [name for name in schema.names() if name not in (*keys, ROW)]
            scan = scan.select(*keys, *number, *filter(self.keeps, assets))
        else:
            scan = scan.select(sorted({*found.values(), *number}, key=schema.names().index))
        return scan.filter(*self._wanted({part: schema[column] for part, column in found.items()}, found))

    def settled(self, head: pl.DataFrame, where: str) -> "Table":
        """Return the settings for a series whose columns are told apart by its first rows; of prices, the same ones.

        Args:
            head: the first rows of the table, with all columns.
            where: what the table is, for messages.

        Raises:
            DataError: the first rows do not show which columns are times or numbers.
        """
        if self.kind == "prices" or self.series is not None:
            return self
        head = head.drop(ROW, strict=False)
        found = {part: column for part, column in self._find(head.columns, where).items() if part in NOT_VALUES}
        other = copy(self)
        other.series = find_series_columns(head.head(HEAD), found, self.values, where, self.cells)
        if other.series.timestamp is None and (self.start or self.end):
            key = "start" if self.start else "end"
            raise DataError(f"data.source.table.{key} is a date; {where} has no time column")
        return other

    def keeps(self, asset: str) -> bool:
        """Test whether an asset is among those to keep.

        Args:
            asset: its name.
        """
        return self.assets is None or asset in self.assets

    def find(self, present: Sequence[str], where: str) -> dict[str, str]:
        """Find the column of a table for each canonical one.

        Args:
            present: names of the table's columns.
            where: what the table is, for messages.

        Returns:
            Canonical name -> the table's.

        Raises:
            DataError: a chosen column does not exist, two columns have usual names of the same, there is no timestamp,
                or the column of labels has another part already.
        """
        found = self._find(present, where)
        if "timestamp" not in found:
            usual = ", ".join(_USUAL_NAMES["timestamp"][:4])
            raise DataError(
                f"{where} has no date column; its columns are {_some(present)}, and none of them is {usual}. "
                f"Name it with data.source.table.columns.timestamp"
            )
        tell_labels(present, found, where, wide=self.is_wide(found))
        return found

    def _find(self, present: Sequence[str], where: str) -> dict[str, str]:
        """Find the columns that are given or have usual names."""
        plain = {column: column.strip().lower().replace(" ", "_").replace("-", "_") for column in present}
        found = {}
        for part in COLUMNS if self.kind == "prices" else NOT_VALUES:
            chosen = self.columns.get(part)
            if part == LABEL and self.label_may_lack and chosen not in present:
                continue
            if chosen is not None and chosen not in present:
                raise DataError(f"data.source.table.columns.{part} is {chosen!r}; {where} has {_some(present)}")
            candidates = [column for column in present if plain[column] in _USUAL_NAMES[part]]
            if chosen is None and len(candidates) > 1:
                raise DataError(
                    f"{where} has {' and '.join(candidates)}; name one with data.source.table.columns.{part}"
                )
            if chosen is not None or candidates:
                found[part] = chosen or candidates[0]
        others = {column: part for part, column in found.items() if part != LABEL}
        if (part := others.get(found.get(LABEL, ""))) is not None:
            raise DataError(
                f"data.source.table.columns.label is {found[LABEL]!r}, which is the {part} of {where}; name the column "
                f"of labels, or another {part} with data.source.table.columns.{part}"
            )
        return found

    def is_wide(self, found: Mapping[str, str]) -> bool:
        """Test whether a table is wide: one column of closes per asset.

        Args:
            found: canonical name -> the table's; see `find`.
        """
        return self.shape == "wide" or (self.shape == "auto" and not set(found) & {"asset", *PRICES})

    def _wanted(self, schema: Mapping[str, pl.DataType], found: Mapping[str, str] | None = None) -> list[pl.Expr]:
        """Return filters for assets and dates, for the columns whose types allow it."""
        names = found or {"timestamp": "timestamp", "asset": "asset"}
        filters = []
        if self.assets is not None and schema.get("asset") == pl.String:
            filters.append(pl.col(names["asset"]).is_in(self.assets))
        time = schema.get("timestamp")
        if time is not None and (time == pl.Date or isinstance(time, pl.Datetime)):
            moment = pl.col(names["timestamp"])
            if self.start is not None:
                filters.append(moment >= as_moment(self.start, time))
            if self.end is not None:
                filters.append(moment < as_moment(self.end, time))
        return filters

    def _series(self, table: pl.DataFrame, read: CellReader, single: str) -> pl.DataFrame:
        """Read a table of any numbers: a row per moment, or per moment and asset, and a column per value."""
        found = self.settled(table, read.where).series
        assert found is not None
        if found.timestamp is None:
            rows = pl.int_range(table.height, eager=True) if read.rows is None else read.rows.cast(pl.Int64)
            times = (rows * 1_000_000).cast(pl.Datetime("us")).alias("timestamp")
        else:
            times = read.timestamp(table[found.timestamp], self.timestamp_format)
        parts = [times]
        if found.asset is None:
            parts.append(pl.Series("asset", [single]).new_from_index(0, table.height))
        else:
            parts.append(read.asset(table[found.asset]))
        if found.label is not None:
            parts.append(read.label(table[found.label]))
        for name in found.values:
            column = table[name].cast(pl.Float64) if table.schema[name] == pl.Boolean else table[name]
            parts.append(read.number(column, "values").alias(name))
        read.finish()
        return pl.DataFrame(parts)

    def _wide(self, table: pl.DataFrame, found: Mapping[str, str], read: CellReader) -> pl.DataFrame:
        """Read a wide table into one row per asset and moment."""
        keys = [found[part] for part in ("timestamp", LABEL) if part in found]
        assets = [name for name in table.columns if name not in keys]
        if not assets:
            raise DataError(f"{read.where} has only the date column; a wide table has one column of closes per asset")
        index = table.select(read.timestamp(table[found["timestamp"]], self.timestamp_format))
        if LABEL in found:
            index = index.with_columns(read.label(table[found[LABEL]]))
        closes = table.select(read.number(table[name], "assets") for name in assets)
        clashes = {name: f"{name} " for name in index.columns if name in assets}
        wide = pl.concat([index, closes.rename(clashes)], how="horizontal")
        # an empty cell of a wide table says that the asset has no bar then: it enters late, leaves early or has a hole
        return wide.unpivot(index=index.columns, variable_name="asset", value_name="close").drop_nulls("close")

    def _long(self, table: pl.DataFrame, found: Mapping[str, str], read: CellReader, single: str) -> pl.DataFrame:
        """Read a long table; all rows belong to `single` if it has no asset column."""
        parts = [read.timestamp(table[found["timestamp"]], self.timestamp_format)]
        if "asset" in found:
            parts.append(read.asset(table[found["asset"]]))
        else:
            parts.append(pl.Series("asset", [single]).new_from_index(0, table.height))
        numbers = [part for part in NUMBERS if part in found]
        parts.extend(read.number(table[found[part]], f"columns.{part}").alias(part) for part in numbers)
        if len(parts) == 2:
            raise DataError(f"{read.where} has no prices; a long table needs one of {', '.join(OHLCV)}")
        if LABEL in found:
            parts.append(read.label(table[found[LABEL]]))
        return pl.DataFrame(parts)


def _is_fixed_point(bars: pl.DataFrame) -> bool:
    """Test whether all prices are whole numbers of at least 1e-3 in units of 1e-9."""
    prices = pl.col(name for name in PRICES if name in bars.columns)
    fits = ((prices >= 1e6) & (prices == prices.round())).fill_null(True)
    return bars.select(pl.all_horizontal(fits.all())).item() if set(PRICES) & set(bars.columns) else False


def value_columns(columns: Iterable[str], kind: TableKind) -> list[str]:
    """List the columns of canonical bars that hold values.

    Args:
        columns: of the bars; names that begin with OWN are passed over.
        kind: of the table.
    """
    if kind == "prices":
        present = set(columns)
        return [name for name in OHLCV if name in present]
    return [name for name in columns if name not in NOT_VALUES and not name.startswith(OWN)]


def _some(names: Iterable[str]) -> str:
    """List at most twelve names."""
    names = list(names)
    return ", ".join(repr(name) for name in names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
