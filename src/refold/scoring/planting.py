"""Windows of copies of some bars with planted errors, as a trained autoencoder sees them.

Letters: N bars, R rows of a series, A assets of a panel (1 otherwise), n windows, T bars, F features of an asset.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from refold.data import Scaler, Windows
from refold.data.planted import Kind, Planted, plant, usable_kinds, with_nulls
from refold.data.recipe import Recipe
from refold.data.unsplit import UnsplitSeries, unsplit_series
from refold.errors import DataError
from refold.scoring.measuring import Measurer
from refold.scoring.scores import PlantedErrors
from refold.scoring.scores.head import Examples, joined

MOST_BARS = 20_000
"""Bars of a copy; of a longer part each copy has others."""

_FEWEST_PER_ASSET = 2_000  # bars of an asset in a copy, where it has so many
_BARS_PER_KIND = 60  # of a copy; with fewer bars a copy has some of the kinds alone
_MOST_NUMBERS = 100_000_000  # values of all windows together: 0.4 GB

log = logging.getLogger("refold.score")


@dataclass(frozen=True)
class PlantedCopy:
    """A copy of some bars with planted errors, as one series on a given scale.

    Attributes:
        made: the series.
        labels: (R, A) int64, as in `Examples`.
        blame: (R, A, F) float32, as in `Examples`.
    """

    made: UnsplitSeries
    labels: np.ndarray
    blame: np.ndarray


class Planter:
    """Plant kinds into copies of bars, and turn the copies into series.

    Args:
        recipe: how bars become windows. Faulty bars are treated as when a finished run scores.
        scaler: the scale.
        kinds: errors and real moves.
        per_thousand: episodes of each kind per 1,000 bars of a copy.
        bars: canonical, of the training part; they decide which kinds can be planted.

    Raises:
        DataError: no kind of error can be planted into such bars.
    """

    def __init__(
        self, recipe: Recipe, scaler: Scaler, kinds: Sequence[Kind], per_thousand: float, bars: pl.DataFrame
    ) -> None:
        self.recipe = replace(recipe, checks=recipe.checks.when_scoring())
        self.scaler = scaler
        self.per_thousand = per_thousand
        self.kinds, left_out = usable_kinds(kinds, bars, recipe.checks.kind)
        self.errors = [kind for kind in self.kinds if kind.is_error]
        if left_out:
            log.warning("score.kinds: left out, since the bars cannot have them: %s", ", ".join(left_out))
        if not self.errors:
            raise DataError(f"score.kinds has no error that the bars can have: {', '.join(left_out)}")
        self.warm_up = max(1, recipe.bars_before)

    def copy(self, bars: pl.DataFrame, generator: np.random.Generator) -> PlantedCopy:
        """Plant into a copy of some of the bars, and make a series of it; see `plant`.

        Args:
            bars: canonical.
            generator: source of every random number here.
        """
        planted, labels = self.plant(bars, generator)
        made = unsplit_series(with_nulls(planted.bars), self.recipe, self.scaler)
        clean = unsplit_series(with_nulls(planted.truth), self.recipe, self.scaler)
        here = np.where(made.origin >= 0, labels[made.origin], -1)
        if made.series.present is not None:
            here[~made.series.present.numpy()] = -1
        return PlantedCopy(made, here, _blame(made, clean, here))

    def plant(self, bars: pl.DataFrame, generator: np.random.Generator) -> tuple[Planted, np.ndarray]:
        """Plant into a copy of some of the bars.

        Args:
            bars: canonical.
            generator: source of every random number here.

        Returns:
            The copy, and the label of each of its bars as in `Examples`.

        Raises:
            DataError: there is no room for an error.
        """
        bars = self._some(bars, generator)
        count = max(1, bars.height // _BARS_PER_KIND)
        chosen = list(self.kinds)
        if count < len(chosen):
            chosen = [chosen[place] for place in generator.permutation(len(chosen))[:count]]
        chosen, _ = usable_kinds(chosen, bars, self.recipe.checks.kind)
        planted = plant(
            bars,
            chosen,
            per_thousand=self.per_thousand,
            warm_up=self.warm_up,
            generator=generator,
            table=self.recipe.checks.kind,
            key="score",
        )
        number = {kind.name: place for place, kind in enumerate(self.errors, 1)}
        labels = np.array([0, *(number.get(kind.name, 0) for kind in chosen)])[planted.label]
        same = planted.bars["asset"].rle_id().to_numpy()
        after = (labels == 0) & np.append(False, (labels[:-1] > 0) & (same[1:] == same[:-1]))
        labels[after] = -1  # its own values are right and its change is not
        return planted, labels

    def _some(self, bars: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
        """Choose some assets, and a stretch of moments, with about MOST_BARS bars; of a panel all assets."""
        if bars.height <= MOST_BARS:
            return bars
        assets = bars["asset"].unique().sort()
        if self.recipe.layout != "panel":
            some = max(1, MOST_BARS // _FEWEST_PER_ASSET)
            assets = assets.gather(np.sort(generator.permutation(len(assets))[:some]))
            bars = bars.filter(pl.col("asset").is_in(assets.implode()))
        moments = bars["timestamp"].unique().sort()
        length = min(len(moments), max(MOST_BARS * len(moments) // bars.height, 4 * self.recipe.window_size))
        first = int(generator.integers(len(moments) - length + 1))
        return bars.filter(pl.col("timestamp").is_between(moments[first], moments[first + length - 1]))


def _blame(made: UnsplitSeries, clean: UnsplitSeries, labels: np.ndarray) -> np.ndarray:
    """Compute the shares of the features in what is wrong with each bar, (R, A, F); 0 where that is not known."""
    R, A = labels.shape
    shares = np.zeros((R, A, made.series.values.shape[1] // A), dtype=np.float32)
    if made.series.values.shape != clean.series.values.shape:  # an error made the checks mask other bars
        return shares
    wrong = (made.series.values - clean.series.values).abs().numpy().reshape(shares.shape)
    total = wrong.sum(axis=2, keepdims=True)
    np.divide(wrong, total, out=shares, where=np.isfinite(total) & (total > 0) & (labels > 0)[:, :, None])
    return shares


def fit_head(
    score: PlantedErrors,
    recipe: Recipe,
    measurer: Measurer,
    measure: Callable[..., tuple[Tensor, Any, Any]],
    train: pl.DataFrame,
    val: pl.DataFrame,
) -> None:
    """Train the head of a score on copies of the training part, and calibrate it on copies of validation.

    Args:
        score: not fitted.
        recipe: how bars become windows.
        measurer: runs the autoencoder.
        measure: (series, runs) -> values (N, C) of its bars, asset after asset, and more.
        train: canonical bars.
        val: canonical bars.

    Raises:
        DataError: a part has too few bars to plant in, or a kind plants what the checks find.
    """
    planter = Planter(recipe, measurer.scaler, score.planted, score.per_thousand, train)
    names = [kind.name for kind in planter.errors]
    score.fit_examples(planted_windows(planter, score, measurer, train), names, causal=measurer.alignment == "last")
    score.fit_probabilities(*planted_values(planter, score, measure, val))


def planted_windows(planter: Planter, score: PlantedErrors, measurer: Measurer, train: pl.DataFrame) -> Examples:
    """Cut windows from copies of the training part, spread at random, and run the autoencoder on them.

    Args:
        planter: plants the copies.
        score: says how many copies and windows there are.
        measurer: runs the autoencoder.
        train: canonical bars.
    """
    T, made = measurer.window_size, []
    for number in range(score.copies):
        generator = score.generator("train", number)
        copy = planter.copy(train, generator)
        series, A = copy.made.series, copy.labels.shape[1]
        windows = Windows(series, copy.made.segments, window_size=T, stride=1)
        most = min(score.windows, _MOST_NUMBERS * A // (T * series.values.shape[1]))
        chosen = np.sort(generator.permutation(len(windows))[: max(1, most // (score.copies * A))])
        for start in range(0, len(chosen), measurer.batch):
            made.append(_by_asset(measurer, windows, chosen[start : start + measurer.batch], copy))
    return joined(made)


def _by_asset(measurer: Measurer, windows: Windows, number: np.ndarray, copy: PlantedCopy) -> Examples:
    """Return windows of each asset for itself: (n, T, A F) -> (n A, T, F)."""
    truth, codes, reconstruction = measurer.reconstruct(windows, number, windows.mask(number))
    rows = windows.rows(number)
    n, T = rows.shape
    A = copy.labels.shape[1]

    def split(values: Tensor) -> Tensor:
        return values.cpu().view(n, T, A, -1).transpose(1, 2).reshape(n * A, T, -1)

    codes = codes.float().cpu().repeat_interleave(A, dim=0)
    labels, blame = (torch.from_numpy(part[rows]) for part in (copy.labels, copy.blame))
    return Examples(split(truth.float()), split(reconstruction.float()), codes, split(labels).squeeze(2), split(blame))


def planted_values(
    planter: Planter, score: PlantedErrors, measure: Callable[..., tuple[Tensor, Any, Any]], val: pl.DataFrame
) -> tuple[Tensor, np.ndarray]:
    """Measure the bars of copies of validation, aligned as any others.

    Args:
        planter: plants the copies.
        score: says how many copies there are.
        measure: (series, runs) -> values (N, C) of its bars, asset after asset, and more.
        val: canonical bars.

    Returns:
        Values (N, C) and labels (N,) of the bars of all copies.
    """
    values, labels = [], []
    for number in range(max(1, score.copies // 4)):
        copy = planter.copy(val, score.generator("val", number))
        values.append(measure(copy.made.series, copy.made.segments)[0])
        labels.append(copy.labels.T.reshape(-1))
    return torch.cat(values), np.concatenate(labels)
