"""Find the bars that a table should have and lacks: apply the timetables of its assets to all of its bars.

Bars of an asset are expected at the places of its own timetable, and wherever an asset with the same one has a bar.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from refold.data.bars.holes import missing_times, off_grid, read_steps
from refold.data.bars.intervals import HEAD, describe_timetables, infer
from refold.data.bars.timetable import DAY, Timetable

ALIKE = 0.8
"""Share of the hours of two timetables that must be common for their assets to be peers."""
MANY = 10_000_000
"""Most bars from which the timetables of a table are inferred."""
CHANGED, OF = 18, 20
"""Of so many steps in a row, so many do not keep to an asset's interval where that has changed."""


@dataclass(frozen=True)
class Timetables:
    """The timetables of a table's assets.

    Attributes:
        of: asset -> its timetable, None for none; assets that are alike share one.
    """

    of: Mapping[str, Timetable | None]

    @cached_property
    def usual(self) -> Timetable | None:
        """The timetable of most assets, which those have that are not known."""
        counts = Counter(timetable for timetable in self.of.values() if timetable is not None)
        return counts.most_common(1)[0][0] if counts else None

    @cached_property
    def apart(self) -> dict[str, int]:
        """Asset -> number of its kind, where not all assets are of one kind; an asset of none is left out."""
        if len(self.kinds) < 2 and all(one is None or one.regular for one in self.of.values()):
            return {}
        found = {asset: self.find(asset) for asset in self.of}
        return {asset: self.kinds.index(one) for asset, one in found.items() if one is not None}

    @cached_property
    def kinds(self) -> list[Timetable]:
        """The different timetables that are kept to."""
        return list(dict.fromkeys(one for one in self.of.values() if one is not None and one.regular))

    def find(self, asset: str) -> Timetable | None:
        """Return the timetable that an asset keeps to, or None.

        Args:
            asset: its name.
        """
        found = self.of.get(asset, self.usual)
        return found if found is not None and found.regular else None

    def too_few(self, asset: str) -> bool:
        """Test whether an asset among bars within the day has too few bars to tell how often they come.

        Of such an asset no bar is expected: it would lack nearly all of those of its peers.

        Args:
            asset: its name.
        """
        return self.of.get(asset, self.usual) is None and any(one.intraday for one in self.kinds)

    def describe(self) -> list[str]:
        """Describe the timetables in lines such as `every 5 min (AAPL, MSFT), Mon-Fri 09:30-16:00`."""
        return describe_timetables(self.of)

    def to_plain(self) -> dict[str, dict | None]:
        """Return plain values, for JSON and checkpoints."""
        return {asset: None if one is None else one.to_plain() for asset, one in self.of.items()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Mapping | None]) -> "Timetables":
        """Make timetables of what `to_plain` returned.

        Args:
            plain: its values.
        """
        return cls({asset: None if one is None else Timetable.from_plain(one) for asset, one in plain.items()})


PEERS = "peers_"
"""Begins the names of the columns of a market that count the bars of one kind of assets."""

NOTHING = Timetables({})
"""Expect no bar beside those of other assets."""


