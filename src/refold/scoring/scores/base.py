"""What all scores share.

Letters: B windows, T bars, F features, Z numbers of a code, N bars of some assets, C values of a bar.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from refold.errors import ConfigError


class Score(ABC):
    """Two steps with the alignment between them: values of each bar of a window, then the score of each bar.

    `measure` gives each bar of a window C values: an error per feature, or one distance. They are aligned, so that each
    bar of an asset has one row of them, (N, C). `fit` learns from rows what is usual; `contributions` says of other
    rows how strange each value is, and their sum is the score.

    fitted_on: the part whose rows `fit` gets. reads_codes: `fit_codes` has something to learn. names_features: the C
    values belong to the F features. before, after: rows of an asset beyond a row itself that its contributions depend
    on.
    """

    fitted_on: ClassVar[Literal["train", "val"]] = "val"
    reads_codes: ClassVar[bool] = False
    names_features: ClassVar[bool] = True
    tensors: ClassVar[Sequence[str]] = ()
    before: int = 0
    after: int = 0

    def measure(self, windows: Tensor, reconstruction: Tensor, codes: Tensor) -> Tensor:
        """Args: windows, reconstruction: (B, T, F). codes: (B, Z). Returns: (B, T, C), C = F: absolute errors."""
        return (windows - reconstruction).abs()

    def fit_codes(self, codes: Tensor) -> None:  # noqa: B027  most scores have nothing to learn from them
        """Learn from the codes of windows of the training part, before anything is measured. Args: codes: (n, Z)."""

    def fit(self, values: Tensor) -> None:  # noqa: B027  a plain error has nothing to learn
        """Learn what is usual. Args: values: (N, C) float64, without NaN, of the part `fitted_on`."""

    @abstractmethod
    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        """Args: values: (N, C) float64, asset after asset in order of time, NaN at absent bars. asset: (N,) numbers.

        Returns: (N, C) float64, NaN in rows where a value is. Their sum over C is the score.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """What was fitted."""
        return {name: getattr(self, name) for name in self.tensors}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up what was fitted. Raises: ConfigError: it is the state of another score."""
        if set(state) != set(self.tensors):
            raise ConfigError(f"the score's state has {sorted(state)}; {type(self).__name__} has {list(self.tensors)}")
        for name, value in state.items():
            setattr(self, name, value)


def blocks_of(asset: np.ndarray) -> list[slice]:
    """The rows of each asset. Args: asset: (N,) numbers, equal ones side by side."""
    borders = np.flatnonzero(np.diff(asset)) + 1
    edges = [0, *borders.tolist(), len(asset)] if len(asset) else []
    return [slice(start, end) for start, end in pairwise(edges)]


def log_survival(z: Tensor) -> Tensor:
    """-ln(1 - Phi(z)), the surprise at a standard normal number as large; exact far out too, where 1 - Phi is 0."""
    return -torch.special.log_ndtr(-z)
