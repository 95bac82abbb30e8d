"""The bars of each part, as errors are planted into them and rules read them."""

import numpy as np
import polars as pl

from refold.data.recipe import Recipe
from refold.data.windows.split import PARTS, Part, divide


def part_bars(bars: pl.DataFrame, recipe: Recipe) -> dict[Part, pl.DataFrame]:
    """Return the checked bars of each part, before any are dropped between parts.

    Args:
        bars: canonical, of the run.
        recipe: the recipe of the run's windows.
    """
    checked_bars = recipe.checks.run(bars)
    parts = {}
    for part in PARTS:
        inside = np.zeros(len(checked_bars.moment), dtype=bool)
        for interval in divide(recipe.split, recipe.fold, checked_bars.calendar, checked_bars.occurs):
            if interval.part == part:
                inside |= (checked_bars.moment >= interval.start) & (checked_bars.moment < interval.end)
        parts[part] = checked_bars.bars.filter(pl.Series(inside)).with_columns(pl.col("asset").cast(pl.String))
    return parts
