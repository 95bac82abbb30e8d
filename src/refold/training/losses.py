"""Losses per value; the training module averages them over the present bars."""

from typing import Annotated

from torch import Tensor
from torch.nn import functional

from refold.bounds import checked, more_than


class SquaredError:
    """(reconstruction - truth)^2: the loss of the reported error, and the one that a single bad tick moves most."""

    def __call__(self, reconstruction: Tensor, windows: Tensor) -> Tensor:
        return (reconstruction - windows).square()


class AbsoluteError:
    """|reconstruction - truth|: fits the median, so rare extremes count for less."""

    def __call__(self, reconstruction: Tensor, windows: Tensor) -> Tensor:
        return (reconstruction - windows).abs()


class Huber:
    """Squared up to `delta`, straight beyond it (Huber 1964). Errors are in training standard deviations."""

    @checked("loss")
    def __init__(self, *, delta: Annotated[float, more_than(0)]):
        self.delta = delta

    def __call__(self, reconstruction: Tensor, windows: Tensor) -> Tensor:
        return functional.huber_loss(reconstruction, windows, reduction="none", delta=self.delta)


def mean_over_present(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the features of all present bars.

    Args: values: (B, T, F). mask: (B, T), True where a bar is present; None if all are.
    """
    if mask is None:
        return values.mean()
    # where, not a product: an absent bar may hold anything, and 0 * inf is not 0
    return values.where(mask.unsqueeze(-1), 0).sum() / (mask.sum() * values.shape[-1])
