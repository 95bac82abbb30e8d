"""Read tables from files some rows at a time, and tell two versions of a file apart."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import polars as pl

from refold.data.bars.series_columns import HEAD
from refold.data.bars.table import ROW, Table

ROWS = 100_000
"""Rows of a table that are read at a time; of a wide table, cells."""


def stamp(path: Path) -> list:
    """Describe the version of a file.

    Args:
        path: the file.

    Returns:
        Absolute path, size in bytes and time of change in nanoseconds; the path alone if there is no such file.
    """
    if not path.is_file():
        return [str(path.absolute())]
    state = path.stat()
    return [str(path.absolute()), state.st_size, state.st_mtime_ns]


def asset_of(path: Path) -> str:
    """Return the name of the asset of a file that does not name one: the file's name without its endings."""
    return path.name.split(".")[0]


def canonical_batches(
    parts: Iterable[pl.LazyFrame], table: Table, load: Callable[[], pl.DataFrame], *, where: str, single_asset: str
) -> Iterator[pl.DataFrame]:
    """Turn a user's table, which comes some rows at a time, into canonical bars.

    Args:
        parts: the table in parts, each with the numbers of its rows in the column ROW.
        table: how the table is read.
        load: loads the table at once. It is called if no bar is kept, since its error says why.
        where: what the table is, for messages.
        single_asset: name of the asset of a long table without an asset column.

    Yields:
        Canonical bars, at least one.

    Raises:
        DataError: a column is missing, a text is not a date or a number, or no bar is kept.
    """
    empty = True
    for part in parts:
        if table.kind == "series" and table.series is None:  # what the first rows say of the columns holds for all
            table = table.settled(part.head(HEAD).collect(), where)
        rows = table.push_down(part, where).collect()
        bars = table.canonical(rows, where=where, single_asset=single_asset, piece=True)
        if bars.height:
            empty = False
            yield bars
    if empty:
        yield load()


def slices(scan: Callable[[], pl.LazyFrame], table: Table, where: str) -> Iterator[pl.LazyFrame]:
    """Cut a Parquet table into slices of ROWS rows, or of about as many cells if it is wide.

    `LazyFrame.collect_batches` would read many row groups ahead.

    Args:
        scan: makes a new scan of the table, with the numbers of its rows in the column ROW.
        table: how the table is read.
        where: what the table is, for messages.

    Yields:
        The slices, not read yet.
    """
    names = [name for name in scan().collect_schema().names() if name != ROW]
    wide = table.kind == "prices" and table.is_wide(table.find(names, where))
    step = max(1, ROWS // len(names)) if wide else max(1, ROWS * 8 // max(8, len(names)))
    rows = scan().select(pl.len()).collect(engine="streaming").item()
    for start in range(0, rows, step):
        yield scan().slice(start, step)
