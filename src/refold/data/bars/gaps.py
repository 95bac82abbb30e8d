"""Find the gaps of each asset: bars that its timetable expects, or that its peers have.

Letters: N bars of all assets, M moments of the calendar.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from refold.data.bars.expected import Timetables, long_steps, peers_column, read_holes, rows_of_assets


class Gaps(NamedTuple):
    """Where bars are missing.

    Attributes:
        hole: (N,) bool, whether bars of its asset are missing right before a bar.
        closing: (N,) bool, whether the market closed right before a bar, as it does every day.
        absent: a row per missing bar: row (of the bar after it) and timestamp, in order.
    """

    hole: np.ndarray
    closing: np.ndarray
    absent: pl.DataFrame


def find_gaps(
    bars: pl.DataFrame,
    position: np.ndarray,
    calendar: pl.Series,
    market: pl.DataFrame,
    timetables: Timetables,
    open_days: pl.Series | None,
    *,
    expects: bool,
) -> Gaps:
    """Find the bars that are missing between an asset's first and last.

    Args:
        bars: N, sorted by asset, then time.
        position: (N,) int64, of each bar on the calendar.
        calendar: (M,) sorted unique moments.
        market: `refold.data.bars.market.survey` of the table that the bars are of.
        timetables: of the assets.
        open_days: sorted dates on which the exchange trades; None if none is named.
        expects: False looks at the bars of peers alone.
    """
    names = bars["asset"].unique(maintain_order=True).cast(pl.String).to_list()
    steps, own = read_holes(long_steps(bars.lazy(), timetables, names).collect(), timetables, open_days)
    hole, closing = np.zeros(bars.height, dtype=bool), np.zeros(bars.height, dtype=bool)
    row = steps["row"].to_numpy()
    closing[row] = steps["closing"].to_numpy()
    lost = [own.select("row", "timestamp").join(calendar.to_frame("timestamp"), on="timestamp", how="semi")]
    if expects:
        hole[row] = steps["missing"].to_numpy() > 0
    else:
        lost = [lost[0].clear()]
    known: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for asset, first, count in rows_of_assets(bars):
        if timetables.too_few(asset):
            continue
        column = peers_column(market, timetables, asset)
        if column not in known:
            there = np.ones(len(calendar), dtype=bool)  # days of the exchange without any bar are not in the market
            there[calendar.search_sorted(market["timestamp"]).to_numpy()] = market[column].to_numpy() > 0
            if column != "assets" or timetables.find(asset) is not None:
                there[~calendar.is_in(market["timestamp"].implode()).to_numpy()] = False
            known[column] = np.flatnonzero(there), np.append(0, np.cumsum(there))
        places, before = known[column]
        here = position[first : first + count]
        start, end = before[here[:-1] + 1], before[np.maximum(here[1:], here[:-1] + 1)]
        after = np.flatnonzero(end > start)
        if not len(after):
            continue
        counts = (end - start)[after]
        # each hole, written out: the moments between the bar before it and the bar after it
        within = np.arange(counts.sum()) + np.repeat(start[after] - np.cumsum(counts) + counts, counts)
        hole[first + 1 + after] = True
        rows = np.repeat(first + 1 + after, counts).astype(np.uint32)
        lost.append(
            pl.DataFrame([pl.Series("row", rows), calendar.gather(places[within]).alias("timestamp")]).cast(
                lost[0].schema
            )
        )
    absent = pl.concat(lost).unique().sort("row", "timestamp")
    return Gaps(hole, closing & ~hole, absent)
