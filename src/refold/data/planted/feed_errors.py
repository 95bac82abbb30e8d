"""The errors that price feeds are known for. They also suit series of other numbers, as far as these can have them.

Open, high, low and volume follow the close as far as the error would take them along; all else stays as it was.
Sources: Brownlees and Gallo 2006, Barndorff-Nielsen et al. 2009.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from refold.bounds import at_least, checked, within
from refold.data.bars.table import OHLCV
from refold.data.planted.kinds import Kind, PlantedBars, Sized, refuse_reversed


class BadTick(Sized):
    """Put the last trade of a bar at a wrong price, in high and low too; the next bar goes on from the right one.

    Of a series, one column of a bar is wrong.
    """

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        name = bars.one_column()
        size = bars.sign() * self.draw(bars)
        bars.change([name], rows, self.amount(bars, name, rows.start, size))
        bars.contain(name, rows)


class OpenTick(Sized):
    """Put the first trade of a bar at a wrong price, in high and low too; the close is right."""

    needs = ("open", "close")

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        size = bars.sign() * self.draw(bars)
        bars.change(["open"], rows, self.amount(bars, "close", rows.start, size))
        bars.contain("open", rows)


class Wick(Sized):
    """Put a trade inside the bar at a wrong price: high or low reaches too far, open and close are right."""

    needs = ("high", "low")

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        size = self.draw(bars)
        up = bars.generator.random() < 0.5
        reference = bars.one_column()
        amount = self.amount(bars, reference, rows.start, size if up else -size)
        bars.change(["high" if up else "low"], rows, amount)


class WholeBar(Sized):
    """Put all prices of a bar at a wrong level; the bars around it are right. Of a series, all columns are off."""

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        size = bars.sign() * self.draw(bars)
        if bars.table == "prices":
            bars.change(bars.prices, rows, self.amount(bars, bars.one_column(), rows.start, size))
            return
        for name in sorted(bars.columns):
            bars.change([name], rows, self.amount(bars, name, rows.start, size))


class Stale(Kind):
    """Repeat the last close, as open, high and low too. Of a series, all columns repeat their last value.

    Args:
        name: what labels and events call it.
        shortest: bars that repeat it, at least 1.
        longest: bars that repeat it, at most; at least `shortest`.
        volume_stops: share of the runs in which the volume is repeated too, in [0, 1]; in the others it goes on. A
            volume of 0 is not planted: most features have no value there, so a check finds it.
    """

    @checked("planted")
    def __init__(
        self,
        name: str,
        shortest: Annotated[int, at_least(1)],
        longest: Annotated[int, at_least(1)],
        volume_stops: Annotated[float, within(0, 1)],
    ) -> None:
        super().__init__(name)
        refuse_reversed(name, shortest=shortest, longest=longest)
        self.shortest = shortest
        self.longest = longest
        self.volume_stops = volume_stops

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        last, columns = rows.start - 1, bars.columns
        repeated = {name: columns[bars.one_column()][last] for name in bars.prices}
        if bars.table == "series":
            repeated = {name: values[last] for name, values in columns.items()}
        elif self.volume_stops and "volume" in columns and bars.generator.random() < self.volume_stops:
            repeated["volume"] = columns["volume"][last]
        for name, value in repeated.items():
            columns[name][rows] = value


class RepeatedBar(Kind):
    """Give a bar all values of the bar before it, its own time apart."""

    @checked("planted")
    def __init__(self, name: str) -> None:
        super().__init__(name)

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        for values in bars.columns.values():
            values[rows] = values[rows.start - 1]


class OtherAsset(Kind):
    """Give a bar the values that another asset has at its time."""

    @checked("planted")
    def __init__(self, name: str) -> None:
        super().__init__(name)

    def lacking(self, columns: Sequence[str], assets: int) -> str | None:
        return super().lacking(columns, assets) or ("no second asset" if assets < 2 else None)

    def fits(self, bars: PlantedBars, rows: slice) -> bool:
        return bool(np.count_nonzero(bars.moment == bars.moment[rows.start]) > 1)

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        others = np.flatnonzero((bars.moment == bars.moment[rows.start]) & (bars.asset != bars.asset[rows.start]))
        other = int(bars.generator.choice(others))
        for name, values in bars.columns.items():
            values[rows] = bars.truth[name][other]


class Split(Kind):
    """Put all earlier prices at the old number of shares, volumes at the inverse: price times volume stays.

    Args:
        name: what labels and events call it.
        ratios: prices before over prices after, had nobody adjusted them, such as 2 for 2:1 or 0.1 for 1:10.
    """

    needs = ("close",)

    @checked("planted")
    def __init__(self, name: str, ratios: Sequence[float]) -> None:
        super().__init__(name)
        self.ratios = _ratios(name, "ratios", ratios)

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        factor = bars.generator.choice(self.ratios)
        bars.change(bars.prices, before, factor)
        if "volume" in bars.columns:
            bars.columns["volume"][before] /= factor
        bars.factor[rows] = factor


class LevelShift(Sized):
    """Put all earlier prices at another level, as a dividend that nobody adjusted does; volumes as they are.

    Of a series, one column is at another level before the bar.
    """

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        name = bars.one_column()
        amount = self.amount(bars, name, rows.start, self.draw(bars))  # prices were higher before a dividend
        bars.change(bars.prices if bars.table == "prices" else [name], before, amount)
        if bars.table == "prices":
            bars.factor[rows] = amount


class PriceUnit(Kind):
    """Put some bars in another unit, such as pence for pounds. Of a series, one column is in another unit.

    Args:
        name: what labels and events call it.
        factors: of which one is drawn, each above 0.
        longest: bars in the other unit, at most.
    """

    @checked("planted")
    def __init__(self, name: str, factors: Sequence[float], longest: Annotated[int, at_least(1)]) -> None:
        super().__init__(name)
        self.factors = _ratios(name, "factors", factors)
        self.longest = longest

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        factor = bars.generator.choice(self.factors)
        for name in bars.prices if bars.table == "prices" else [bars.one_column()]:
            bars.columns[name][rows] *= factor
        bars.factor[rows] = factor


class VolumeUnit(PriceUnit):
    """Put the volume of some bars in another unit, such as lots of 100 for shares; prices are right."""

    needs = ("volume",)

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        factor = bars.generator.choice(self.factors)
        bars.columns["volume"][rows] *= factor
        bars.factor[rows] = factor


class SwappedFields(Kind):
    """Swap open and close of a bar. Other fields of a bar cannot change places without a check finding it.

    Of a series, two columns of a bar change places.

    Args:
        name: what labels and events call it.
        smallest: distance of the two, in usual moves of the asset; bars below it are left alone.
    """

    @checked("planted")
    def __init__(self, name: str, smallest: Annotated[float, at_least(0)]) -> None:
        super().__init__(name)
        self.smallest = smallest

    def lacking(self, columns: Sequence[str], assets: int) -> str | None:
        if {"open", "close"} <= set(columns):
            return None
        priced = set(columns) <= set(OHLCV)
        return "no open, close" if priced else ("no second column" if len(columns) < 2 else None)

    def fits(self, bars: PlantedBars, rows: slice) -> bool:
        if bars.table == "series":
            return True
        body = np.abs(np.log(bars.columns["close"][rows] / bars.columns["open"][rows])).min()
        return bool(body > self.smallest * bars.usual_move("close", rows.start))

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        first, second = "open", "close"
        if bars.table == "series":
            first, second = bars.generator.choice(sorted(bars.columns), 2, replace=False)
        columns = bars.columns
        columns[first][rows], columns[second][rows] = columns[second][rows].copy(), columns[first][rows].copy()


def _ratios(name: str, key: str, ratios: Sequence[float]) -> list[float]:
    """Return factors as floats, or raise a ValueError if there are none or one of them is not above 0 and not 1."""
    if not ratios or not all(isinstance(one, int | float) and one > 0 and one != 1 for one in ratios):
        raise ValueError(f"planted.{key} of {name!r} is {list(ratios)}; it must have numbers above 0, none of them 1")
    return [float(one) for one in ratios]
