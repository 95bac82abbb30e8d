"""Baselines that a model has to beat.

For reconstruction: the same number of principal components, and the mean. For detection: a forest over the same
features, the features themselves, chance, and flagging everything. The rules of price feeds stand in `rules`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from refold.data import Windows
from refold.data.bars.entries import Entry, find_all
from refold.data.feature_table import compute_features
from refold.scoring.forecasts import Ridge

_BATCH = 4096
_LARGEST_EXACT = 4096  # T * F up to which the covariance matrix is formed and decomposed exactly
_REWEIGHTINGS = 4  # weights change by less than a hundredth after two


class PCA:
    """Reconstruct windows from the principal components of flattened training windows, in float64.

    Up to T * F = 4096 the components are exact, from the covariance; beyond that they are those of a randomised
    decomposition (Halko et al. 2011) of at most 20,000 windows.

    Args:
        num_components: Z; fewer are used if T * F or the number of training windows is smaller.
        seed: of the randomised decomposition.
    """

    def __init__(self, num_components: int, seed: int) -> None:
        self.num_components = num_components
        self.seed = seed

    def fit(self, train_windows: Windows, weigh: Callable[[Tensor], Tensor] | None = None) -> "PCA":
        """Learn mean and components from the training windows.

        Args:
            train_windows: N windows.
            weigh: mean squared errors of the windows (N,) -> their weights (N,), for components that are best under
                another loss than the squared error: fit, weigh and fit again. None: all windows count alike.

        Returns:
            The baseline itself.
        """
        self._fit(train_windows, torch.ones(len(train_windows), dtype=torch.float64))
        if weigh is not None:
            for _ in range(_REWEIGHTINGS):
                made = ((batch, self.reconstruct(batch)) for batch, _ in _batches(train_windows))
                errors = [(one - batch).square().mean(dim=(1, 2)) for batch, one in made]
                self._fit(train_windows, weigh(torch.cat(errors)))
        return self

    def _fit(self, train_windows: Windows, weights: Tensor) -> None:
        """Learn mean and components from windows with weights (N,), float64 and not negative."""
        T, F = train_windows.gather(torch.zeros(1, dtype=torch.int64)).shape[1:]
        size, count = T * F, len(train_windows)
        kept = min(self.num_components, size, count)
        parts = weights.split(_BATCH)  # as `_batches` cuts the windows
        total = torch.zeros(size, dtype=torch.float64)
        for (windows, _), weight in zip(_batches(train_windows), parts, strict=True):
            total += weight @ windows.flatten(1).double()
        self.mean = total / weights.sum()
        if size <= _LARGEST_EXACT:
            covariance = torch.zeros(size, size, dtype=torch.float64)
            for (windows, _), weight in zip(_batches(train_windows), parts, strict=True):
                centred = windows.flatten(1).double() - self.mean
                covariance += (centred * weight[:, None]).T @ centred
            self.components = torch.linalg.eigh(covariance).eigenvectors[:, -kept:]  # (T F, Z), eigenvalues ascend
        else:
            chosen = torch.linspace(0, count - 1, min(count, 20_000)).long()
            centred = train_windows.gather(chosen).flatten(1).double() - self.mean
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                # more components and iterations than asked for: with neither, its error was 9 % above the exact one
                rank = min(kept + 20, *centred.shape)
                centred *= weights[chosen].sqrt()[:, None]
                self.components = torch.pca_lowrank(centred, q=rank, center=False, niter=8)[2][:, :kept]

    def encode(self, windows: Tensor) -> Tensor:
        """Encode windows (B, T, F) into codes (B, Z), float64."""
        return (windows.flatten(1).double() - self.mean) @ self.components

    def reconstruct(self, windows: Tensor) -> Tensor:
        """Reconstruct windows (B, T, F)."""
        return (self.encode(windows) @ self.components.T + self.mean).view_as(windows)

    def spread(self, windows: Windows) -> float:
        """Return the root mean square of the codes of these windows: one unit for all components."""
        squares = sum(float(self.encode(batch).square().sum()) for batch, _ in _batches(windows))
        return math.sqrt(squares / (len(windows) * self.components.shape[1]))


class TrainingMean:
    """Predict, for each feature, its mean over the training windows: what a model without a code would do."""

    def fit(self, train_windows: Windows) -> "TrainingMean":
        """Learn the mean from the training windows."""
        sums = [windows.double().sum(dim=(0, 1)) for windows, _ in _batches(train_windows)]
        self.mean = torch.stack(sums).sum(0) / (len(train_windows) * train_windows.window_size)
        return self

    def reconstruct(self, windows: Tensor) -> Tensor:
        """Reconstruct windows (B, T, F)."""
        return self.mean.expand_as(windows)


def _batches(windows: Windows) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield all windows in order, on the CPU: (B, T, F), absent bars 0, and their mask (B, T) if there is one."""
    for start in range(0, len(windows), _BATCH):
        index = torch.arange(start, min(start + _BATCH, len(windows)))
        mask = windows.mask(index)
        yield windows.gather(index).cpu(), mask if mask is None else mask.cpu()


