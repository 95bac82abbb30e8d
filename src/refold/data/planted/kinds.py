"""The base classes of kinds of planted errors, and the bars that an error is planted into.

Letters: N bars of some assets.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np

from refold.bounds import checked, more_than
from refold.data.bars.table import PRICES, TableKind

SizeUnit = Literal["move", "price"]
"""Unit of a size: the usual move of the asset from one bar to the next, or the price itself."""

_NORMAL = 1.4826  # standard deviation of a normal distribution over the median of its size


@dataclass(frozen=True)
class PlantedBars:
    """Bars into which kinds are planted, sorted by asset, then time.

    Attributes:
        columns: name -> (N,) float64, what the bars say.
        truth: name -> (N,) float64, what they should say. A real move changes it too.
        factor: (N,) float64, by what an error multiplied values: those of the bar if it is in another unit, those of
            all bars before it if it is the first after a split. 1 elsewhere.
        copies: (N,) int, how often each row stands in the result.
        asset: (N,) int, number of each row's asset.
        moment: (N,) int, number of each row's time.
        table: "prices", or "series" of any numbers.
        generator: source of every random number here.
    """

    columns: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    factor: np.ndarray
    copies: np.ndarray
    asset: np.ndarray
    moment: np.ndarray
    table: TableKind
    generator: np.random.Generator
    _moves: dict[tuple[str, int], float] = field(default_factory=dict)

    @property
    def prices(self) -> list[str]:
        """Names of open, high, low and close, those that are there."""
        return [name for name in PRICES if name in self.columns]

    def change(self, names: Sequence[str], rows: slice, amount: float) -> None:
        """Multiply prices by an amount, or add it to the values of a series.

        Args:
            names: of columns.
            rows: to change.
            amount: factor of prices, or summand of other values.
        """
        for name in names:
            if self.table == "prices":
                self.columns[name][rows] *= amount
            else:
                self.columns[name][rows] += amount

    def contain(self, name: str, rows: slice) -> None:
        """Move high and low of some bars as far as a price inside the bar asks for.

        Args:
            name: open or close.
            rows: of the bars.
        """
        for bound, reach in (("high", np.maximum), ("low", np.minimum)):
            if bound in self.columns and name in PRICES:
                self.columns[bound][rows] = reach(self.columns[bound][rows], self.columns[name][rows])

    def usual_move(self, name: str, row: int) -> float:
        """Measure how far a column of an asset usually moves from one bar to the next.

        Args:
            name: of the column.
            row: of a bar of the asset.

        Returns:
            1.4826 x median size of its log returns, or of its differences for a series; above 0.
        """
        asset = int(self.asset[row])
        if (name, asset) not in self._moves:
            values = self.truth[name][self.asset == asset]
            moves = np.abs(np.diff(np.log(values) if self.table == "prices" else values))
            moves = moves[np.isfinite(moves) & (moves > 0)]
            usual = float(np.median(moves)) if len(moves) else 1e-3
            self._moves[name, asset] = _NORMAL * usual
        return self._moves[name, asset]

    def one_column(self) -> str:
        """Draw a column of a series; of prices it is the close, or the first price there is."""
        if self.table == "prices":
            return "close" if "close" in self.columns else self.prices[0]
        names = sorted(self.columns)
        return names[int(self.generator.integers(len(names)))]

    def sign(self) -> int:
        """Draw -1 or 1."""
        return int(self.generator.choice([-1, 1]))


class Kind(ABC):
    """Plant one kind of error, or of real move, into bars.

    Attributes:
        name: what labels and events call it.
        is_error: False for a real move, which must be left alone.
        passes_checks: False if a check of the data finds it before any score sees it.
        needs: columns that the bars must have.
        shortest: fewest bars of an episode, at least 1.
        longest: most bars of an episode.
    """

    is_error: ClassVar[bool] = True
    passes_checks: ClassVar[bool] = True
    needs: ClassVar[Sequence[str]] = ()
    shortest: int = 1
    longest: int = 1

    def __init__(self, name: str) -> None:
        self.name = name

    def lacking(self, columns: Sequence[str], assets: int) -> str | None:
        """Say what some bars lack for this kind, as in "no volume"; None if they have everything.

        Args:
            columns: names of their columns of values.
            assets: number of their assets.
        """
        missing = [name for name in self.needs if name not in columns]
        return f"no {', '.join(missing)}" if missing else None

    def fits(self, bars: PlantedBars, rows: slice) -> bool:
        """Test whether an episode in some rows would be seen at all; True by default.

        Args:
            bars: to plant into.
            rows: of the episode.
        """
        return True

    @abstractmethod
    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        """Change the columns of the bars, with the bars' own generator.

        Args:
            bars: to plant into.
            before: all earlier rows of the asset; at least one.
            rows: of the episode. There is a later bar of the asset.
        """


class Sized(Kind):
    """A kind whose size is drawn.

    Args:
        name: what labels and events call it.
        smallest: smallest size, above 0.
        largest: largest size, at least the smallest; below 1 for a share of the price.
        unit: "move" draws multiples of the asset's usual move from bar to bar, small ones more often, so that the
            same settings do for days and for minutes; "price" draws shares of the price, all alike. A series of other
            numbers is always measured in moves.
    """

    @checked("planted")
    def __init__(
        self,
        name: str,
        smallest: Annotated[float, more_than(0)],
        largest: Annotated[float, more_than(0)],
        unit: SizeUnit,
    ) -> None:
        super().__init__(name)
        refuse_reversed(name, smallest=smallest, largest=largest)
        if unit == "price" and largest >= 1:
            raise ValueError(f"planted.largest of {name!r} is {largest}; a share of the price must be below 1")
        self.smallest = smallest
        self.largest = largest
        self.unit: SizeUnit = unit

    def draw(self, bars: PlantedBars) -> float:
        """Draw a size, in the kind's unit."""
        if self.unit == "price" and bars.table == "prices":
            return bars.generator.uniform(self.smallest, self.largest)
        return math.exp(bars.generator.uniform(math.log(self.smallest), math.log(self.largest)))

    def amount(self, bars: PlantedBars, name: str, row: int, size: float) -> float:
        """Convert a size to an amount for `PlantedBars.change`.

        Args:
            bars: to plant into.
            name: column whose move counts.
            row: a bar of the asset.
            size: as drawn, below 0 for a change downwards.
        """
        if self.unit == "price" and bars.table == "prices":
            return 1 + size
        moved = size * bars.usual_move(name, row)
        return math.exp(moved) if bars.table == "prices" else moved


def refuse_reversed(name: str, **bounds: float) -> None:
    """Refuse a largest value that is below the smallest.

    Args:
        name: of the kind.
        bounds: the smallest, then the largest value, by the keys of their settings.

    Raises:
        ValueError: the second is below the first.
    """
    (low, least), (high, most) = bounds.items()
    if most < least:
        raise ValueError(f"planted.{high} of {name!r} is {most}; it must be at least its {low}, {least}")
