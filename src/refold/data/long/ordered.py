"""Bars of a table of any length, sorted by asset, then time: read once, and from then on some rows at a time.

Rows that come in order are kept as they come. If they do not, some whole assets are sorted at a time, so the longest
asset has to fit into memory.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from refold.data.bars.checks import Checks
from refold.data.bars.expected import with_expected
from refold.data.bars.findings import FaultyRuns, merge
from refold.data.bars.market import count_jumps, is_sorted, mark_jumps, refuse_two_kinds
from refold.data.bars.table import NOT_VALUES
from refold.data.long.spool import TableSpool, store
from refold.errors import DataError

SORTED = 500_000
"""Rows that are sorted at a time, if they belong to more than one asset."""


MOMENTS = 100_000
"""About so many moments of the longest asset are counted at a time for what the market did."""


class Cut(NamedTuple):
    """Rows of a table, and the range of all rows of their assets.

    Attributes:
        first: the first row.
        end: the row after the last.
        low: the first row of the assets.
        high: the row after their last.
    """

    first: int
    end: int
    low: int
    high: int


class OrderedBars:
    """Canonical bars, sorted by asset, then time; every bar has an asset and a time.

    Args:
        bars: the table.
        assets: name -> rows, in the order of the table.
        findings: what `Checks.arrive` found.
        checks: say which bars are expected.
        folder: where to keep what the market did; None keeps it in memory.
        faulty: the runs of faulty bars that `Checks.arrive` found; their rows are not those of the sorted table.
        nameless: the rows without a date or an asset, which are in no other table.

    Attributes:
        timetables: of the assets, known or inferred.
    """

    def __init__(
        self,
        bars: pl.LazyFrame,
        assets: dict[str, int],
        findings: pl.DataFrame,
        checks: Checks,
        folder: Path | None,
        faulty: FaultyRuns | None = None,
        nameless: TableSpool | None = None,
    ) -> None:
        self.bars = bars
        self.assets = assets
        self.faulty = faulty or FaultyRuns()
        self.nameless = nameless or TableSpool(None)
        self.starts = _starts(assets)
        self.schema = bars.collect_schema()
        self.timetables = checks.timetables_of(bars, len(assets))
        self.findings = merge([findings, checks.compare(self.timetables, assets)])
        self._market = self._survey(checks, folder)

    @property
    def rows(self) -> int:
        """Number of rows, N."""
        return int(self.starts[-1] - self.starts[0])

    def keeping(self, values: Sequence[str]) -> "OrderedBars":
        """Return the same bars with some columns of values alone.

        Args:
            values: names of the columns to keep beside timestamp, asset and label.
        """
        other = copy(self)
        other.bars = self.bars.select(*(name for name in self.schema if name in NOT_VALUES or name in values))
        other.schema = other.bars.collect_schema()
        return other

    def of_assets(self, first: int, end: int) -> "OrderedBars":
        """Return the same table, of which `cuts` yields the rows of some neighbouring assets alone.

        Rows keep their numbers, and what the market did is still known of all assets.

        Args:
            first: number of the first asset.
            end: number after the last.
        """
        other = copy(self)
        other.assets = dict(list(self.assets.items())[first:end])
        other.starts = self.starts[first : end + 1]
        return other

    def shards(self, rows: int) -> list[tuple[int, int]]:
        """Group neighbouring assets, as `cuts` groups them.

        Args:
            rows: the most rows of a group of several assets.

        Returns:
            Number of the first asset of each group, and the number after its last.
        """
        return [(names.start, names.stop) for names in _groups(self.starts, rows)]

    def slice(self, first: int, end: int) -> pl.DataFrame:
        """Read the rows from `first` to before `end`."""
        return self.bars.slice(first, end - first).collect()

    def cuts(self, rows: int, *, divide: bool = True) -> Iterator[Cut]:
        """Cut the table into groups of whole assets, and assets with too many rows into parts.

        Args:
            rows: the most rows of a cut.
            divide: False leaves an asset with more rows undivided.

        Yields:
            Cuts that hold each row once, in order.
        """
        for names in _groups(self.starts, rows):
            start, end = int(self.starts[names.start]), int(self.starts[names.stop])
            step = rows if divide else end - start
            for first in range(start, end, step):
                yield Cut(first, min(first + step, end), start, end)

    def rows_near(self, row: int, before: int, after: int) -> tuple[int, int]:
        """Find the rows near a row that belong to the same asset.

        Args:
            row: number of the row.
            before: rows before it that are asked for.
            after: rows after it that are asked for.

        Returns:
            The first row, and the row after the last.
        """
        asset = int(np.searchsorted(self.starts, row, side="right")) - 1
        return max(int(self.starts[asset]), row - before), min(int(self.starts[asset + 1]), row + after + 1)

    def market(self, bars: pl.DataFrame | None = None) -> pl.DataFrame:
        """Return what all assets did at each moment; see `refold.data.bars.market.survey`.

        Args:
            bars: limit the moments to those from the first to the last of these bars; None means all moments.
        """
        if bars is None:
            return self._market.collect()
        time = bars["timestamp"]
        return self._market.filter(pl.col("timestamp").is_between(time.min(), time.max())).collect()

    def _survey(self, checks: Checks, folder: Path | None) -> pl.LazyFrame:
        """Count the jumps at each moment, in one stretch of time after the other, and add those without a bar."""
        marked = store(mark_jumps(self.bars, self.timetables.apart), folder and folder / "jumps.parquet")
        market, time = TableSpool(folder and folder / "market.parquet"), pl.col("timestamp").to_physical()
        ends = marked.select(time.min().alias("first"), time.max().alias("last")).collect(engine="streaming")
        first, last = ends.row(0)
        span = pl.Series("timestamp", [first, last]).cast(self.schema["timestamp"])
        missing = checks.expected(self.bars, self.timetables, self.assets, span)
        for low, high in stretches(first, last, max(self.assets.values()) // MOMENTS + 1):
            here = marked.filter(time >= low, time < high)
            lost = missing.filter(missing.to_physical().is_between(low, high, closed="left"))
            market.add(with_expected(count_jumps(here).collect(engine="streaming"), lost))
        return market.parts()


def stretches(first: int, last: int, count: int) -> Iterator[tuple[int, int]]:
    """Divide a range of times into stretches of about the same length.

    Args:
        first: the first time.
        last: the last time.
        count: number of stretches.

    Yields:
        Beginning and end of each stretch; the end does not belong to it.
    """
    for number in range(count):
        yield first + (last + 1 - first) * number // count, first + (last + 1 - first) * (number + 1) // count


def read_sorted(
    batches: Iterable[pl.DataFrame],
    checks: Checks,
    folder: Path | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> OrderedBars:
    """Read a table once, check how its rows arrive, and sort them by asset, then time.

    Args:
        batches: canonical bars. Those of one asset come in the order in which the table has them.
        checks: the policies for bars out of order, and for bars without a date or an asset.
        folder: an existing folder to keep the table in; None keeps it in memory.
        progress: called with the number of rows of each batch that was read.

    Returns:
        The sorted bars.

    Raises:
        DataError: there is no usable row, the timestamps are of different kinds, or bars are out of order or lack a
            date or an asset where the checks make that an error.
    """
    spool, counts, findings = TableSpool(folder and folder / "read.parquet"), Counter[str](), []
    nameless, faulty, rows = TableSpool(folder and folder / "nameless.parquet"), FaultyRuns(), 0
    last_bars: pl.DataFrame | None = None  # of each asset
    last_row: pl.DataFrame | None = None
    ordered = True
    for batch in batches:
        if last_bars is None:
            last_bars = batch.clear().select("timestamp", "asset")
        if batch["timestamp"].null_count() == batch.height:  # empty texts show no form of dates
            batch = batch.with_columns(pl.col("timestamp").cast(last_bars.schema["timestamp"]))
        refuse_two_kinds(last_bars, batch)
        arrived, last_bars, found = checks.arrive(batch, last_bars, rows)
        findings.append(found.table())
        faulty.add(found.runs)
        rows += batch.height
        if arrived.height < batch.height:
            nameless.add(batch.filter(pl.any_horizontal(pl.col("timestamp", "asset").is_null())))
        counts.update(dict(arrived["asset"].value_counts().iter_rows()))
        ordered = ordered and is_sorted(arrived if last_row is None else pl.concat([last_row, arrived]))
        last_row = arrived.tail(1) if arrived.height else last_row
        # sorted by asset, most of the file can be passed over when some assets are read from it
        spool.add(arrived if ordered else arrived.sort("asset", maintain_order=True))
        progress(batch.height)
    if not counts:
        raise DataError("the data has 0 usable rows; a window needs data.window_size bars")
    bars, assets = spool.parts(), dict(sorted(counts.items()))
    if not ordered:
        bars = _sort_by_asset(bars, assets, TableSpool(folder and folder / "sorted.parquet"))
    return OrderedBars(bars, assets, merge(findings), checks, folder, faulty, nameless)


def _sort_by_asset(bars: pl.LazyFrame, assets: dict[str, int], spool: TableSpool) -> pl.LazyFrame:
    """Sort bars, some whole assets at a time."""
    names = list(assets)
    for group in _groups(_starts(assets), SORTED):
        ends = pl.lit(names[group.start]), pl.lit(names[group.stop - 1])
        chosen = bars.filter(pl.col("asset").is_between(*ends)).collect()
        spool.add(chosen.sort("asset", "timestamp", maintain_order=True))
    return spool.parts()


def _starts(assets: dict[str, int]) -> np.ndarray:
    """Return the first row of each of A assets, and the number of all rows at the end, (A + 1,)."""
    return np.cumsum([0, *assets.values()])


def _groups(starts: np.ndarray, rows: int) -> Iterator[slice]:
    """Group neighbouring assets that have at most `rows` rows, or one asset that has more."""
    first = 0
    while first < len(starts) - 1:
        end = max(first + 1, int(np.searchsorted(starts, starts[first] + rows, side="right")) - 1)
        yield slice(first, end)
        first = end
