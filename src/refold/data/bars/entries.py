"""The entries of data.features: built-in features, columns, transforms of columns, and expressions of one's own.

    log_return                                                  a built-in feature
    yield_10y                                                   the value of a column
    diff(yield_10y)                                             a transform of one
    {name: basis, expression: "close - future", lookback: 1}    an SQL expression, and the bars that it looks at

An entry that is not built in may be read in two ways where a column has the name of a built-in feature: the column is
meant. `Feature.entry` says which it was, so that a run reads its own features the same way whatever it scores.
"""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import polars as pl

from refold.bounds import complaint, within
from refold.data.bars import features as built_in
from refold.data.bars import transforms
from refold.data.bars.expressions import parse
from refold.data.bars.features import Feature
from refold.data.bars.table import NOT_VALUES, OHLCV, OWN, PRICES, TableKind
from refold.errors import DataError

Entry = str | Mapping[str, Any]

DAILY = ("overnight_return", "intraday_return", "parkinson_range", "trailing_volatility_20", "relative_volume_20")
"""Features of tables with open, high, low, close and volume: those of conf/data/stocks.yaml."""

_HEAD = 1000
"""Rows in which most columns of a table show a value."""

_COLUMN_KEYS, _EXPRESSION_KEYS = {"name", "column"}, {"name", "expression", "lookback"}
_LOOKBACK = Annotated[int, within(1, transforms.LONGEST)]


def name_of(entry: Entry) -> str:
    """Return the name that an entry gives its feature.

    Args:
        entry: of data.features.

    Raises:
        DataError: a mapping has no name, or keys that mean nothing.
    """
    if isinstance(entry, str):
        return entry
    if not isinstance(entry, Mapping):
        raise DataError(f"data.features has {entry!r}; an entry is a text, or a mapping with name and expression")
    keys = set(map(str, entry))
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"data.features has {dict(entry)}; such an entry needs a name")
    if keys not in (_COLUMN_KEYS, _EXPRESSION_KEYS):
        raise DataError(
            f"data.features has {name} with {', '.join(sorted(keys))}; an entry of one's own has the keys name, "
            f"expression and lookback, such as {{name: basis, expression: 'close - future', lookback: 1}}"
        )
    return name


