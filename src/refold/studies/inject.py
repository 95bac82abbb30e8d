"""Errors of price feeds, planted into copies of validation and test to measure how well scorers find them.

The bars before and after an error stay as they were. Open, high, low and volume follow the close as far as the error
would take them along. One kind is no error: a real jump moves and stays, and must not be repaired.

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
class SpoiltBars:
    """Bars into which errors are planted.

    Attributes:
        columns: name -> (N,) float64.
        copies: (N,) int, how often each row stands in the result.
        generator: source of every random number here.
    """

    columns: dict[str, np.ndarray]
    copies: np.ndarray
    generator: np.random.Generator

    def scale_prices(self, rows: slice, factor: float) -> None:
        """Multiply the columns open, high, low and close; skip those that are absent."""
        for name in PRICES:
            if name in self.columns:
                self.columns[name][rows] *= factor

    def small_factor(self) -> float:
        """Draw a factor up or down by 3 to 20 %: a tick so far off is not refused, and a price can move so in a day."""
        return 1 + self.generator.choice([-1, 1]) * self.generator.uniform(0.03, 0.2)


class Kind(NamedTuple):
    """A kind of error.

    Attributes:
        plant: (bars, the asset's rows before the episode, the episode's rows) -> None.
        shortest: bars of an episode, at least.
        longest: bars of an episode, at most.
        needs: columns that the bars must have.
        is_error: False for a negative control.
    """

    plant: Callable[[SpoiltBars, slice, slice], None]
    shortest: int
    longest: int
    needs: tuple[str, ...]
    is_error: bool


def _bad_tick(spoilt: SpoiltBars, before: slice, rows: slice) -> None:
    """Put the last trade of a bar at a wrong price, in high and low too; the next bar goes on from the right one."""
    columns = spoilt.columns
    columns["close"][rows] *= spoilt.small_factor()
    for name, reach in (("high", np.maximum), ("low", np.minimum)):
        if name in columns:
            columns[name][rows] = reach(columns[name][rows], columns["close"][rows])


def _wick(spoilt: SpoiltBars, before: slice, rows: slice) -> None:
    """Put a trade inside the bar at a wrong price: high or low reaches too far, open and close are right."""
    reach = spoilt.generator.uniform(0.03, 0.2)
    if spoilt.generator.random() < 0.5:
        spoilt.columns["high"][rows] *= 1 + reach
    else:
        spoilt.columns["low"][rows] *= 1 - reach


def _stale(spoilt: SpoiltBars, before: slice, rows: slice) -> None:
    """Repeat the last close, as open, high and low too; volumes go on."""
    last_close = spoilt.columns["close"][rows.start - 1]
    for name in PRICES:
        if name in spoilt.columns:
            spoilt.columns[name][rows] = last_close


def _split(spoilt: SpoiltBars, before: slice, rows: slice) -> None:
    """Put all earlier prices at the old number of shares, volumes at the inverse: price times volume stays."""
    factor = spoilt.generator.choice(SPLIT_FACTORS)
    spoilt.scale_prices(before, factor)
    if "volume" in spoilt.columns:
        spoilt.columns["volume"][before] /= factor


def _unit(spoilt: SpoiltBars, before: slice, rows: slice) -> None:
    """Put some bars in another unit, such as pence for pounds."""
    spoilt.scale_prices(rows, spoilt.generator.choice([100.0, 0.01]))


def _broken_bar(spoilt: SpoiltBars, before: slice, rows: slice) -> None:
    """Swap high and low."""
    columns = spoilt.columns
    columns["high"][rows], columns["low"][rows] = columns["low"][rows].copy(), columns["high"][rows].copy()


def _duplicate(spoilt: SpoiltBars, before: slice, rows: slice) -> None:
    """Repeat a bar."""
    spoilt.copies[rows] = 2


def _gap(spoilt: SpoiltBars, before: slice, rows: slice) -> None:
    """Remove bars; the labels name their moments."""
    spoilt.copies[rows] = 0


def _real_jump(spoilt: SpoiltBars, before: slice, rows: slice) -> None:
    """Move the price overnight for good: all earlier prices at another level, volumes as they are."""
    spoilt.scale_prices(before, spoilt.small_factor())


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
    """Plant errors into a copy of bars, and return it with the places of the errors.

    Episodes do not touch each other, and none begins in an asset's first `warm_up` bars or reaches its last.

    Args:
        bars: canonical and free of errors.
        kinds: names of KINDS.
        per_thousand: episodes of each kind per 1,000 bars after the warm-up, over all assets; at least one is planted.
        warm_up: bars, at least 1.
        generator: source of every random number here.

    Returns:
        The bars, sorted by asset and time, and their labels: timestamp, asset, kind, one row per bar of an episode. The
        label of a split and of a jump is the first bar after it, those of a gap are the bars that are missing.

    Raises:
        DataError: a column is missing that a kind needs, or there is no room.
    """
    bars = bars.sort("asset", "timestamp", maintain_order=True)
    for kind in kinds:
        missing = [name for name in KINDS[kind].needs if name not in bars.columns]
        if missing:
            raise DataError(f"the error {kind!r} cannot be planted: the data has no {', '.join(missing)}")
    values = [name for name in (*PRICES, "volume") if name in bars.columns]
    spoilt = SpoiltBars(
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
        episode = _find_room(KINDS[kind], kind, eligible, first, free, spoilt)
        KINDS[kind].plant(spoilt, slice(first[episode.start], episode.start), episode)
        free[max(0, episode.start - SPACING) : episode.stop + SPACING] = False
        labels.append(bars[episode].select("timestamp", "asset", pl.lit(kind).alias("kind")))
    result = bars.with_columns(pl.Series(name, column) for name, column in spoilt.columns.items())
    return result[np.repeat(number, spoilt.copies)], pl.concat(labels).sort("asset", "timestamp")


def _find_room(
    kind: Kind, name: str, eligible: np.ndarray, first: np.ndarray, free: np.ndarray, spoilt: SpoiltBars
) -> slice:
    """Find rows for one more episode of a kind; raises DataError if there are none."""
    length = int(spoilt.generator.integers(kind.shortest, kind.longest + 1))
    for start in spoilt.generator.permutation(eligible):
        end = start + length
        # one more bar of the asset after the last: an error that never ends could not be told from a move
        inside = end < len(free) and first[end] == first[start]
        flat = name == "broken bar" and spoilt.columns["high"][start] == spoilt.columns["low"][start]
        if inside and free[start:end].all() and not flat:
            return slice(int(start), int(end))
    raise DataError(
        f"there is no room for one more {name!r} of {length} bars in {len(eligible)} bars; lower "
        f"evaluation.per_thousand, or give the part more bars in data.split"
    )
