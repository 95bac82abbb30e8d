"""Jumps of prices from one bar to the next, and how many assets jump at the same moment.

A split moves one asset overnight and leaves the traded value as it is. A crash takes the day, moves many assets and
raises the traded value. These measures tell the two apart.
"""

from collections.abc import Iterable, Mapping

import polars as pl

from refold.errors import DataError

# a:b splits that exchanges see, as new shares per old one; each also the other way round
SPLIT_RATIOS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0)
# price in cents, pence or thousands instead of units
UNIT_RATIOS = (100.0, 1000.0)
# log ratio to the last close from which on an asset counts among those that moved: a quarter of the smallest split
_MOVE = 0.1


def same_asset() -> pl.Expr:
    """Return an expression that is true where the row before belongs to the same asset; null on the first row."""
    return pl.col("asset") == pl.col("asset").shift(1)


def is_sorted(bars: pl.DataFrame) -> bool:
    """Test whether bars are sorted by asset, then time.

    Args:
        bars: table with the columns asset and timestamp.

    Returns:
        True if no row must move. Equal rows are in order.
    """
    asset, time = pl.col("asset"), pl.col("timestamp")
    later = same_asset() & (time >= time.shift(1))
    return bars.select(((asset > asset.shift(1)) | later).fill_null(True).all()).item()


def goes_on(bars: pl.DataFrame, last: pl.DataFrame) -> bool:
    """Test whether rows have a date and an asset each, are sorted by asset, then time, and go on where others ended.

    Args:
        bars: the rows.
        last: timestamp and asset of the last bar of each asset before them.
    """
    if (
        bars["timestamp"].null_count()
        or bars["asset"].null_count()
        or bars["timestamp"].dtype != last["timestamp"].dtype
    ):
        return False
    named, ends = (table.select("timestamp", pl.col("asset").cast(pl.String)) for table in (bars, last))
    if not is_sorted(named):
        return False
    begins = named.filter((pl.col("asset") != pl.col("asset").shift(1)).fill_null(True))
    both = begins.join(ends, on="asset")
    return not (both["timestamp"] < both["timestamp_right"]).any()


def in_order(bars: pl.DataFrame) -> pl.DataFrame:
    """Sort bars by asset, then time. Equal rows keep their order.

    Args:
        bars: table with the columns asset and timestamp.

    Returns:
        The sorted table; the same object if it was sorted, because the test is several times cheaper than sorting.
    """
    return bars if is_sorted(bars) else bars.sort("asset", "timestamp", maintain_order=True)


def overnight_jump(columns: Iterable[str]) -> pl.Expr:
    """Return an expression for the log ratio of a bar's open to the close before it.

    A split shows overnight, while a crash takes the day. The close stands in where there is no open.

    Args:
        columns: names of the columns of the bars.

    Returns:
        Expression over sorted bars; null on an asset's first bar, and everywhere if there is no close.
    """
    if "close" not in columns:
        return pl.lit(None, pl.Float64)
    price = pl.col("open" if "open" in columns else "close")
    return pl.when(same_asset()).then((price / pl.col("close").shift(1)).log())


def calm_trade(columns: Iterable[str]) -> pl.Expr:
    """Return an expression that is true where price x volume is below four times that of the bar before.

    A split leaves the traded value as it is. A crash does not.

    Args:
        columns: names of the columns of the bars.

    Returns:
        Boolean expression over sorted bars; always true if there is no close or no volume.
    """
    if not {"close", "volume"} <= set(columns):
        return pl.lit(True)
    traded = pl.col("close") * pl.col("volume")
    return traded < 4 * traded.shift(1)


def quiet_peers(jump: pl.Expr, market: pl.DataFrame) -> pl.Expr:
    """Return an expression that is true where at most half of the other assets jump the same way.

    A split moves one asset, a crash moves many. The expression assumes that the bar itself jumps.

    Args:
        jump: log ratio to the last close of each bar; see `overnight_jump`.
        market: `survey` of the whole table.

    Returns:
        Boolean expression over bars with a timestamp.
    """
    others = pl.col("assets") - 1  # a bar that jumps like a split is itself among those that moved
    loud = {way: market.filter(2 * (pl.col(way) - 1) > others)["timestamp"].implode() for way in ("up", "down")}
    moment = pl.col("timestamp")
    return ~pl.when(jump > 0).then(moment.is_in(loud["up"])).otherwise(moment.is_in(loud["down"]))


def mark_jumps(bars: pl.LazyFrame, kinds: Mapping[str, int] | None = None) -> pl.LazyFrame:
    """Mark the bars whose price jumped up or down by 10 %.

    Args:
        bars: canonical table, sorted by asset, then time.
        kinds: asset -> number of its kind; None or empty if there is one.

    Returns:
        Table in the order of the bars with the columns timestamp, up and down (bool; null on an asset's first bar), and
        with kinds a column peers_<number> for each of them (bool).
    """
    jump = overnight_jump(bars.collect_schema().names())
    columns = ["timestamp", (jump >= _MOVE).alias("up"), (jump <= -_MOVE).alias("down")]
    if kinds:
        kind = pl.col("asset").cast(pl.String).replace_strict(kinds, default=None, return_dtype=pl.Int64)
        columns += [
            (kind == number).fill_null(False).alias(f"peers_{number}") for number in range(max(kinds.values()) + 1)
        ]
    return bars.select(columns)


def count_jumps(marked: pl.LazyFrame) -> pl.LazyFrame:
    """Count at each moment the assets with a bar, and those that jumped up or down.

    Args:
        marked: what `mark_jumps` returns, or all its rows of some moments.

    Returns:
        Table sorted by timestamp with the columns timestamp, assets and those that were marked (counts, int64).
    """
    counts = pl.len().alias("assets"), pl.exclude("timestamp").sum()
    return marked.group_by("timestamp").agg(count.cast(pl.Int64) for count in counts).sort("timestamp")


def survey(bars: pl.DataFrame, kinds: Mapping[str, int] | None = None) -> pl.DataFrame:
    """Count at each moment the assets with a bar, and those that jumped up or down by 10 %.

    Args:
        bars: canonical table, in any order.
        kinds: as for `mark_jumps`.

    Returns:
        Table sorted by timestamp with the columns timestamp, assets, up and down (counts, int64), and those of kinds.
    """
    bars = in_order(bars.filter(pl.all_horizontal(pl.col("timestamp", "asset").is_not_null())))
    return count_jumps(mark_jumps(bars.lazy(), kinds)).collect()


def refuse_two_kinds(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Refuse two pieces of a table whose timestamps are of different kinds, such as dates and datetimes.

    Args:
        one: table with the column timestamp.
        other: another one.

    Raises:
        DataError: the dtypes of the two columns differ.
    """
    kinds = one.schema["timestamp"], other.schema["timestamp"]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"the timestamps of the table are of two kinds, {kinds[0]} and {kinds[1]}; see data.source.table"
        )
