"""Tables that a caller holds in memory, of polars or pandas; pandas is imported only for a caller who has it."""

from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import polars as pl

from refold.data.bars.table import OHLCV, Table
from refold.data.sources.csv_form import FIELDS
from refold.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

NAME = "the frame"
"""Name of an unnamed table in messages."""

SINGLE_ASSET = "bars"
"""Name of the asset of a table of one asset: that of the file in which a run keeps the table that it was trained on."""


class FrameSource:
    """A source of bars that are in memory already.

    Args:
        frame: the user's table, long or wide.
        table: the settings by which the table is read.
    """

    def __init__(self, frame: pl.DataFrame, table: Table) -> None:
        self.frame = frame
        self.table = table

    def load(self) -> pl.DataFrame:
        """Return the canonical table.

        Raises:
            DataError: there are no rows, a column is missing, or a text is not a date or a number.
        """
        return self.table.canonical(self.frame, where=NAME, single_asset=SINGLE_ASSET)

    def identity(self) -> Any:
        """Return None: a table in memory has no recorded version."""
        return None

    def __str__(self) -> str:
        return NAME


def is_pandas(frame: Any) -> bool:
    """Return whether an object is a DataFrame of pandas."""
    return type(frame).__module__.partition(".")[0] == "pandas" and type(frame).__name__ == "DataFrame"


def is_frame(value: Any) -> "TypeGuard[pl.DataFrame | pl.LazyFrame | pd.DataFrame]":
    """Return whether an object is a table that `to_polars` takes."""
    return isinstance(value, pl.DataFrame | pl.LazyFrame) or is_pandas(value)


def to_polars(frame: "pl.DataFrame | pl.LazyFrame | pd.DataFrame") -> pl.DataFrame:
    """Return a table as a DataFrame of polars.

    Args:
        frame: a frame of polars or of pandas; an index of dates, or with a name, becomes a column. Columns of two
            levels, as yfinance makes them, are those of prices and of tickers, in either order.

    Raises:
        DataError: it is no table, or its columns are not of one kind.
    """
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if isinstance(frame, pl.DataFrame):
        return frame
    if not is_pandas(frame):
        raise DataError(f"the bars are a {type(frame).__name__}; they must be a DataFrame of polars or pandas")
    if frame.columns.nlevels > 1:
        frame = _stacked(frame)
    if len(twice := frame.columns[frame.columns.duplicated()]):
        raise DataError(f"{NAME} has the column {twice[0]} twice; each column needs a name of its own")
    if frame.index.nlevels > 1 or frame.index.name is not None or frame.index.dtype.kind == "M":
        unnamed = frame.index.nlevels == 1 and frame.index.name is None
        frame = (frame.rename_axis("timestamp") if unnamed else frame).reset_index()
    return pl.DataFrame([_series(str(name), column) for name, column in frame.items()])


def _stacked(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Put the tickers of a table of pandas with columns (price, ticker), as yfinance makes it, one below the other."""
    values = map(frame.columns.get_level_values, range(frame.columns.nlevels))
    names = [{str(name).strip().lower().replace(" ", "_") for name in level} for level in values]
    levels = [number for number, fields in enumerate(names) if fields & set(OHLCV) and fields <= FIELDS]
    if frame.columns.nlevels != 2 or len(levels) != 1:
        raise DataError(
            f"{NAME} has columns of {frame.columns.nlevels} levels; a table of bars has one, such as close, or two as "
            f"yfinance makes them: one of prices and one of tickers"
        )
    import pandas as pd

    index = frame.index.name or ("timestamp" if frame.index.dtype.kind == "M" else None)
    if index is None:
        raise DataError(f"{NAME} has no index of dates; a table with columns of prices and tickers needs one")
    ticker = 1 - levels[0]
    parts = []
    for asset in frame.columns.get_level_values(ticker).unique():
        part = frame.xs(asset, axis=1, level=ticker).dropna(how="all")  # before its first day an asset has no bars
        parts.append(part.rename_axis(index).reset_index().assign(symbol=str(asset)))
    return pd.concat(parts, ignore_index=True)


def _series(name: str, column: "pd.Series") -> pl.Series:
    """Turn a column of pandas into one of polars, without pyarrow, which polars' own conversion needs."""
    kind = column.dtype.kind if isinstance(column.dtype, np.dtype) else getattr(column.dtype, "kind", "O")
    if kind == "M":
        zone = getattr(column.dtype, "tz", None)
        moments = column if zone is None else column.dt.tz_convert("UTC").dt.tz_localize(None)
        values = pl.Series(name, _without_empty_digits(moments.to_numpy()))
        return values if zone is None else values.dt.replace_time_zone("UTC").dt.convert_time_zone(str(zone))
    if isinstance(column.dtype, np.dtype) and kind in "iufb":
        return pl.Series(name, column.to_numpy(), nan_to_null=True)  # pandas has no other sign for an empty cell
    values = column.astype(object).where(column.notna(), None)
    try:
        return pl.Series(name, values.tolist(), strict=False)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{NAME}: the column {name} holds values of different kinds: {reason}") from None


def _without_empty_digits(moments: np.ndarray) -> np.ndarray:
    """Return moments in microseconds, or in nanoseconds if some of them need those."""
    there = moments[~np.isnat(moments)]
    coarse = there.astype("datetime64[us]")
    return moments if (coarse != there).any() else moments.astype("datetime64[us]")


def returned_like(frame: Any, table: pl.DataFrame) -> "pl.DataFrame | pd.DataFrame":
    """Convert a polars table to the library that the caller's table came from.

    Args:
        frame: the frame that the caller gave.
        table: the answer.
    """
    if not is_pandas(frame):
        return table
    import pandas as pd

    return pd.DataFrame({column.name: _to_pandas_column(column) for column in table})


def _to_pandas_column(column: pl.Series) -> Any:
    """Turn a column of polars into values of pandas."""
    import pandas as pd

    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone:
        utc = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_numpy()
        return pd.Series(utc).dt.tz_localize("UTC").dt.tz_convert(column.dtype.time_zone)
    if column.dtype.is_temporal() or column.dtype.is_numeric() or column.dtype == pl.Boolean:
        return column.to_numpy()
    return column.to_list()
