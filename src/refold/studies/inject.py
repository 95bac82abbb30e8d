"""Errors of price feeds, planted into copies of validation and test, so that what finds them can be measured.

The bars before and after stay what they were; open, high, low and volume follow the close as far as the error would
take them along. One kind is no error: a real jump moves and stays, and must not be repaired.
Sources: Brownlees and Gallo 2006, Barndorff-Nielsen et al. 2009.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from refold.data.bars.table import PRICES
from refold.errors import DataError

SPLIT_FACTORS = (2.0, 3.0, 1.5, 10.0, 0.1)  # price before / after, had nobody adjusted it: 2:1, 3:1, 3:2, 10:1, 1:10
SPACING = 5  # untouched bars of the same asset between two episodes, so that each has its own surroundings


@dataclass(frozen=True)
class Market:
    """Bars that are being spoilt. columns: name -> (N,) float64. copies: (N,) how often each row is in the result.
    generator: of everything that is drawn."""

    columns: dict[str, np.ndarray]
    copies: np.ndarray
    generator: np.random.Generator

    def scale_prices(self, rows: slice, factor: float) -> None:
        """Multiply open, high, low and close, as far as they are there."""
        for name in PRICES:
            if name in self.columns:
                self.columns[name][rows] *= factor

    def small_factor(self) -> float:
        """Up or down by 3 to 20 %: what a tick can be off without being refused, and a price can move in a day."""
        return 1 + self.generator.choice([-1, 1]) * self.generator.uniform(0.03, 0.2)


class Kind(NamedTuple):
    """plant: (market, the asset's rows before the episode, its own rows) -> None. shortest, longest: bars.
    needs: columns. is_error: False for a negative control."""

    plant: Callable[[Market, slice, slice], None]
    shortest: int
    longest: int
    needs: tuple[str, ...]
    is_error: bool


def _bad_tick(market: Market, before: slice, rows: slice) -> None:
    """The last trade of the bar at a wrong price; high and low take it in, the next bar goes on from the right one."""
    columns = market.columns
    columns["close"][rows] *= market.small_factor()
    for name, reach in (("high", np.maximum), ("low", np.minimum)):
        if name in columns:
            columns[name][rows] = reach(columns[name][rows], columns["close"][rows])


def _wick(market: Market, before: slice, rows: slice) -> None:
    """A trade inside the bar at a wrong price: the high or the low reaches too far, open and close are right."""
    reach = market.generator.uniform(0.03, 0.2)
    if market.generator.random() < 0.5:
        market.columns["high"][rows] *= 1 + reach
    else:
        market.columns["low"][rows] *= 1 - reach


def _stale(market: Market, before: slice, rows: slice) -> None:
    """The last close again and again, as open, high and low too; volumes go on."""
    held = market.columns["close"][rows.start - 1]
    for name in PRICES:
        if name in market.columns:
            market.columns[name][rows] = held


def _split(market: Market, before: slice, rows: slice) -> None:
    """All earlier prices at the old number of shares, volumes at the inverse: price times volume stays."""
    factor = market.generator.choice(SPLIT_FACTORS)
    market.scale_prices(before, factor)
    if "volume" in market.columns:
        market.columns["volume"][before] /= factor


def _unit(market: Market, before: slice, rows: slice) -> None:
    """Some bars in another unit, such as pence for pounds."""
    market.scale_prices(rows, market.generator.choice([100.0, 0.01]))


def _broken_bar(market: Market, before: slice, rows: slice) -> None:
    """High and low change places."""
    columns = market.columns
    columns["high"][rows], columns["low"][rows] = columns["low"][rows].copy(), columns["high"][rows].copy()


def _duplicate(market: Market, before: slice, rows: slice) -> None:
    """The same bar twice."""
    market.copies[rows] = 2


def _gap(market: Market, before: slice, rows: slice) -> None:
    """Bars that are missing; the labels name their moments."""
    market.copies[rows] = 0


def _real_jump(market: Market, before: slice, rows: slice) -> None:
    """The price moves overnight and stays: all earlier prices at another level, volumes as they are."""
    market.scale_prices(before, market.small_factor())


KINDS = {
    "bad tick": Kind(_bad_tick, 1, 1, ("close",), True),
    "wick": Kind(_wick, 1, 1, ("high", "low"), True),
    "stale": Kind(_stale, 5, 20, ("close",), True),
    "split": Kind(_split, 1, 1, ("close",), True),
    "unit": Kind(_unit, 1, 5, ("close",), True),
    "broken bar": Kind(_broken_bar, 1, 1, ("high", "low", "close"), True),
    "duplicate": Kind(_duplicate, 1, 1, (), True),
    "gap": Kind(_gap, 2, 10, (), True),
    "real jump": Kind(_real_jump, 1, 1, ("close",), False),
}


def inject(
    bars: pl.DataFrame,
    kinds: Sequence[str],
    *,
    per_thousand: float,
    warm_up: int,
    generator: np.random.Generator,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A copy of bars with errors in it, and where they are.

    Episodes do not touch each other, and none begins in an asset's first `warm_up` bars or reaches its last.

    Args: bars: canonical and free of errors. kinds: names of KINDS. per_thousand: episodes of each kind per 1,000 bars
        after the warm-up, over all assets; one at least. warm_up: bars, at least 1. generator: of everything drawn.
    Returns: bars, sorted by asset and time; labels (timestamp, asset, kind), one row per bar of an episode: for a split
        and a jump the first bar after it, for a gap the bars that are missing.
    Raises: DataError: a column is missing that a kind needs, or there is no room.
    """
    bars = bars.sort("asset", "timestamp", maintain_order=True)
    for kind in kinds:
        missing = [name for name in KINDS[kind].needs if name not in bars.columns]
        if missing:
            raise DataError(f"the error {kind!r} cannot be planted: the data has no {', '.join(missing)}")
    values = [name for name in (*PRICES, "volume") if name in bars.columns]
    market = Market(
        {name: bars[name].cast(pl.Float64).to_numpy().copy() for name in values},
        np.ones(bars.height, dtype=np.int64),
        generator,
    )
    starts = bars["asset"].rle_id().to_numpy()
    first = np.searchsorted(starts, starts)  # (N,) first row of each row's asset
    number = np.arange(bars.height)
    eligible = number[number - first >= max(1, warm_up)]
    wanted = max(1, round(per_thousand * len(eligible) / 1000))
    free = np.ones(bars.height, dtype=bool)
    labels = []
    for kind in [kind for kind in kinds for _ in range(wanted)]:
        episode = _find_room(KINDS[kind], kind, eligible, first, free, market)
        KINDS[kind].plant(market, slice(first[episode.start], episode.start), episode)
        free[max(0, episode.start - SPACING) : episode.stop + SPACING] = False
        labels.append(bars[episode].select("timestamp", "asset", pl.lit(kind).alias("kind")))
    spoilt = bars.with_columns(pl.Series(name, column) for name, column in market.columns.items())
    return spoilt[np.repeat(number, market.copies)], pl.concat(labels).sort("asset", "timestamp")


def _find_room(
    kind: Kind, name: str, eligible: np.ndarray, first: np.ndarray, free: np.ndarray, market: Market
) -> slice:
    """Rows for one more episode of a kind. Raises: DataError: there are none."""
    length = int(market.generator.integers(kind.shortest, kind.longest + 1))
    for start in market.generator.permutation(eligible):
        end = start + length
        # one more bar of the asset after the last: an error that never ends could not be told from a move
        inside = end < len(free) and first[end] == first[start]
        flat = name == "broken bar" and market.columns["high"][start] == market.columns["low"][start]
        if inside and free[start:end].all() and not flat:
            return slice(int(start), int(end))
    raise DataError(
        f"there is no room for one more {name!r} of {length} bars in {len(eligible)} bars; lower "
        f"evaluation.per_thousand, or give the part more bars in data.split"
    )
