"""How surprising each feature's error is under a normal distribution of errors, summed over the features.

Source: Garg et al. 2021, "An evaluation of anomaly detection and diagnosis in multivariate time series" (Gauss-S,
Gauss-D, Gauss-D-K).
"""

from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from refold.bounds import at_least, checked, more_than
from refold.scoring.scores.base import Score, blocks_of, log_survival


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square of each column."""
    return values.mean(dim=0), values.square().mean(dim=0)


class GaussStatic(Score):
    """Gauss-S: the sum over the features of -ln(1 - Phi((e - mu) / s)), mu and s of training errors.

    Args: floor: the smallest s, in training standard deviations of the feature.
    """

    fitted_on = "train"
    tensors = ("mean", "mean_square")

    @checked("score")
    def __init__(self, *, floor: Annotated[float, more_than(0)]) -> None:
        self.floor = floor

    def fit(self, values: Tensor) -> None:
        self.mean, self.mean_square = _moments(values)

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        deviation = (self.mean_square - self.mean.square()).clamp(min=0).sqrt().clamp(min=self.floor)
        return _whole_rows(log_survival((values - self.mean) / deviation))


class GaussDynamic(Score):
    """Gauss-D: as Gauss-S, mu and s of the asset's own errors on the `memory` bars before this one.

    The bar itself is left out: one that normalised itself could not stand out. Where there are fewer bars before it, or
    absent ones among them, the training errors stand in for those that lack.

    Args: memory: bars. floor: the smallest s, in training standard deviations of the feature.
    """

    fitted_on = "train"
    tensors = ("mean", "mean_square")

    @checked("score")
    def __init__(self, *, memory: Annotated[int, at_least(2)], floor: Annotated[float, more_than(0)]) -> None:
        self.memory = memory
        self.floor = floor
        self.before = memory

    def fit(self, values: Tensor) -> None:
        self.mean, self.mean_square = _moments(values)

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        return _whole_rows(torch.cat([self._surprise(values[rows]) for rows in blocks_of(asset)] or [values]))

    def _surprise(self, values: Tensor) -> Tensor:
        """Of one asset: (n, F) -> (n, F)."""
        centred = values - self.mean  # sums of squares of small numbers keep their digits
        variance = (self.mean_square - self.mean.square()).clamp(min=0)
        there = ~centred.isnan()
        filled = centred.nan_to_num()
        lacking = self.memory - _trailing_sum(there.double(), self.memory)
        mean = _trailing_sum(filled, self.memory) / self.memory
        square = (_trailing_sum(filled.square(), self.memory) + lacking * variance) / self.memory
        deviation = (square - mean.square()).clamp(min=0).sqrt().clamp(min=self.floor)
        return log_survival((centred - mean) / deviation)


class GaussDynamicKernel(Score):
    """Gauss-D-K: Gauss-D smoothed along time with a Gaussian kernel, feature by feature: errors that last count for
    more than lone ones.

    Args: memory, floor: as of Gauss-D. width: standard deviation of the kernel, in bars; it is cut off at three of
        them. centred: True is the kernel of the source, which looks 3 x width bars ahead; False takes its past half.
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
        smooth = torch.cat([self._smooth(surprise[rows]) for rows in blocks_of(asset)] or [surprise])
        return smooth.masked_fill(surprise.isnan(), torch.nan)

    def _smooth(self, surprise: Tensor) -> Tensor:
        """Weighted mean over the bars that there are, (n, F) -> (n, F)."""
        there = ~surprise.isnan()
        padding = (self.reach, self.after)

        def convolve(columns: Tensor) -> Tensor:
            padded = torch.nn.functional.pad(columns.T.unsqueeze(1), padding)  # (n, F) -> (F, 1, n + reach + after)
            return torch.nn.functional.conv1d(padded, self.kernel[None, None]).squeeze(1).T

        return convolve(surprise.nan_to_num()) / convolve(there.double()).clamp(min=1e-300)


def _trailing_sum(values: Tensor, bars: int) -> Tensor:
    """Sum over the `bars` rows before each row, itself left out. (n, F) -> (n, F)."""
    total = torch.nn.functional.pad(values.cumsum(dim=0), (0, 0, 1, 0))  # total[i]: of the rows before row i
    earlier = torch.nn.functional.pad(total[:-1], (0, 0, bars, 0))[: len(values)]
    return total[:-1] - earlier


def _whole_rows(contributions: Tensor) -> Tensor:
    """NaN in the whole row where one of its values is."""
    return contributions.masked_fill(contributions.isnan().any(dim=1, keepdim=True), torch.nan)