def reconstruction_error(baseline: PCA | TrainingMean, windows: Windows) -> dict[str, float]:
    """Measure a fitted baseline on windows, by the metric that models are measured with.

    Args:
        baseline: fitted.
        windows: at least one.

    Returns:
        Quantity -> error, as `ReconstructionError` names them.
    """
    from refold.training.reconstruction_metrics import ReconstructionError  # brings torchmetrics

    num_features = windows.gather(torch.zeros(1, dtype=torch.int64)).shape[2]
    error = ReconstructionError(num_features, sync_on_compute=False)
    for batch, mask in _batches(windows):
        error.update(baseline.reconstruct(batch), batch, mask)
    return {name: float(value) for name, value in error.compute().items()}


# Detection: scorers of bars, as `refold.scoring.protocols.Scorer` describes them --------------------------------------


class Components(nn.Module):
    """Wrap a fitted PCA in the interface of an autoencoder: windows to codes, and back or on to the bars after them.

    The bars after a window are predicted by a ridge regression on its code.

    Args:
        pca: fitted.
        train_windows: that it was fitted to; if they have a horizon the regression is fitted to them, too.
    """

    def __init__(self, pca: PCA, train_windows: Windows) -> None:
        super().__init__()
        self.horizon = train_windows.horizon
        self.ahead = Ridge().fit_inputs(train_windows, pca.encode) if self.horizon else None
        self.mean = nn.Parameter(pca.mean, requires_grad=False)  # (T F,)
        self.components = nn.Parameter(pca.components, requires_grad=False)  # (T F, Z)
        self.code_size = pca.components.shape[1]

    def encode(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode windows into codes (B, Z), float64.

        Args:
            windows: (B, T, F).
            mask: (B, T) bool of present bars; an absent bar counts as 0. None: all are present.
        """
        seen = windows if mask is None else windows * mask.unsqueeze(2)
        return (seen.flatten(1).double() - self.mean) @ self.components

    def decode(self, code: Tensor, window_size: int, mask: Tensor | None = None) -> Tensor:
        """Decode codes (B, Z) into windows (B, T, F), float32."""
        return (code @ self.components.T + self.mean).float().unflatten(1, (window_size, -1))

    def predict(self, code: Tensor, mask: Tensor | None = None) -> Tensor:
        """Predict the bars after the windows of codes (B, Z), (B, P, F) float32; a mask changes nothing."""
        assert self.ahead is not None
        return self.ahead.predict_inputs(code).float()


class Blank(nn.Module):
    """Reconstruct zeros, the mean of each scaled feature: a score's own part in what it finds, without a model."""

    def __init__(self) -> None:
        super().__init__()
        self.code_size = 1
        self.place = nn.Parameter(torch.zeros(1), requires_grad=False)  # says on which device it is

    def encode(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return codes (B, 1) of zeros for windows (B, T, F)."""
        self.num_features = windows.shape[2]
        return windows.new_zeros(len(windows), 1)

    def decode(self, code: Tensor, window_size: int, mask: Tensor | None = None) -> Tensor:
        """Return windows (B, T, F) of zeros."""
        return code.new_zeros(len(code), window_size, self.num_features)


class Forest:
    """Score bars with an isolation forest over the features of single bars. A bar that lacks a feature has no score.

    Args:
        features: their entries in data.features.
        seed: of the forest.

    Source: Liu et al. 2008; scikit-learn's, with its default of 100 trees of 256 bars.
    """

    def __init__(self, features: Sequence[Entry], seed: int) -> None:
        self.features = tuple(features)
        self.seed = seed

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Grow the trees on the training bars."""
        return self.fit_rows(_rows(train, self.features))

    def fit_rows(self, rows: np.ndarray) -> Self:
        """Grow the trees on rows of features (N, F); those with NaN are left out."""
        from sklearn.ensemble import IsolationForest  # a second to import, and only needed here

        self.forest = IsolationForest(random_state=self.seed).fit(rows[np.isfinite(rows).all(axis=1)])
        return self

    def score(self, bars: pl.DataFrame) -> np.ndarray:
        """Return the forest's anomaly score of each bar, (N,) in (0, 1]."""
        return self.score_rows(_rows(bars, self.features))

    def score_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the forest's anomaly score of rows of features (N, F), (N,) in (0, 1]; NaN for those with NaN."""
        known = np.isfinite(rows).all(axis=1)
        scores = np.full(len(rows), np.nan)
        if known.any():
            scores[known] = -self.forest.score_samples(rows[known])
        return scores


class NoModel:
    """Score bars by their features alone: the sum of asinh(z)^2, with z the distance from the training mean.

    asinh keeps one wild feature from deciding. What a model adds is what it has above this.

    Args:
        features: their entries in data.features.
    """

    def __init__(self, features: Sequence[Entry]) -> None:
        self.features = tuple(features)

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Learn mean and standard deviation of each feature over the training bars."""
        return self.fit_rows(_rows(train, self.features))

    def fit_rows(self, rows: np.ndarray) -> Self:
        """Learn mean and standard deviation from training rows of features (N, F); those with NaN are left out."""
        rows = rows[np.isfinite(rows).all(axis=1)]
        deviation = rows.std(axis=0)
        self.mean, self.deviation = rows.mean(axis=0), np.where(deviation > 0, deviation, 1.0)
        return self

    def score(self, bars: pl.DataFrame) -> np.ndarray:
        """Return the sum for each bar, (N,); NaN where a feature has no value."""
        return self.score_rows(_rows(bars, self.features))

    def score_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the sum for each row of features (N, F), (N,); NaN for rows with NaN."""
        return np.square(np.arcsinh((rows - self.mean) / self.deviation)).sum(axis=1)


def _rows(bars: pl.DataFrame, entries: Sequence[Entry]) -> np.ndarray:
    """Compute the features of each bar alone, (N, F) float64; NaN where one has no value."""
    features = find_all(entries, bars.columns)
    return compute_features(bars, features, bars["asset"].rle_id().to_numpy()).to_numpy()


class RobustZ:
    """Score bars by the feature that is farthest from its median, in robust standard deviations of training.

    The deviation is 1.4826 x the median absolute deviation. Where more than half of the training values are equal, that
    is 0, and 1.2533 x the mean absolute deviation stands in. Source: Iglewicz and Hoaglin 1993.
    """

    def fit_rows(self, rows: np.ndarray) -> Self:
        """Learn median and deviation of each feature from training rows (N, F); those with NaN are left out."""
        rows = rows[np.isfinite(rows).all(axis=1)]
        self.median = np.median(rows, axis=0)
        away = np.abs(rows - self.median)
        deviation = 1.4826 * np.median(away, axis=0)
        deviation = np.where(deviation > 0, deviation, 1.2533 * away.mean(axis=0))
        self.deviation = np.where(deviation > 0, deviation, 1.0)  # of a feature that never moves
        return self

    def score_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the largest absolute robust z of each row of features (N, F), (N,); NaN for rows with NaN."""
        return (np.abs(rows - self.median) / self.deviation).max(axis=1)


class Chance:
    """Score bars at random.

    Args:
        seed: of the scores.
    """

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Do nothing: there is nothing to learn."""
        return self

    def score(self, bars: pl.DataFrame) -> np.ndarray:
        """Return a random score of each bar, (N,) in [0, 1)."""
        return self.generator.random(bars.height)

    def fit_rows(self, rows: np.ndarray) -> Self:
        """Do nothing: there is nothing to learn."""
        return self

    def score_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return a random score of each row, (N,) in [0, 1)."""
        return self.generator.random(len(rows))


class Everything:
    """Give each bar the same score: under any threshold, all are flagged or none."""

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Do nothing: there is nothing to learn."""
        return self

    def score(self, bars: pl.DataFrame) -> np.ndarray:
        """Return ones, (N,)."""
        return np.ones(bars.height)
