"""Learning-rate schedules: the factor on `optimizer.lr` as a pure function of the share of training that is done."""

import math
from typing import Annotated

import torch

from refold.bounds import checked, within


def scale_rate(optimizer: torch.optim.Optimizer, growth: float) -> None:
    """Let the learning rate follow a batch that has grown.

    In proportion for SGD (Goyal et al. 2017), as the square root for optimizers that divide by the size of the
    gradient, such as Adam (Malladi et al. 2022).

    Args:
        optimizer: its rates are changed.
        growth: windows of a batch, divided by those that the rate was chosen for; above 0.
    """
    factor = growth if isinstance(optimizer, torch.optim.SGD) else math.sqrt(growth)
    for group in optimizer.param_groups:
        group["lr"] *= factor


class ConstantRate:
    """The learning rate stays as it is."""

    def __call__(self, done: float) -> float:
        return 1.0


class WarmupCosine:
    """Linear rise over the first part of the training, then half a cosine wave down (Loshchilov & Hutter 2017).

    Args:
        warmup_fraction: share of all optimizer steps over which the rate rises from 0, in [0, 1).
        final_ratio: learning rate at the end, as a share of `optimizer.lr`, in [0, 1].

    Raises:
        ValueError: a value is out of bounds.
    """

    @checked("lr_schedule")
    def __init__(
        self,
        *,
        warmup_fraction: Annotated[float, within(0, 1, open_end=True)],
        final_ratio: Annotated[float, within(0, 1)],
    ):
        self.warmup_fraction = warmup_fraction
        self.final_ratio = final_ratio

    def __call__(self, done: float) -> float:
        """Compute the factor on the learning rate.

        Args:
            done: share of the training that is done, in [0, 1].

        Returns:
            In [0, 1].
        """
        if done < self.warmup_fraction:
            return done / self.warmup_fraction
        after_warmup = (min(done, 1.0) - self.warmup_fraction) / (1 - self.warmup_fraction)
        return self.final_ratio + (1 - self.final_ratio) * (1 + math.cos(math.pi * after_warmup)) / 2
