"""What a model has to beat: for reconstruction the same number of principal components, and the mean; for detection a
forest over the same features, chance, and flagging everything. The rules of price feeds stand in `rules`.
"""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from refold.data import Windows
from refold.data.features import find_all
from refold.data.pipeline import compute
from refold.training.metrics import ReconstructionError

_BATCH = 4096
_LARGEST_EXACT = 4096  # T * F up to which the covariance matrix is formed and decomposed exactly


class PCA:
    """Principal components of flattened training windows, in float64.

    Up to T * F = 4096 they are exact, from the covariance; beyond that from a randomised decomposition (Halko et al.
    2011) of at most 20,000 windows.

    Args: num_components: as many numbers as the code has; never more than T * F or than there are training windows.
        seed: of the randomised decomposition.
    """

    def __init__(self, num_components: int, seed: int):
        self.num_components = num_components
        self.seed = seed

    def fit(self, train_windows: Windows) -> "PCA":
        """Learn mean and components from the training windows."""
        T, F = train_windows.gather(torch.zeros(1, dtype=torch.int64)).shape[1:]
        size, count = T * F, len(train_windows)
        kept = min(self.num_components, size, count)
        total = torch.zeros(size, dtype=torch.float64)
        for windows, _ in batches(train_windows):
            total += windows.flatten(1).double().sum(0)
        self.mean = total / count
        if size <= _LARGEST_EXACT:
            covariance = torch.zeros(size, size, dtype=torch.float64)
            for windows, _ in batches(train_windows):
                centred = windows.flatten(1).double() - self.mean
                covariance += centred.T @ centred
            self.components = torch.linalg.eigh(covariance).eigenvectors[:, -kept:]  # (T F, Z), eigenvalues ascend
        else:
            chosen = torch.linspace(0, count - 1, min(count, 20_000)).long()
            centred = train_windows.gather(chosen).flatten(1).double() - self.mean
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                # more components and iterations than asked for: with neither, its error was 9 % above the exact one
                rank = min(kept + 20, *centred.shape)
                self.components = torch.pca_lowrank(centred, q=rank, center=False, niter=8)[2][:, :kept]
        return self

    def reconstruct(self, windows: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, F)."""
        centred = windows.flatten(1).double() - self.mean
        return (centred @ self.components @ self.components.T + self.mean).view_as(windows)


class TrainingMean:
    """Predicts, for each feature, its mean over the training windows: what a model without a code would do."""

    def fit(self, train_windows: Windows) -> "TrainingMean":
        """Learn the mean from the training windows."""
        sums = [windows.double().sum(dim=(0, 1)) for windows, _ in batches(train_windows)]
        self.mean = torch.stack(sums).sum(0) / (len(train_windows) * train_windows.window_size)
        return self

    def reconstruct(self, windows: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, F)."""
        return self.mean.expand_as(windows)


def batches(windows: Windows) -> Iterator[tuple[Tensor, Tensor | None]]:
    """All windows in order, on the CPU: (B, T, F), absent bars 0, and their mask (B, T) if there is one."""
    for start in range(0, len(windows), _BATCH):
        index = torch.arange(start, min(start + _BATCH, len(windows)))
        mask = windows.mask(index)
        yield windows.gather(index).cpu(), mask if mask is None else mask.cpu()


def reconstruction_error(baseline: PCA | TrainingMean, windows: Windows) -> dict[str, float]:
    """The error of a fitted baseline on windows, by the metric that models are measured with."""
    error = None
    for batch, mask in batches(windows):
        error = ReconstructionError(batch.shape[2], sync_on_compute=False) if error is None else error
        error.update(baseline.reconstruct(batch), batch, mask)
    return {name: float(value) for name, value in error.compute().items()}


# Detection: scorers of bars, as `refold.scoring.rules.Scorer` describes them ------------------------------------------


class Forest:
    """Isolation forest over the features of single bars. A bar that lacks a feature has no score.

    Args: features: names. seed: of the forest.
    Source: Liu et al. 2008; scikit-learn's, with its default of 100 trees of 256 bars.
    """

    def __init__(self, features: Sequence[str], seed: int) -> None:
        self.features = tuple(features)
        self.seed = seed

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Grow the trees on the training bars."""
        from sklearn.ensemble import IsolationForest  # a second to import, and only needed here

        rows = self._rows(train)
        self.forest = IsolationForest(random_state=self.seed).fit(rows[np.isfinite(rows).all(axis=1)])
        return self

    def score(self, bars: pl.DataFrame) -> np.ndarray:
        """(N,) the forest's anomaly score, in (0, 1]."""
        rows = self._rows(bars)
        known = np.isfinite(rows).all(axis=1)
        scores = np.full(len(rows), np.nan)
        if known.any():
            scores[known] = -self.forest.score_samples(rows[known])
        return scores

    def _rows(self, bars: pl.DataFrame) -> np.ndarray:
        features = find_all(self.features, bars.columns)
        return compute(bars, features, bars["asset"].rle_id().to_numpy()).to_numpy()


class Chance:
    """A uniform random score. Args: seed: of it."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Nothing to learn."""
        return self

    def score(self, bars: pl.DataFrame) -> np.ndarray:
        """(N,) in [0, 1)."""
        return self.generator.random(bars.height)


class Everything:
    """The same score for each bar: whatever the threshold, all are flagged or none."""

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Nothing to learn."""
        return self

    def score(self, bars: pl.DataFrame) -> np.ndarray:
        """(N,) ones."""
        return np.ones(bars.height)
