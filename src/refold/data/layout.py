"""From a user's table to the canonical one: timestamp, asset, and what there is of open, high, low, close, volume.

Long tables have one row per asset and bar; wide tables have one row per bar and a column of closes per asset.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import polars as pl

from refold.errors import DataError

OHLCV = ("open", "high", "low", "close", "volume")
NUMBERS = (*OHLCV, "adjusted_close")
COLUMNS = ("timestamp", "asset", *NUMBERS)

Shape = Literal["auto", "long", "wide"]

# lower case, blanks and dashes as underscores
_USUAL_NAMES = {
    "timestamp": ("timestamp", "date", "datetime", "time"),
    "asset": ("asset", "symbol", "ticker", "name"),
    "adjusted_close": ("adjusted_close", "adj_close"),
    **{name: (name,) for name in OHLCV},
}


def find_columns(present: Sequence[str], chosen: Mapping[str, str | None], where: str) -> dict[str, str]:
    """Which column of a table plays each canonical part.

    Args: present: the table's columns. chosen: canonical name -> column; None or absent looks for the usual names.
        where: what the table is, for the message.
    Raises: DataError: a chosen column does not exist, a part has two candidates, or there is no timestamp.
    """
    plain = {column: column.strip().lower().replace(" ", "_").replace("-", "_") for column in present}
    found = {}
    for part in COLUMNS:
        if chosen.get(part) is not None:
            if chosen[part] not in present:
                raise DataError(f"data.source.columns.{part} is {chosen[part]!r}; {where} has {_some(present)}")
            found[part] = chosen[part]
            continue
        candidates = [column for column in present if plain[column] in _USUAL_NAMES[part]]
        if len(candidates) > 1:
            raise DataError(f"{where} has {' and '.join(candidates)}; name one with data.source.columns.{part}")
        if candidates:
            found[part] = candidates[0]
    if "timestamp" not in found:
        usual = ", ".join(_USUAL_NAMES["timestamp"])
        raise DataError(
            f"{where} has no date column; its columns are {_some(present)}, and none of them is {usual}. "
            f"Name it with data.source.columns.timestamp"
        )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def guess_shape(found: Mapping[str, str], shape: Shape) -> Literal["long", "wide"]:
    """A table with an asset column, or with one of open, high, low, close, is long; any other is wide."""
    if shape != "auto":
        return shape
    return "long" if set(found) & {"asset", "open", "high", "low", "close"} else "wide"


def canonical(
    table: pl.DataFrame,
    *,
    columns: Mapping[str, str | None],
    shape: Shape,
    timestamp_format: str | None,
    single_asset: str,
    where: str,
) -> pl.DataFrame:
    """The canonical table of a user's one; values may be texts or numbers. Rows keep their order.

    Args: single_asset: name of the asset of a long table that has no asset column. where: for messages.
    Raises: DataError: there are no rows, a column is missing, or a text is not a date or a number.
    """
    if table.height == 0:
        raise DataError(f"{where} has no rows; it needs a header and at least data.window_size bars")
    found = find_columns(table.columns, columns, where)
    if guess_shape(found, shape) == "wide":
        assets = [name for name in table.columns if name != found["timestamp"]]
        if not assets:
            raise DataError(f"{where} has only the date column; a wide table has one column of closes per asset")
        timestamps = table.select(_as_timestamp(table[found["timestamp"]], timestamp_format, where))
        closes = table.select(_as_number(table[name], where) for name in assets)
        long = pl.concat([timestamps, closes], how="horizontal")
        # an empty cell of a wide table says that the asset has no bar then: it enters late, leaves early or has a hole
        return long.unpivot(index="timestamp", variable_name="asset", value_name="close").drop_nulls("close")
    parts = [_as_timestamp(table[found["timestamp"]], timestamp_format, where)]
    parts.append(_as_asset(table, found, single_asset, where))
    parts.extend(_as_number(table[found[part]], where).alias(part) for part in NUMBERS if part in found)
    if len(parts) == 2:
        raise DataError(f"{where} has no prices; a long table needs one of {', '.join(OHLCV)}")
    return pl.DataFrame(parts)


def adjust(bars: pl.DataFrame, where: str) -> pl.DataFrame:
    """Scale open, high, low and close by adjusted close / close, and volume by the inverse: price x volume stays.

    Raises: DataError: there is no close or no adjusted close.
    """
    if not {"close", "adjusted_close"} <= set(bars.columns):
        raise DataError(f"data.source.adjusted is true; {where} has no adjusted close beside a close")
    factor = pl.col("adjusted_close") / pl.col("close")
    prices = [pl.col(name) * factor for name in ("open", "high", "low", "close") if name in bars.columns]
    volume = [pl.col("volume") / factor] if "volume" in bars.columns else []
    return bars.with_columns(prices + volume)


def _as_asset(table: pl.DataFrame, found: Mapping[str, str], single_asset: str, where: str) -> pl.Series:
    if "asset" not in found:
        return pl.Series("asset", [single_asset]).new_from_index(0, table.height)
    assets = table[found["asset"]].cast(pl.String).alias("asset")
    _refuse(assets.is_null(), table[found["asset"]], where, "is empty; it must name an asset")
    return assets


def _as_timestamp(column: pl.Series, timestamp_format: str | None, where: str) -> pl.Series:
    """Dates and datetimes as they are (with their time zone); texts by the format, or as ISO 8601."""
    if column.dtype.is_temporal() and column.dtype != pl.Time and not isinstance(column.dtype, pl.Duration):
        _refuse(column.is_null(), column, where, "is empty; it must be a date")
        return column.alias("timestamp")
    texts = column.cast(pl.String).str.strip_chars()
    if timestamp_format is not None:
        pure_date = not any(code in timestamp_format for code in ("%H", "%I", "%s", "%T", "%R"))
        kind = pl.Date if pure_date else pl.Datetime("us")
        parsed = texts.str.strptime(kind, timestamp_format, strict=False)
        _refuse(parsed.is_null(), column, where, f"does not fit data.source.timestamp_format {timestamp_format!r}")
        return parsed.alias("timestamp")
    parsed = _iso(texts)
    wanted = "is not an ISO 8601 date such as 2024-03-28 or 2024-03-28T16:00:00+01:00; see data.source.timestamp_format"
    _refuse(parsed.is_null(), column, where, wanted)
    return parsed.alias("timestamp")


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


def _as_number(column: pl.Series, where: str) -> pl.Series:
    """float64 of numbers or texts. An empty cell is null; the text NaN is a NaN, which the checks will find."""
    if column.dtype.is_numeric():
        return column.cast(pl.Float64)
    texts = column.cast(pl.String).str.strip_chars()
    texts = texts.set(texts == "", None)
    numbers = texts.cast(pl.Float64, strict=False)
    _refuse(numbers.is_null() & texts.is_not_null(), column, where, "is not a number")
    return numbers


def _refuse(wrong: pl.Series, column: pl.Series, where: str, complaint: str) -> None:
    """Raise a DataError that names the first wrong value, its row (the header is row 1), and how many there are."""
    count = int(wrong.sum())
    if count:
        row = int(wrong.arg_max() or 0)
        more = f" ({count} such values)" if count > 1 else ""
        raise DataError(f"{where}, row {row + 2}, column {column.name!r}: {column[row]!r} {complaint}{more}")


def project(bars: pl.DataFrame, wanted: Collection[str] | None) -> pl.DataFrame:
    """The canonical columns that are wanted, those there are, in canonical order."""
    return bars.select(
        name
        for name in COLUMNS
        if name in bars.columns and (wanted is None or name in ("timestamp", "asset") or name in wanted)
    )