def find_timetables(bars: pl.LazyFrame, assets: int, interval: str | None, week: str | None) -> Timetables:
    """Infer the timetables of a sorted table.

    Args:
        bars: canonical, sorted by asset, then time; every bar has both.
        assets: number of assets.
        interval: as for `refold.data.bars.intervals.infer`.
        week: as there.

    Returns:
        A timetable of each asset. Of assets that are alike, all have that of the one with the earliest bar.
    """
    head = max(2_000, min(HEAD, MANY // max(1, assets)))
    heads = bars.select("asset", "timestamp").group_by("asset").agg(pl.col("timestamp").head(head))
    table = heads.with_columns(pl.col("asset").cast(pl.String)).collect(engine="streaming")
    times = dict(zip(*table, strict=True))
    found: dict[str, Timetable | None] = {}
    inferred: dict[bytes, Timetable | None] = {}  # assets of one market often have the same times
    for asset in sorted(times, key=lambda name: (times[name][0], name)):
        same = hashlib.blake2b(times[asset].to_physical().to_numpy(), digest_size=16).digest()
        if same not in inferred:
            inferred[same] = infer(times[asset].unique(maintain_order=True), interval, week)
        own = inferred[same]
        found[asset] = next((one for one in found.values() if own and one and _alike(own, one)), own)
    return Timetables(found)


def _alike(one: Timetable, other: Timetable) -> bool:
    """Test whether two timetables are of one market: one interval and clock, and most hours in common."""
    if one == other:
        return True
    if (one.unit, one.count, one.zone, one.regular) != (other.unit, other.count, other.zone, other.regular):
        return False
    if one.always or other.always or not one.regular:
        return False
    common = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in one.hours for b in other.hours)
    both = sum(end - start for start, end in (*one.hours, *other.hours)) - common
    return common >= ALIKE * both


def long_steps(bars: pl.LazyFrame, timetables: Timetables, assets: Iterable[str]) -> pl.LazyFrame:
    """Select the steps from bar to bar that are longer than their asset's interval.

    Args:
        bars: canonical, sorted by asset, then time; every bar has both.
        timetables: of the assets.
        assets: those of the bars.

    Returns:
        asset, before (time of the bar before), timestamp (of the bar) and row (its number).
    """
    dtype = bars.collect_schema()["timestamp"]
    a_second = {"ms": 1e3, "us": 1e6, "ns": 1e9}[dtype.time_unit] if isinstance(dtype, pl.Datetime) else 1 / DAY
    kept = {asset: timetables.find(asset) for asset in assets}
    limits = {asset: 1.25 * one.seconds * a_second for asset, one in kept.items() if one is not None}
    time, name = pl.col("timestamp"), pl.col("asset").cast(pl.String)
    limit = name.replace_strict(limits, default=None, return_dtype=pl.Float64) if limits else pl.lit(None, pl.Float64)
    step = time.to_physical().cast(pl.Int64)
    steps = bars.select(
        "asset",
        "timestamp",
        time.shift(1).alias("before"),
        (step - step.shift(1)).alias("step"),
        (pl.col("asset") == pl.col("asset").shift(1)).alias("same"),
    )
    least = min(limits.values(), default=math.inf)  # of few steps the asset's own limit is looked up
    longer = steps.with_row_index("row").filter("same", pl.col("step") > least).with_columns(name)
    return longer.filter(pl.col("step") > limit).select("row", "asset", "timestamp", "before")


def read_holes(
    steps: pl.DataFrame, timetables: Timetables, open_days: pl.Series | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Find the bars that are missing in steps, and the steps over a closed market.

    Args:
        steps: as `long_steps` makes them.
        timetables: of the assets.
        open_days: sorted dates on which the exchange trades; None if none is named.

    Returns:
        The steps with the columns missing (bars) and closing (bool); and a row per missing bar: asset, row (of the bar
        after) and timestamp, in order.
    """
    known, lost = [steps.clear().with_columns(missing=pl.lit(0, pl.Int64), closing=pl.lit(False))], []
    for (asset,), own in steps.group_by("asset", maintain_order=True):
        timetable = timetables.find(str(asset))
        assert timetable is not None
        read = read_steps(timetable, own["before"], own["timestamp"], open_days)
        step, times = missing_times(timetable, read, own["before"], open_days)
        known.append(own.with_columns(pl.Series("missing", read.missing), pl.Series("closing", read.closing)))
        lost.append(own[step].select("asset", "row").with_columns(times.alias("timestamp")))
    empty = steps.clear().select("asset", "row", "timestamp")
    return pl.concat(known), pl.concat([empty, *lost])


def peers_column(market: pl.DataFrame, timetables: Timetables, asset: str) -> str:
    """Name the column of a market that counts the bars of an asset's peers.

    Args:
        market: see `refold.data.bars.market.survey`.
        timetables: of the assets.
        asset: its name.
    """
    timetable = timetables.find(asset)
    column = "assets" if timetable is None else f"{PEERS}{timetables.kinds.index(timetable)}"
    return column if column in market.columns else "assets"


def with_expected(market: pl.DataFrame, missing: pl.Series) -> pl.DataFrame:
    """Add the moments at which a bar is missing to what the market did; no asset has a bar at those that are new.

    Args:
        market: see `refold.data.bars.market.survey`.
        missing: times of missing bars.
    """
    new = missing.unique().alias("timestamp").to_frame().join(market, on="timestamp", how="anti")
    if not new.height:
        return market
    nothing = [pl.lit(0, dtype).alias(name) for name, dtype in market.schema.items() if name != "timestamp"]
    return pl.concat([market, new.with_columns(nothing).select(market.columns)]).sort("timestamp")


def mark_off_grid(bars: pl.DataFrame, timetables: Timetables) -> pl.Series:
    """Mark the bars that lie off the grid of their asset's timetable.

    Args:
        bars: (N rows) sorted by asset, then time.
        timetables: of the assets.

    Returns:
        (N,) bool.
    """
    marks = np.zeros(bars.height, dtype=bool)
    for asset, first, count in rows_of_assets(bars):
        timetable = timetables.find(asset)
        if timetable is not None:
            marks[first : first + count] = off_grid(timetable, bars["timestamp"][first : first + count])
    return pl.Series(marks)


def mark_changed(bars: pl.DataFrame, holes: pl.DataFrame, timetables: Timetables) -> pl.Series:
    """Mark the bars from which on an asset has come at another interval than its own: `CHANGED` of `OF` steps do.

    Args:
        bars: (N rows) sorted by asset, then time.
        holes: the steps that miss bars; row is that of a bar.
        timetables: of the assets.

    Returns:
        (N,) bool, of that bar and those before it alone.
    """
    other = np.zeros(bars.height, dtype=bool)
    other[holes["row"].to_numpy()] = True
    seconds = bars["timestamp"].cast(pl.Datetime("us")).to_physical().to_numpy() / 1e6
    marks = np.zeros(bars.height, dtype=bool)
    for asset, first, count in rows_of_assets(bars):
        timetable = timetables.find(asset)
        if timetable is None or count <= OF:
            continue
        own = other[first : first + count]
        step = np.diff(seconds[first : first + count])
        own[1:] |= (step > 0) & (step < timetable.seconds / 1.5)
        total = np.cumsum(own)
        marks[first + OF : first + count] = total[OF:] - total[:-OF] >= CHANGED
    return pl.Series(marks)


def rows_of_assets(bars: pl.DataFrame) -> Iterator[tuple[str, int, int]]:
    """Yield name, first row and number of rows of each asset.

    Args:
        bars: sorted by asset.
    """
    runs = bars["asset"].rle().struct.unnest()
    first = 0
    for count, asset in runs.iter_rows():
        yield str(asset), first, count
        first += count
