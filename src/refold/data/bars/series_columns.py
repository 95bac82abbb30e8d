"""Find which columns of a table of any numbers are the time, the asset, the label and the values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from refold.data.bars.cells import CellFormat, say
from refold.data.bars.dates import date_forms
from refold.data.bars.label_names import holds_zeros_and_ones, named_like_labels
from refold.errors import DataError

HEAD = 500
"""Number of first rows that decide what a column of texts holds, before the rest of a file is read."""

_ASSET_NAMES = ("unique_id", "series_id", "item_id")
"""Usual names of the column that tells the series of a long table apart, beside those of prices."""

_EPOCH_NAMES = ("ts", "ds", "epoch", "unix", "unixtime", "unix_time", "time_stamp")
"""Usual names of columns of seconds, milliseconds and so on since 1970, which no value says by itself."""

_OTHER_DAY = r"^\d{1,4}[-./ ]\w{1,9}[-./ ]\d{1,4}\b"
_DAY = r"^\d{4}[-./]\d\d[-./]\d\d([T ].*)?$"
_RESERVED = ("timestamp", "asset", "label")


@dataclass(frozen=True)
class SeriesColumns:
    """Say which column of a table is what.

    Attributes:
        timestamp: the column of times; None numbers the rows.
        asset: the column that tells series apart; None if there is one series.
        label: the column of labels, or None.
        values: columns of numbers.
    """

    timestamp: str | None
    asset: str | None
    label: str | None
    values: tuple[str, ...]

    @property
    def keys(self) -> dict[str, str]:
        """Canonical name -> the table's, of all that are no values."""
        pairs = {"timestamp": self.timestamp, "asset": self.asset, "label": self.label}
        return {part: column for part, column in pairs.items() if column is not None}


def find_series_columns(
    head: pl.DataFrame, found: Mapping[str, str], wanted: Sequence[str] | None, where: str, cells: CellFormat
) -> SeriesColumns:
    """Find the columns of a table of any numbers.

    Args:
        head: the first rows, with all columns.
        found: timestamp, asset and label -> the table's column, of those that have a usual name or are given.
        wanted: columns of values to read; None reads all columns of numbers.
        where: what the table is, for messages.
        cells: how numbers are written.

    Returns:
        The columns; the log says which are not used, and why.

    Raises:
        DataError: several columns hold times, no column holds numbers, or a wanted column is not there.
    """
    keys = dict(found)
    rest = [name for name in head.columns if name not in keys.values()]
    if "asset" not in keys and (asset := _asset(head, rest)):
        keys["asset"] = asset
    rest = [name for name in rest if name not in keys.values()]
    times = [name for name in rest if _holds_times(head[name])]
    times = times or [name for name in rest if _holds_other_dates(head[name])]
    if "timestamp" not in keys and times:
        if len(times) > 1:
            raise DataError(
                f"{where} has the times {' and '.join(times[:4])}; name one with data.source.table.columns.timestamp"
            )
        keys["timestamp"] = times[0]
        say(f"{where}: the times are those of column {times[0]!r}")
    if "timestamp" not in keys and (epochs := [name for name in rest if name.strip().lower() in _EPOCH_NAMES]):
        keys["timestamp"] = epochs[0]  # numbers, or texts that are refused by name if they are no times
        say(f"{where}: the times are those of column {epochs[0]!r}")
    rest = [name for name in rest if name not in keys.values()]
    if wanted is not None and (absent := [name for name in wanted if name not in rest]):
        raise DataError(f"data.source.table.values has {absent[0]!r}; {where} has the columns {_names(rest)}")
    labels = [] if wanted is not None else _leave_out_labels(head, rest, where, "label" in keys)
    rest = [name for name in rest if name not in labels]
    values = tuple(wanted) if wanted is not None else tuple(name for name in rest if _holds_numbers(head[name], cells))
    if not values:
        raise DataError(f"{where} has no column of numbers beside {_names(list(keys.values())) or 'none'}")
    if clash := next((name for name in _RESERVED if name in values), None):
        raise DataError(
            f"{where} has a column {clash!r}, a name that is reserved; rename it, leave it out with "
            f"data.source.table.values, or make it the {clash} with data.source.table.columns.{clash}={clash}"
        )
    if unused := [name for name in rest if name not in values]:
        reason = "is not among data.source.table.values" if wanted is not None else "holds no numbers"
        say(f"{where}: not used, since it {reason}: {_names(unused)}")
    if "timestamp" not in keys:
        if "asset" in keys:
            raise DataError(
                f"{where} has several series by {keys['asset']!r} and no time column; name one with "
                f"data.source.table.columns.timestamp"
            )
        say(f"{where} has no time column: its rows are numbered, as seconds from 1970-01-01 00:00:00 on")
    return SeriesColumns(keys.get("timestamp"), keys.get("asset"), keys.get("label"), values)


