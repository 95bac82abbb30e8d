"""Real moves and quiet times that look like errors and must be left alone. They change the truth, too."""

import math
from typing import Annotated

from refold.bounds import at_least, checked, more_than, within
from refold.data.planted.kinds import Kind, PlantedBars, Sized, SizeUnit, refuse_reversed


class RealJump(Sized):
    """Move the price overnight for good: all earlier prices at another level.

    Args:
        name: what labels call it.
        smallest: smallest move; see `Sized`.
        largest: largest move.
        unit: of the move.
        busiest: the volume of the bar is multiplied by 1 to so much, at least 1; 1 leaves it as it is.
    """

    is_error = False

    @checked("planted")
    def __init__(
        self,
        name: str,
        smallest: Annotated[float, more_than(0)],
        largest: Annotated[float, more_than(0)],
        unit: SizeUnit,
        busiest: Annotated[float, at_least(1)],
    ) -> None:
        super().__init__(name, smallest, largest, unit)
        self.busiest = busiest

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        name = bars.one_column()
        amount = self.amount(bars, name, rows.start, bars.sign() * self.draw(bars))
        bars.change(bars.prices if bars.table == "prices" else [name], before, amount)
        if self.busiest > 1 and "volume" in bars.columns:
            bars.columns["volume"][rows] *= bars.generator.uniform(1, self.busiest)


class Crash(Kind):
    """Let the price fall overnight by a large part, for good, on heavy trade and in a wide bar; rarely it rises so.

    Args:
        name: what labels call it.
        smallest: smallest fall, as a share of the price.
        largest: largest fall.
        rises: share of the episodes in which the price rises by as much instead, in [0, 1].
    """

    is_error = False
    needs = ("close",)

    @checked("planted")
    def __init__(
        self,
        name: str,
        smallest: Annotated[float, within(0, 1, open_start=True, open_end=True)],
        largest: Annotated[float, within(0, 1, open_start=True, open_end=True)],
        rises: Annotated[float, within(0, 1)],
    ) -> None:
        super().__init__(name)
        refuse_reversed(name, smallest=smallest, largest=largest)
        self.smallest = smallest
        self.largest = largest
        self.rises = rises

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        draw = bars.generator
        fallen = 1 - draw.uniform(self.smallest, self.largest)
        bars.change(bars.prices, before, fallen if draw.random() < self.rises else 1 / fallen)
        for name, sign in (("high", 1), ("low", -1)):
            if name in bars.columns:
                bars.columns[name][rows] *= 1 + sign * draw.uniform(0.01, 0.06)
        if "volume" in bars.columns:
            bars.columns["volume"][rows] *= math.exp(draw.uniform(1.5, 3.0))


class FlashCrash(Sized):
    """Let the low of a bar fall far below its close, on heavy trade: all of it was traded. AAPL did on 2010-05-06.

    The close gives way by up to a third of it; the bars after it go on from the old price.
    """

    is_error = False
    needs = ("low", "close", "volume")

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        draw, size = bars.generator, self.draw(bars)
        share = draw.uniform(0, 0.33)
        bars.columns["close"][rows] *= self.amount(bars, "close", rows.start, -share * size)
        bars.contain("close", rows)
        bars.columns["low"][rows] *= self.amount(bars, "close", rows.start, -(1 - share) * size)
        bars.columns["volume"][rows] *= draw.uniform(2, 5)


class Halt(Kind):
    """Let the price stand still while hardly anything is traded, as in a halt; the trade makes it no stale quote.

    Args:
        name: what labels call it.
        longest: bars of it, at most.
    """

    is_error = False
    needs = ("close", "volume")

    @checked("planted")
    def __init__(self, name: str, longest: Annotated[int, at_least(1)]) -> None:
        super().__init__(name)
        self.longest = longest

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        last_close = bars.columns["close"][rows.start - 1]
        for name in bars.prices:
            bars.columns[name][rows] = last_close
        bars.columns["volume"][rows] *= math.exp(-bars.generator.uniform(3, 6))


class HalfDay(Kind):
    """Let a bar have a third to a half of its trade and half of its range, as the day before a holiday has."""

    is_error = False
    needs = ("high", "low", "close", "volume")

    @checked("planted")
    def __init__(self, name: str) -> None:
        super().__init__(name)

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        columns = bars.columns
        bars.columns["volume"][rows] *= bars.generator.uniform(0.3, 0.5)
        for name, sign in (("high", 1), ("low", -1)):
            ends = [columns[end][rows] for end in ("open", "close") if end in columns]
            body = max(ends, key=lambda values: sign * values[0])
            columns[name][rows] = (columns[name][rows] + body) / 2
