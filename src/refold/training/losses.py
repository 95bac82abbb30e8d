"""Losses per value; the training module averages them over the present bars.

Every loss is a function (reconstruction, windows, mask) -> loss of each value. reconstruction and windows are (B, T, F)
in training standard deviations; mask is (B, T) bool, True at present bars, or None if all are present; the result is
(B, T, F). Values at absent bars have no influence. Letters as in `refold.models`.
"""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from refold.bounds import checked, more_than
from refold.models.masks import mean_of_windows


class SquaredErrorLoss:
    """(reconstruction - truth)^2: the reported error itself, and the loss that a single bad tick moves most."""

    def __call__(self, reconstruction: Tensor, windows: Tensor, mask: Tensor | None) -> Tensor:
        return (reconstruction - windows).square()


class AbsoluteErrorLoss:
    """|reconstruction - truth|: it fits the median, so rare extremes count for less."""

    def __call__(self, reconstruction: Tensor, windows: Tensor, mask: Tensor | None) -> Tensor:
        return (reconstruction - windows).abs()


class HuberLoss:
    """Squared error up to `delta`, straight beyond it (Huber 1964).

    Args:
        delta: error, in training standard deviations, from which on the loss is straight; greater than 0.
    """

    @checked("loss")
    def __init__(self, *, delta: Annotated[float, more_than(0)]):
        self.delta = delta

    def __call__(self, reconstruction: Tensor, windows: Tensor, mask: Tensor | None) -> Tensor:
        return functional.huber_loss(reconstruction, windows, reduction="none", delta=self.delta)


class WindowLogLoss:
    """log(1 + e / scale) of each window's mean squared error e: an error counts in units of its own window's error.

    Squared error is the likelihood of Gaussian errors of one variance; under it a few wild markets decide what is
    learned. This loss allows each window a variance of its own. It is Cauchy's loss, applied to all values of a window
    at once.

    Args:
        scale: squared error, in training variances, below which windows count alike; greater than 0.
    """

    @checked("loss")
    def __init__(self, *, scale: Annotated[float, more_than(0)]):
        self.scale = scale

    def __call__(self, reconstruction: Tensor, windows: Tensor, mask: Tensor | None) -> Tensor:
        error = mean_of_windows((reconstruction - windows).square(), mask)
        return torch.log1p(error / self.scale)[:, None, None].expand_as(windows)  # (B,) -> (B, T, F)

    def window_weights(self, errors: Tensor) -> Tensor:
        """Compute how much each window's squared error counts: the derivative of the loss, times scale.

        Args:
            errors: (N,), mean squared errors of windows.

        Returns:
            (N,), in (0, 1].
        """
        return self.scale / (self.scale + errors)


def mean_over_present(values: Tensor, mask: Tensor | None) -> Tensor:
    """Average values over the features of all present bars of a batch.

    Args:
        values: (B, T, F), anything at absent bars.
        mask: (B, T) bool, True at present bars; None if all are present.

    Returns:
        Scalar tensor, 0 if no bar is present.
    """
    if mask is None:
        return values.mean()
    # where, not a product: an absent bar may hold anything, and 0 * inf is not 0
    return values.where(mask.unsqueeze(-1), 0).sum() / (mask.sum().clamp(min=1) * values.shape[-1])