def find_feature(entry: Entry, available: Collection[str] | None = None) -> Feature:
    """Find the feature of an entry.

    Args:
        entry: of data.features.
        available: columns of the bars, whose names come before those of built-in features; None for the entry of a
            feature that was found before (`Feature.entry`).

    Returns:
        The feature.

    Raises:
        DataError: there is no such feature or column (the message names the nearest), a number is out of bounds, or an
            expression cannot be a feature.
    """
    name = name_of(entry)
    if isinstance(entry, Mapping):
        return _as_in_table(name, str(entry["column"])) if "column" in entry else _expression(name, entry)
    if available is not None and name in available:
        return _as_in_table(name, name)
    if match := re.fullmatch(r"\s*(\w+)\(\s*(.+?)\s*\)\s*", name, re.ASCII):
        transform = transforms.find_transform(match[1])
        if isinstance(transform, str):
            raise DataError(f"data.features has {name!r}; {transform}")
        column = match[2]
        return Feature(name, transform.expression(pl.col(column)), (column,), transform.lookback, transform.unit)
    values = [column for column in available or () if column not in OHLCV]
    if values and not built_in.is_built_in(name):
        near = difflib.get_close_matches(name, [*values, *built_in.PLAIN], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DataError(
            f"data.features has {name!r}; {hint}The table has the columns {some(values)}; an entry is one of them, a "
            f"transform such as diff({values[0]}), or a mapping with name, expression and lookback"
        )
    return built_in.find(name)


def find_all(entries: Sequence[Entry], available: Collection[str]) -> tuple[Feature, ...]:
    """Find the features of data.features, and refuse those that the columns at hand do not allow.

    Args:
        entries: of data.features.
        available: columns of the bars.

    Returns:
        The features, in the order of the entries.

    Raises:
        DataError: there are no entries, or one is unknown, is given twice, or needs a column that is not available.
    """
    if not entries:
        raise DataError("data.features is empty; name at least one, such as [log_return]")
    names = [name_of(entry) for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"data.features has {', '.join(twice)} more than once")
    available = [column for column in available if column not in NOT_VALUES and not column.startswith(OWN)]
    features = tuple(find_feature(entry, available) for entry in entries)
    for feature in features:
        lacking = [column for column in feature.columns if column not in available]
        if lacking:
            near = difflib.get_close_matches(lacking[0], available, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near and feature.entry is not None else ""
            raise DataError(
                f"data.features has {feature.name}, which needs {', '.join(lacking)}; the source has only "
                f"{some(available)}{hint}"
            )
    return features


def columns_of(entries: Sequence[Entry]) -> set[str]:
    """Return the columns that features are made of.

    Args:
        entries: of features that were found before (`Feature.saved`).
    """
    return {column for entry in entries for column in find_feature(entry).columns}


def choose(available: Sequence[str], kind: TableKind) -> tuple[Entry, ...]:
    """Choose the features of a table whose data.features is null.

    Args:
        available: columns of the bars, without timestamp and asset.
        kind: "series" takes every column as it is; "prices" takes those of `DAILY` that the columns allow, or the log
            return of the close if there is no open, high or low.

    Returns:
        Entries of data.features.

    Raises:
        DataError: there is no close to take returns of.
    """
    if kind == "series":
        return tuple({"name": column, "column": column} for column in available)
    if set(PRICES) <= set(available):
        return tuple(name for name in DAILY if set(built_in.find(name).columns) <= set(available))
    if "close" in available:
        return ("log_return",)
    raise DataError(
        f"data.features is null, and the source has only {some(available)}: name features, such as "
        f"[log({next(iter(available), 'column')})], or read any numbers with data.source.table.kind=series"
    )


def usable_columns(bars: pl.LazyFrame, columns: Sequence[str], kind: TableKind) -> list[str]:
    """Return the columns that features are chosen from.

    Of prices, a volume that is 0 somewhere is left out, since its log is no number. Of a series, columns without any
    value are left out, unless all are empty.

    Args:
        bars: canonical table.
        columns: names of its columns of values.
        kind: of the table.
    """
    if kind == "series":
        empty = _empty(bars, _empty(bars.head(_HEAD), columns))  # columns that begin with values need no second pass
        return [name for name in columns if name not in empty] or list(columns)
    if "volume" not in columns:
        return list(columns)
    zero = bars.select((pl.col("volume") == 0).any()).collect(engine="streaming").item()
    return [name for name in columns if name != "volume" or not zero]


def _empty(bars: pl.LazyFrame, columns: Sequence[str]) -> list[str]:
    """List the columns that hold no value in any row; NaN is no value."""
    if not columns:
        return []
    filled = bars.select(pl.col(name).fill_nan(None).is_not_null().any() for name in columns)
    return [name for name, some in filled.collect(engine="streaming").row(0, named=True).items() if not some]


def some(names: Collection[str]) -> str:
    """List at most twelve names.

    Args:
        names: any number.
    """
    shown = list(names)[:12]
    return ", ".join(shown) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _as_in_table(name: str, column: str) -> Feature:
    return Feature(name, pl.col(column), (column,), 1, "as in the table", entry={"name": name, "column": column})


def _expression(name: str, entry: Mapping[str, Any]) -> Feature:
    """Make a feature of an SQL expression; it has no value where its look-back is not filled or holds absent values."""
    text, lookback = entry["expression"], entry["lookback"]
    if not isinstance(text, str):
        raise DataError(f"data.features has {name}: its expression is {text!r}; it must be a text")
    if wrong := complaint(_LOOKBACK, lookback) if _is_integer(lookback) else "it must be a number of bars from 1":
        raise DataError(f"data.features has {name}: its lookback is {lookback!r}; {wrong}")
    parsed = parse(name, text)
    columns = tuple(dict.fromkeys(column for column in parsed.meta.root_names() if column != "timestamp"))
    value = parsed.cast(pl.Float64)
    if columns:
        there = pl.all_horizontal(pl.col(column).is_not_null() for column in columns).cast(pl.Int64)
        value = pl.when(there.rolling_sum(lookback, min_samples=lookback) == lookback).then(value)
    saved = {"name": name, "expression": text, "lookback": lookback}
    return Feature(name, value, columns, lookback, "expression", entry=saved)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
