"""Losses per value; the training module averages them over the present bars.

All are called alike: (reconstruction, windows, mask), (B, T, F) twice and (B, T), True where a bar is present, or None,
and return (B, T, F). What stands at absent bars is not looked at.
"""

from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from refold.bounds import checked, more_than
from refold.models.masks import mean_of_windows


class SquaredError:
    """(reconstruction - truth)^2: the loss of the reported error, and the one that a single bad tick moves most."""

    def __call__(self, reconstruction: Tensor, windows: Tensor, mask: Tensor | None) -> Tensor:
        return (reconstruction - windows).square()


class AbsoluteError:
    """|reconstruction - truth|: fits the median, so rare extremes count for less."""

    def __call__(self, reconstruction: Tensor, windows: Tensor, mask: Tensor | None) -> Tensor:
        return (reconstruction - windows).abs()


class Huber:
    """Squared up to `delta`, straight beyond it (Huber 1964). Errors are in training standard deviations."""

    @checked("loss")
    def __init__(self, *, delta: Annotated[float, more_than(0)]):
        self.delta = delta

    def __call__(self, reconstruction: Tensor, windows: Tensor, mask: Tensor | None) -> Tensor:
        return functional.huber_loss(reconstruction, windows, reduction="none", delta=self.delta)


class WindowLog:
    """log(1 + e / scale) of each window's mean squared error e: an error counts in units of its own window's.

    Squared error is what Gaussian errors of one variance ask for, so that a few wild markets decide what is learned.
    This is what they ask for when each window has a variance of its own (Cauchy's loss, of a whole window).

    Args: scale: squared error, in training variances, below which windows count alike.
    """

    @checked("loss")
    def __init__(self, *, scale: Annotated[float, more_than(0)]):
        self.scale = scale

    def __call__(self, reconstruction: Tensor, windows: Tensor, mask: Tensor | None) -> Tensor:
        error = mean_of_windows((reconstruction - windows).square(), mask)
        return torch.log1p(error / self.scale)[:, None, None].expand_as(windows)

    def window_weights(self, errors: Tensor) -> Tensor:
        """What a window's squared error counts for at these errors: the loss's derivative, times scale. (N,) -> (N,)"""
        return self.scale / (self.scale + errors)


def mean_over_present(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the features of all present bars.

    Args: values: (B, T, F). mask: (B, T), True where a bar is present; None if all are.
    """
    if mask is None:
        return values.mean()
    # where, not a product: an absent bar may hold anything, and 0 * inf is not 0
    return values.where(mask.unsqueeze(-1), 0).sum() / (mask.sum() * values.shape[-1])
