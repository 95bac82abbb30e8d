"""Surprise of each feature's error under a normal distribution of errors, summed over the features.

Source: Garg et al. 2021, "An evaluation of anomaly detection and diagnosis in multivariate time series" (Gauss-S,
Gauss-D, Gauss-D-K).
"""

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from refold.bounds import at_least, checked, more_than
from refold.scoring.scores.base_score import Score, asset_rows, log_survival


def _mean_and_mean_square(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and mean square of each column."""
    return values.mean(dim=0), values.square().mean(dim=0)


class GaussStatic(Score):
    """Gauss-S: sum -ln(1 - Phi((e - mu) / s)) over the features, with mu and s of training errors.

    Args:
        floor: the smallest s, in training standard deviations of the feature, above 0.
    """

    fitted_on = "train"
    tensors = ("mean", "mean_square")

    @checked("score")
    def __init__(self, *, floor: Annotated[float, more_than(0)]) -> None:
        self.floor = floor

    def fit(self, values: Tensor) -> None:
        self.mean, self.mean_square = _mean_and_mean_square(values)

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        deviation = (self.mean_square - self.mean.square()).clamp(min=0).sqrt().clamp(min=self.floor)
        return _spread_nan(log_survival((values - self.mean) / deviation))


class GaussDynamic(Score):
    """Gauss-D: score as Gauss-S does, with mu and s of the asset's own errors on the `memory` bars before this one.

    The bar itself is left out: a bar that normalised itself could not stand out. Where bars before it are absent, the
    training errors count in their place.

    Args:
        memory: bars, at least 2.
        floor: the smallest s, in training standard deviations of the feature, above 0.
    """

    fitted_on = "train"
    tensors = ("mean", "mean_square")

    @checked("score")
    def __init__(self, *, memory: Annotated[int, at_least(2)], floor: Annotated[float, more_than(0)]) -> None:
        self.memory = memory
        self.floor = floor
        self.before = memory

    def fit(self, values: Tensor) -> None:
        self.mean, self.mean_square = _mean_and_mean_square(values)

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        return _spread_nan(torch.cat([self._surprise(values[rows]) for rows in asset_rows(asset)] or [values]))

    def _surprise(self, values: Tensor) -> Tensor:
        """Return the surprise at each error of one asset, (n, F) -> (n, F)."""
        centred = values - self.mean  # sums of squares of small numbers keep their digits
        variance = (self.mean_square - self.mean.square()).clamp(min=0)
        present = ~centred.isnan()
        filled = centred.nan_to_num()
        lacking = self.memory - _trailing_sum(present.double(), self.memory)
        mean = _trailing_sum(filled, self.memory) / self.memory
        square = (_trailing_sum(filled.square(), self.memory) + lacking * variance) / self.memory
        deviation = (square - mean.square()).clamp(min=0).sqrt().clamp(min=self.floor)
        return log_survival((centred - mean) / deviation)


class GaussDynamicKernel(Score):
    """Gauss-D-K: smooth Gauss-D along time with a Gaussian kernel, feature by feature.

    Errors that last count for more than lone ones.

    Args:
        memory: as for Gauss-D.
        floor: as for Gauss-D.
        width: standard deviation of the kernel, in bars, above 0; the kernel is cut off at three of them.
        centred: True is the kernel of the source, which looks 3 x width bars ahead; False takes its past half.
    """

    fitted_on = "train"

    @checked("score")
    def __init__(
        self,
        *,
        memory: Annotated[int, at_least(2)],
        floor: Annotated[float, more_than(0)],
        width: Annotated[float, more_than(0)],
        centred: bool,
    ) -> None:
        self.dynamic = GaussDynamic(memory=memory, floor=floor)
        reach = max(1, round(3 * width))
        self.before, self.after = memory + reach, reach if centred else 0
        lags = torch.arange(reach, -self.after - 1, -1, dtype=torch.float64)  # bars back, from the oldest on
        self.kernel = torch.exp(-0.5 * (lags / width).square())
        self.reach = reach

    def fit(self, values: Tensor) -> None:
        self.dynamic.fit(values)

    def state_dict(self) -> dict[str, Tensor]:
        return self.dynamic.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.dynamic.load_state_dict(state)

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        surprise = self.dynamic.contributions(values, asset)
        smooth = torch.cat([self._smooth(surprise[rows]) for rows in asset_rows(asset)] or [surprise])
        return smooth.masked_fill(surprise.isnan(), torch.nan)

    def _smooth(self, surprise: Tensor) -> Tensor:
        """Return the weighted mean over the bars that are not absent, (n, F) -> (n, F)."""
        present = ~surprise.isnan()
        padding = (self.reach, self.after)

        def convolve(columns: Tensor) -> Tensor:
            padded = torch.nn.functional.pad(columns.T.unsqueeze(1), padding)  # (n, F) -> (F, 1, n + reach + after)
            return torch.nn.functional.conv1d(padded, self.kernel[None, None]).squeeze(1).T

        return convolve(surprise.nan_to_num()) / convolve(present.double()).clamp(min=1e-300)


def _trailing_sum(values: Tensor, bars: int) -> Tensor:
    """Return the sum over the `bars` rows before each row, without the row itself, (n, F) -> (n, F)."""
    total = torch.nn.functional.pad(values.cumsum(dim=0), (0, 0, 1, 0))  # total[i]: of the rows before row i
    earlier = torch.nn.functional.pad(total[:-1], (0, 0, bars, 0))[: len(values)]
    return total[:-1] - earlier


def _spread_nan(contributions: Tensor) -> Tensor:
    """Set all values of a row to NaN where one of them is."""
    return contributions.masked_fill(contributions.isnan().any(dim=1, keepdim=True), torch.nan)
