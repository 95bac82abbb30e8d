"""The base class of all scores.

Letters: B windows, T bars, F features, Z numbers of a code, N bars of some assets, C values of a bar.
"""

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from refold.data import Windows
from refold.scoring.fitted import Fitted

Question = Literal["named", "unusual"]
"""Question that a verdict answers: is a bar one of the errors that feeds are known for, or is it unlike the history?"""


class NamedBars(NamedTuple):
    """The probability that each of N bars is an error, and the likely kind.

    Attributes:
        probability: (N,) float64, NaN at absent bars.
        kind: (N,) int, number of the most probable kind.
        names: of the kinds.
    """

    probability: np.ndarray
    kind: np.ndarray
    names: tuple[str, ...]


class Score(Fitted, ABC):
    """Score bars in two steps with the alignment between them: values of each bar of a window, then a score per bar.

    `measure` gives each bar of a window C values: an error per feature, or one distance. They are aligned, so that each
    bar of an asset has one row of them, (N, C). `fit` learns the usual values from rows; `contributions` computes
    how strange each value of other rows is. Their sum is the score.

    Attributes:
        question: what its verdict answers.
        fitted_on: the part whose rows `fit` gets.
        reads_codes: `fit_codes` has something to learn.
        reads_windows: `fit_windows` has something to learn.
        reads_planted: it learns from planted errors, before anything is measured; see `refold.scoring.planting`.
        errors_of: whose errors the values are: of the reconstruction, of the prediction, or of both side by side.
        names_features: contributions belong to the F features, and there is one for each; of both, twice F.
        before: rows of an asset before a row that its contributions depend on.
        after: rows of an asset after a row that its contributions depend on.
    """

    role = "score"
    question: ClassVar[Question] = "unusual"
    fitted_on: ClassVar[Literal["train", "val"]] = "val"
    reads_codes: ClassVar[bool] = False
    reads_planted: ClassVar[bool] = False
    reads_windows: ClassVar[bool] = False
    errors_of: ClassVar[Literal["reconstruction", "prediction", "both"]] = "reconstruction"
    names_features: ClassVar[bool] = True
    before: int = 0
    after: int = 0

    def measure(self, windows: Tensor, reconstruction: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Measure each bar of some windows; by default its absolute errors.

        Args:
            windows: (B, T, F), scaled.
            reconstruction: (B, T, F), scaled.
            codes: (B, Z).
            mask: (B, T) bool, True at bars that may be looked at; None: all. What is measured at others is not used.

        Returns:
            (B, T, C), C = F by default.
        """
        return (windows - reconstruction).abs()

    def value_columns(self, num_columns: int, num_features: int) -> int:
        """Return how many values `measure` gives a bar: one for each column, or one where no feature is named.

        Args:
            num_columns: columns of a window, F or of a panel F for each asset.
            num_features: F.
        """
        return num_columns if self.names_features else 1

    def name_bars(self, values: Tensor) -> NamedBars | None:
        """Name the errors that bars look like; None if the score knows no names.

        Args:
            values: as for `contributions`.
        """
        return None

    def fit_codes(self, codes: Tensor) -> None:
        """Learn from codes of training windows, before anything is measured.

        Args:
            codes: (n, Z).
        """

    def fit_windows(self, windows: Windows) -> None:
        """Learn from the training windows, before anything is measured.

        Args:
            windows: all of the training part.
        """

    def fit(self, values: Tensor) -> None:
        """Fit the score to the values of the part `fitted_on`.

        Args:
            values: (N, C) float64, without NaN, of the part `fitted_on`.
        """

    @abstractmethod
    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        """Compute how strange each value is.

        Args:
            values: (N, C) float64, asset after asset in order of time, NaN at absent bars.
            asset: (N,) int, number of each row's asset; equal numbers are neighbours.

        Returns:
            (N, C) float64, NaN in rows where a value is NaN. Their sum over C is the score. Of both errors, (N, F).
        """

    @property
    def predicts(self) -> bool:
        """Tell whether the score needs a model that predicts the bars after a window."""
        return self.errors_of != "reconstruction"

    def complaint_without_predictor(self) -> str:
        """Return what is wrong with the score for a model that does not predict."""
        return (
            f"score is {type(self).__name__}, which needs a model that predicts: train with predictor=repeat, "
            "autoregressive or conditional, or choose another score"
        )


def asset_rows(asset: np.ndarray) -> list[slice]:
    """Return the rows of each asset, in order.

    Args:
        asset: (N,) int, number of each row's asset; equal numbers are neighbours.
    """
    borders = np.flatnonzero(np.diff(asset)) + 1
    edges = [0, *borders.tolist(), len(asset)] if len(asset) else []
    return [slice(start, end) for start, end in pairwise(edges)]


def log_survival(z: Tensor) -> Tensor:
    """Return -ln(1 - Phi(z)), the surprise at a standard normal number as large as z.

    It is exact far out too, where 1 - Phi is 0.
    """
    return -torch.special.log_ndtr(-z)
