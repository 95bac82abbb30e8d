"""Bars of a table of any length, sorted by asset, then time: read once, and from then on some rows at a time.

Rows that come in order are taken up as they come. If they do not, whole assets are sorted, some at a time: then the
longest asset has to fit into memory.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from refold.data.bars.checks import Checks
from refold.data.bars.findings import merge
from refold.data.bars.market import is_sorted, refuse_two_kinds, survey
from refold.data.long.pieces import ROWS, together
from refold.data.long.spool import TableSpool
from refold.data.sources.base import Divisible, Source
from refold.errors import DataError

SORTED = 500_000
"""Rows that are sorted together, if more than one asset makes them up."""


MOMENTS = 100_000
"""Of the longest asset, about so many moments are looked at together for what the market did."""


class Cut(NamedTuple):
    """Rows of a table, first to end, and how far the bars of their assets reach, low to high."""

    first: int
    end: int
    low: int
    high: int


class OrderedBars:
    """Canonical bars sorted by asset, then time, all of them with both.

    Args: bars: the table. assets: name -> rows, in the order of the table. findings: of `Checks.arrive`. folder: to
        keep what the market did in; None: memory.
    """

    def __init__(self, bars: pl.LazyFrame, assets: dict[str, int], findings: pl.DataFrame, folder: Path | None) -> None:
        self.bars = bars
        self.assets = assets
        self.findings = findings
        self.starts = np.cumsum([0, *assets.values()])
        self.schema = bars.collect_schema()
        self._market = self._survey(folder)

    @property
    def rows(self) -> int:
        """N."""
        return int(self.starts[-1])

    def slice(self, first: int, end: int) -> pl.DataFrame:
        """Rows first to end."""
        return self.bars.slice(first, end - first).collect()

    def cuts(self, rows: int, *, divide: bool = True) -> Iterator[Cut]:
        """All rows, so many at a time: whole assets together, or a part of one that is longer.

        Args: divide: False leaves a longer one whole.
        """
        asset = 0
        while asset < len(self.assets):
            start = int(self.starts[asset])
            asset = max(asset + 1, int(np.searchsorted(self.starts, start + rows, side="right")) - 1)
            end = int(self.starts[asset])
            step = rows if divide else end - start
            for first in range(start, end, step):
                yield Cut(first, min(first + step, end), start, end)

    def around(self, row: int, before: int, after: int) -> tuple[int, int]:
        """First row and end of the bars around one, of its own asset."""
        asset = int(np.searchsorted(self.starts, row, side="right")) - 1
        return max(int(self.starts[asset]), row - before), min(int(self.starts[asset + 1]), row + after + 1)

    def market(self, bars: pl.DataFrame) -> pl.DataFrame:
        """What the whole market did from the first to the last moment of some bars; see `checks.survey`."""
        moments = bars["timestamp"]
        return self._market.filter(pl.col("timestamp").is_between(moments.min(), moments.max())).collect()

    def _survey(self, folder: Path | None) -> pl.LazyFrame:
        """Surveys of pieces, added up in one stretch of time after the other."""
        spool, market = (TableSpool(folder and folder / name) for name in ("surveys.parquet", "market.parquet"))
        for cut in self.cuts(ROWS):
            known = int(cut.first > cut.low)  # the bar before the first one
            spool.add(survey(self.slice(cut.first - known, cut.end), skip=known))
        surveys, time = spool.table(), pl.col("timestamp").to_physical()
        ends = self.bars.select(time.min().alias("first"), time.max().alias("last")).collect(engine="streaming").row(0)
        for low, high in stretches(*ends, max(self.assets.values()) // MOMENTS + 1):
            here = surveys.filter(time >= low, time < high).group_by("timestamp").sum().sort("timestamp")
            market.add(here.collect(engine="streaming"))
        return market.table()


def stretches(first: int, last: int, count: int) -> Iterator[tuple[int, int]]:
    """The time from first to last in so many stretches, each as long: beginning and end, which it does not hold."""
    for number in range(count):
        yield tuple(first + (last + 1 - first) * place // count for place in (number, number + 1))


def batches_of(source: Source) -> Iterable[pl.DataFrame]:
    """The table of a source, some rows at a time where it can be read so. Raises: DataError."""
    return source.batches() if isinstance(source, Divisible) else [source.load()]


def in_order(
    batches: Iterable[pl.DataFrame],
    checks: Checks,
    folder: Path | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> OrderedBars:
    """Take up a table.

    Args: batches: canonical, its rows in their order. folder: to keep it in; None: memory. progress: is told of rows
        that are read.
    Raises: DataError: bars out of order, or without a date or an asset, where the checks make that an error; or their
        timestamps are of different kinds.
    """
    spool, counts, findings = TableSpool(folder and folder / "read.parquet"), Counter(), []
    known: pl.DataFrame | None = None  # the last bar of each asset
    end: pl.DataFrame | None = None  # the last bar of all
    ordered = True
    for batch in batches:
        known = batch.clear().select("timestamp", "asset") if known is None else known
        if batch["timestamp"].null_count() == batch.height:  # of texts, no form can be told from these
            batch = batch.with_columns(pl.col("timestamp").cast(known.schema["timestamp"]))
        refuse_two_kinds(known, batch)
        arrived, known, found = checks.arrive(batch, known)
        findings.append(found)
        counts.update(dict(arrived["asset"].value_counts().iter_rows()))
        ordered = ordered and is_sorted(arrived if end is None else pl.concat([end, arrived]))
        end = arrived.tail(1) if arrived.height else end
        spool.add(arrived)
        progress(batch.height)
    if not counts:
        raise DataError("the data has 0 usable rows; a window needs data.window_size bars")
    bars, assets = spool.table(), dict(sorted(counts.items()))
    if not ordered:
        bars = _sorted(bars, assets, TableSpool(folder and folder / "sorted.parquet"))
    return OrderedBars(bars, assets, merge(findings), folder)


def _sorted(bars: pl.LazyFrame, assets: dict[str, int], spool: TableSpool) -> pl.LazyFrame:
    """All bars in order, whole assets at a time."""
    for group in together(list(assets.items()), SORTED):
        chosen = bars.filter(pl.col("asset").is_in(group)).collect()
        spool.add(chosen.sort("asset", "timestamp", maintain_order=True))
    return spool.table()
