"""Fit the scale of features to the training rows, of all assets together or of each.

Letters: N rows of a series, C columns.
"""

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch

from refold.data.feature_table import FeatureTable, rows_of
from refold.data.recipe import Recipe
from refold.data.windows.scaler import FEWEST_ROWS, AssetScaler, Scaler, Statistics, TrailingScaler
from refold.errors import DataError

log = logging.getLogger("refold.data")


class ScaleFit:
    """Fit a scale to the training rows of tables of whole assets, which are added one after the other.

    Args:
        recipe: how bars become windows.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.columns: tuple[str, ...] = ()
        self.relative: tuple[int, ...] = ()
        self.statistics = Statistics()
        self.spread: dict[int, tuple[float, int]] = {}
        self.own: dict[str, Statistics] = {}
        self.own_spread: dict[tuple[str, int], tuple[float, int]] = {}

    def add(self, table: FeatureTable, segments: np.ndarray) -> None:
        """Add the training rows of a table, an asset at a time: the scale must not depend on how assets are grouped.

        Args:
            table: features of whole assets.
            segments: (S, 2) int64, first row and number of rows of each unbroken run of the training part.
        """
        rows, self.columns, self.relative = table.rows, table.columns, table.relative
        size, single = self.recipe.window_size, self.recipe.scale != "pooled"
        train = rows_of({"train": segments})
        train = train[rows.present[train]]
        for block in np.split(train, np.flatnonzero(np.diff(rows.asset[train])) + 1):
            self.statistics.add(rows.values[block])
            if single and len(block):
                own = self.own.setdefault(table.names[rows.asset[block[0]]], Statistics())
                own.add(rows.values[block])
        for column in table.relative:
            values = rows.values[:, column]
            self.spread[column] = _sum_moves(values, segments, size, self.spread.get(column, (0.0, 0)))
            for number in np.unique(rows.asset[segments[:, 0]]) if single else ():
                runs = segments[rows.asset[segments[:, 0]] == number]
                self.own_spread[table.names[number], column] = _sum_moves(values, runs, size, (0.0, 0))

    def constant_features(self) -> list[str]:
        """Return the features that are constant on the training rows, in all assets of a panel."""
        number = np.arange(len(self.columns)) % len(self.recipe.features)
        moves = self.statistics.moves(len(self.columns))
        return [name for n, name in enumerate(self.recipe.features) if not moves[number == n].any()]

    def scaler(self, names: Sequence[str]) -> Scaler:
        """Return the scale that was fitted; columns relative to a bar of the window get mean 0.

        Args:
            names: of all assets.

        Raises:
            DataError: a feature is constant on the training rows.
        """
        scaler = self.statistics.scaler(self.columns)
        for column, (total, count) in self.spread.items():
            if total == 0.0:
                name = self.recipe.features[column % len(self.recipe.features)]
                raise DataError(
                    f"data.features has {name}, which is constant (0) on the training windows; a window must have at "
                    f"least 2 bars, and the price must move"
                )
            scaler.mean[column] = 0.0
            scaler.std[column] = math.sqrt(total / count)
        if self.recipe.scale == "pooled":
            return scaler
        own = {name: scale for name in self.own if (scale := self._own_scale(name)) is not None}
        if pooled := sorted(set(names) - set(own)):
            log.warning(
                "data.scale: %s: fewer than %d training rows, or a feature that is constant there; scaled as all "
                "assets together",
                ", ".join(pooled[:10]) + f" and {len(pooled) - 10} more" * (len(pooled) > 10), FEWEST_ROWS,
            )  # fmt: skip
        return (TrailingScaler if self.recipe.scale == "trailing" else AssetScaler)(scaler.mean, scaler.std, own)

    def _own_scale(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return mean and standard deviation of an asset's training rows; None if they are too few or do not move."""
        found = self.own[name].alone(len(self.columns))
        if found is None:
            return None
        mean, std = found
        for column in self.relative:
            total, count = self.own_spread[name, column]
            if total == 0.0:
                return None
            mean[column], std[column] = 0.0, math.sqrt(total / count)
        return mean, std


def _sum_moves(
    values: np.ndarray, segments: np.ndarray, window_size: int, so_far: tuple[float, int]
) -> tuple[float, int]:
    """Sum the squared differences of a relative column to the first bar of each window, and count them."""
    total, count = so_far
    for first, bars in segments.tolist():
        run, windows = values[first : first + bars], max(0, bars - window_size + 1)
        for lag in range(window_size):
            squares = np.square(run[lag : lag + windows] - run[:windows])
            total, count = total + float(np.nansum(squares)), count + int(np.isfinite(squares).sum())
    return total, count
