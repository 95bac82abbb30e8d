"""A table too long for memory, read some whole assets at a time, or some rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import polars as pl

from refold.data.bars.table import ROW, Table

BARS = 2_000_000
"""Bars of a piece, if more than one asset makes them up; some 0.5 GB while its features are computed."""

ROWS = 100_000
"""Rows that are read at a time where their order is kept."""


def pieces(
    scan: Callable[[], pl.LazyFrame], table: Table, whole: Callable[[], pl.DataFrame], **names: str
) -> list[Callable[[], pl.DataFrame]]:
    """Loaders of canonical bars, in the order of the assets' names: one, if the table is short or has one asset.

    The table is read once for its assets and once for each piece. Of Parquet that is sorted by asset, only the parts
    with the piece's assets are read.

    Args: scan: the table, lazily, with the number of each row in ROW. whole: loads all of it. names: `where` and
        `single_asset` of `Table.canonical`.
    """
    columns = [name for name in scan().collect_schema().names() if name != ROW]
    found = table.find(columns, names["where"])
    if table.is_wide(found):
        assets = sorted(name for name in columns if name != found["timestamp"] and table.keeps(name))
        rows = scan().select(pl.len()).collect(engine="streaming").item()
        counts = [(name, rows) for name in assets]
    elif "asset" in found:
        asset = _name(scan(), found["asset"])
        counted = table.push_down(scan(), names["where"]).select(asset.alias("asset")).group_by("asset").len()
        counts = sorted(counted.collect(engine="streaming").rows(), key=lambda row: (row[0] is not None, row[0]))
    else:
        return [whole]
    groups = together(counts, BARS)
    return [partial(_load, scan, table, found, group, names) for group in groups] if len(groups) > 1 else [whole]


def batches(
    parts: Callable[[], Iterator[pl.LazyFrame]],
    scan: Callable[[], pl.LazyFrame],
    table: Table,
    whole: Callable[[], pl.DataFrame],
    **names: str,
) -> Iterator[pl.DataFrame]:
    """Canonical bars, some rows at a time, in the order of the table; of a wide one, some whole assets at a time.

    Args: parts: the table, some rows at a time. The others are as of `pieces`.
    """
    columns = [name for name in scan().collect_schema().names() if name != ROW]
    if table.is_wide(table.find(columns, names["where"])):
        for load in pieces(scan, table, whole, **names):
            yield load()
        return
    empty = True
    for rows in parts():
        bars = table.canonical(table.push_down(rows, names["where"]).collect(), **names, piece=True)
        empty = empty and bars.height == 0
        if bars.height:
            yield bars
    if empty:
        yield whole()  # says why


def slices(scan: Callable[[], pl.LazyFrame]) -> Iterator[pl.LazyFrame]:
    """All rows of Parquet, ROWS at a time. `collect_batches` would read many row groups ahead."""
    rows = scan().select(pl.len()).collect(engine="streaming").item()
    for start in range(0, rows, ROWS):
        yield scan().slice(start, ROWS)


def together(counts: Sequence[tuple[str | None, int]], most: int) -> list[list[str | None]]:
    """Neighbours together, as long as they have no more than `most` rows. Args: counts: asset and rows of each."""
    groups: list[list[str | None]] = []
    room = 0
    for asset, rows in counts:
        if rows > room or not groups:
            groups.append([])
            room = most
        groups[-1].append(asset)
        room -= rows
    return groups


def _load(
    scan: Callable[[], pl.LazyFrame],
    table: Table,
    found: Mapping[str, str],
    group: list[str | None],
    names: Mapping[str, str],
) -> pl.DataFrame:
    """Canonical bars of some assets."""
    if table.is_wide(found):
        chosen = scan().select(found["timestamp"], ROW, *group)
    else:
        asset = pl.col(found["asset"])
        in_group = asset.cast(pl.String).is_in([name for name in group if name is not None])
        chosen = table.push_down(scan(), names["where"]).filter(
            in_group | asset.is_null() if None in group else in_group
        )
    return table.canonical(chosen.collect(engine="streaming"), **names, piece=True)


def _name(scan: pl.LazyFrame, column: str) -> pl.Expr:
    """A column of assets as texts; where it holds texts as it is, or no part of a file would be passed over."""
    asset = pl.col(column)
    return asset if scan.collect_schema()[column] == pl.String else asset.cast(pl.String)
