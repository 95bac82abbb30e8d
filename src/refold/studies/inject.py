"""The errors that `experiment=scorers` plants into copies of validation and test, with the sizes of its tables.

One kind is no error: a real jump moves and stays, and must not be repaired.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from refold.data.planted import Kind, PlantedBars, RealJump, plant
from refold.scoring.worth import ERRORS


class BrokenBar(Kind):
    """Swap high and low."""

    passes_checks = False
    needs = ("high", "low", "close")

    def fits(self, bars: PlantedBars, rows: slice) -> bool:
        return bool(bars.columns["high"][rows.start] != bars.columns["low"][rows.start])

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        columns = bars.columns
        columns["high"][rows], columns["low"][rows] = columns["low"][rows].copy(), columns["high"][rows].copy()


class Duplicate(Kind):
    """Repeat a bar."""

    passes_checks = False

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        bars.copies[rows] = 2


class Gap(Kind):
    """Remove bars; the labels name their moments."""

    passes_checks = False
    shortest, longest = 2, 10

    def plant(self, bars: PlantedBars, before: slice, rows: slice) -> None:
        bars.copies[rows] = 0


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *ERRORS,
        BrokenBar("broken bar"),
        Duplicate("duplicate"),
        Gap("gap"),
        RealJump("real jump", 0.03, 0.2, "price", 1.0),
    )
}


def inject(
    bars: pl.DataFrame,
    kinds: Sequence[str | Kind],
    *,
    per_thousand: float,
    warm_up: int,
    generator: np.random.Generator,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Plant errors into a copy of bars, and return it with the places of the errors; see `refold.data.planted.plant`.

    Args:
        bars: canonical and free of errors.
        kinds: names of KINDS, or kinds.
        per_thousand: episodes of each kind per 1,000 bars after the warm-up, over all assets; at least one is planted.
        warm_up: bars, at least 1.
        generator: source of every random number here.

    Returns:
        The bars, sorted by asset and time, and their labels: timestamp, asset, kind, one row per bar of an episode.

    Raises:
        DataError: a column is missing that a kind needs, or there is no room.
    """
    chosen = [KINDS[kind] if isinstance(kind, str) else kind for kind in kinds]
    made = plant(bars, chosen, per_thousand=per_thousand, warm_up=warm_up, generator=generator)
    return made.bars, made.labels
