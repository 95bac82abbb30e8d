"""The distance from the usual error, in units of how the errors of all features vary."""

import numpy as np
import torch
from torch import Tensor

from refold.bounds import checked
from refold.scoring.scores.base_score import Score


class Mahalanobis(Score):
    """Score a bar by (e - mu)' Sigma^-1 (e - mu) of its absolute errors e (F,), with mu and Sigma from validation.

    Sigma is shrunk towards a multiple of the identity by as much as Ledoit and Wolf 2004 find best, so that it has an
    inverse also with more features than bars; it is used through its Cholesky factor. A feature contributes its
    deviation times its row of Sigma^-1 (e - mu), which is below 0 where the other features explain the deviation.

    Source: Malhotra et al. 2016 (EncDec-AD).
    """

    tensors = ("mean", "factor")

    @checked("score")
    def __init__(self) -> None:
        pass

    def fit(self, values: Tensor) -> None:
        from sklearn.covariance import LedoitWolf  # half a second to import, and scoring does without

        fitted = LedoitWolf(store_precision=False).fit(values.numpy())
        self.mean = torch.from_numpy(fitted.location_)
        covariance = torch.from_numpy(fitted.covariance_)
        # a feature that is always reconstructed alike has variance 0; a share of the mean variance keeps the factor
        ridge = 1e-9 * covariance.diagonal().mean().clamp(min=1e-12)
        self.factor = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype))

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        deviation = values - self.mean
        solved = torch.cholesky_solve(deviation.nan_to_num().T, self.factor).T  # Sigma^-1 (e - mu), (N, F)
        return (deviation * solved).masked_fill(deviation.isnan().any(dim=1, keepdim=True), torch.nan)
