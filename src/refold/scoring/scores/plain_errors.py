"""Plain errors: nothing is fitted, and all features, scaled to training standard deviations, count alike."""

import numpy as np
from torch import Tensor

from refold.bounds import checked
from refold.scoring.scores.base_score import Score


class SquaredError(Score):
    """Score a bar by the mean over its features of (x - xhat)^2, which the default loss minimises."""

    @checked("score")
    def __init__(self) -> None:
        pass

    def measure(self, windows: Tensor, reconstruction: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        return (windows - reconstruction).square()

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        return values / values.shape[1]


class AbsoluteError(Score):
    """Score a bar by the mean over its features of |x - xhat|.

    One feature that is far off counts for less than under the square.
    """

    @checked("score")
    def __init__(self) -> None:
        pass

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        return values / values.shape[1]