def _leave_out_labels(head: pl.DataFrame, names: Sequence[str], where: str, labelled: bool) -> list[str]:
    """Find columns of 0 and 1 that are named like labels, and log them: as features they would tell what is sought.

    Args:
        head: the first rows.
        names: columns that might be values.
        where: what the table is, for messages.
        labelled: whether a column of labels is named already.

    Returns:
        Columns to leave out. Of others that hold 0 and 1 alone the log says that they are features.
    """
    binary = [name for name in names if holds_zeros_and_ones(head[name])]
    labels = [name for name in named_like_labels(binary) if name not in _RESERVED]
    one = "" if labelled else f"; data.source.table.columns.label={labels[0] if labels else '...'} measures against it"
    if labels:
        say(
            f"{where}: not used, since it is named like a label and holds 0 and 1: {_names(labels)}{one}; "
            f"data.source.table.values makes it a feature"
        )
    if not labelled and (others := [name for name in binary if name not in labels and head[name].n_unique() > 1]):
        say(
            f"{where}: {_names(others)} holds 0 and 1 alone and is a feature; is it a label?{one if not labels else ''}"
        )
    return labels


def _asset(head: pl.DataFrame, names: Sequence[str]) -> str | None:
    """Find the column that tells series apart: one of a usual name, or an `id` whose values come again."""
    plain = {name: name.strip().lower().replace(" ", "_").replace("-", "_") for name in names}
    for name in names:
        if plain[name] in _ASSET_NAMES or (plain[name] == "id" and head[name].n_unique() < head.height):
            return name
    return None


def _holds_times(column: pl.Series) -> bool:
    """Test whether a column holds dates or datetimes, or texts that look like ISO 8601."""
    if column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
        return True
    if column.dtype != pl.String:
        return False
    texts = column.str.strip_chars().drop_nulls()
    texts = texts.filter(texts != "")
    return len(texts) > 0 and bool(texts.str.contains(_DAY).all())


def _holds_other_dates(column: pl.Series) -> bool:
    """Test whether a column holds dates of another form, such as 31.12.2024, which a setting reads and is no number."""
    if column.dtype != pl.String:
        return False
    texts = column.str.strip_chars().drop_nulls()
    texts = texts.filter(texts != "")
    return bool(texts.str.contains(_OTHER_DAY).all()) and bool(date_forms(texts))


def _holds_numbers(column: pl.Series, cells: CellFormat) -> bool:
    """Test whether some cell of a column is a number; a cell that is none is then refused when it is read."""
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return True
    if column.dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        return False
    texts = column.cast(pl.String).str.strip_chars().drop_nulls()
    texts = texts.filter(texts != "")
    if texts.is_empty():
        return True
    if cells.thousands:
        texts = texts.str.replace_all(cells.thousands, "", literal=True)
    texts = texts.str.replace(cells.decimal, ".", literal=True)
    return texts.cast(pl.Float64, strict=False).is_not_null().any()


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
