"""Tell how a table would train: on which features and windows, and with which other settings if not with these.

All of this is done without torch.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from refold.data.bars.entries import find_feature, name_of
from refold.data.bars.findings import ROW
from refold.data.feature_table import FeatureTable, feature_table, panel_table, rows_of
from refold.data.recipe import Recipe
from refold.data.windows.split import PARTS, Part, divide

_WINDOWS = (512, 256, 128, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)
"""Window sizes that are tried if the chosen one leaves a part without windows."""


class Outlook(NamedTuple):
    """Hold how a table would train.

    Attributes:
        features: that would be trained on.
        windows: part -> number of windows.
        obstacles: what would stop the training.
        overrides: settings beyond those given with which the table would train.
    """

    features: tuple[str, ...]
    windows: dict[str, int]
    obstacles: tuple[str, ...]
    overrides: tuple[str, ...]


def without_constants(
    bars: pl.DataFrame, used: Recipe, recipe: Recipe, stride: int, table: FeatureTable | None = None
) -> Outlook:
    """Tell how a table would train on its features without those that are constant on the training rows.

    Args:
        bars: canonical.
        used: the recipe with policies that stop nothing.
        recipe: as it would train.
        stride: bars between the starts of neighbouring windows, at least 1.
        table: the features of the recipe, if they have been computed.
    """
    if table is None:
        table = feature_table(bars.with_row_index(ROW), replace(used, entries=recipe.entries), None)
    outlook = _outlook(table, recipe, stride)
    kept = tuple(entry for entry in recipe.entries or () if name_of(entry) in outlook.features)
    if recipe.layout == "panel" or not 0 < len(kept) < len(recipe.features):
        return outlook
    return without_constants(bars, used, replace(recipe, entries=kept), stride)


def shorter(bars: pl.DataFrame, used: Recipe, recipe: Recipe, stride: int) -> Outlook | None:
    """Tell how a table would train on those of its features that look back on one bar at most.

    Args:
        bars: canonical.
        used: the recipe with policies that stop nothing.
        recipe: as it would train.
        stride: bars between the starts of neighbouring windows, at least 1.

    Returns:
        The outlook; None if the table would not train on them either, or its layout is panel.
    """
    short = tuple(entry for entry in recipe.entries or () if find_feature(entry).lookback <= 2)
    if not short or recipe.layout == "panel":
        return None
    outlook = without_constants(bars, used, replace(recipe, entries=short), stride)
    return None if outlook.obstacles else outlook._replace(overrides=(named(outlook), *outlook.overrides))


def named(outlook: Outlook) -> str:
    """Return the override that names the features of an outlook.

    Args:
        outlook: of a table.
    """
    return f"data.features=[{','.join(outlook.features)}]"


def _outlook(table: FeatureTable, recipe: Recipe, stride: int) -> Outlook:
    """Count the windows of each part, and find a window size that leaves some if the chosen one does not."""
    table = panel_table([table], recipe) if recipe.layout == "panel" else table
    overrides: tuple[str, ...] = ()
    obstacles: list[str] = []
    windows, train = _count_windows(table, recipe, recipe.window_size, stride)
    if not all(windows.values()):
        for size in (size for size in _WINDOWS if size < recipe.window_size):
            fewer, train = _count_windows(table, recipe, size, stride)
            if all(fewer.values()):
                windows, overrides = fewer, (f"data.window_size={size}",)
                break
        else:
            obstacles.append(
                f"no window size leaves windows for all parts: {table.rows.present.sum():,} bars have features"
            )
    spread = zip(table.columns, _ranges(table, train), strict=True)
    moving = tuple(name for name, width in spread if width != 0)
    if not moving or (recipe.layout == "panel" and len(moving) < len(table.columns)):
        obstacles.append("a feature is constant on the training rows")
        moving = table.columns
    return Outlook(moving, windows, tuple(obstacles), overrides)


def _segments(table: FeatureTable, recipe: Recipe, size: int) -> dict[Part, np.ndarray]:
    """Find the unbroken runs of each part for windows of a size."""
    rows = table.rows
    gap = (size + recipe.horizon - 1) + (table.lookback - 1) + recipe.split.embargo
    intervals = divide(recipe.split, recipe.fold, table.checked.calendar, table.checked.occurs)
    return rows.segments(rows.usable(min(recipe.max_masked, size - 1)), intervals, gap)


def _count_windows(table: FeatureTable, recipe: Recipe, size: int, stride: int) -> tuple[dict[str, int], np.ndarray]:
    """Count the windows of a size in each part, and return the rows that the scale would be fitted to."""
    segments, span = _segments(table, recipe, size), size + recipe.horizon
    counts = {part: int(np.maximum(0, (segments[part][:, 1] - span) // stride + 1).sum()) for part in PARTS}
    train = rows_of({"train": segments["train"]})
    return counts, train[table.rows.present[train]]


def _ranges(table: FeatureTable, train: np.ndarray) -> Sequence[float]:
    """Measure the range of each column on the training rows; that of a relative one is not known, and not 0."""
    if not len(train):
        return [1.0] * len(table.columns)
    spread = np.ptp(table.rows.values[train], axis=0)
    spread[list(table.relative)] = 1.0
    return spread.tolist()
