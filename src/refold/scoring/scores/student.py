"""Surprise along the principal directions of the errors, each with tails of its own."""

import numpy as np
import torch
from torch import Tensor

from refold.bounds import checked
from refold.scoring.fitted import Fitted
from refold.scoring.scores.base_score import Score

_DEGREES = (2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 30.0)
_MOST_ROWS = 50_000  # rows that tails are fitted to, spread evenly
_ROUNDS = 50  # of expectation and maximisation; the scale is settled to six digits after thirty
_LEAST_VARIANCE = 1e-9  # share of the largest: directions below it are rounding, or features that follow from others


class StudentTails(Fitted):
    """Surprise -ln p of rows, as the sum over their principal directions of Student distributions.

    Features of a bar move together: a jump over night moves open, high and low alike. Along the principal directions
    of the training rows they no longer do, and what the model knows of one cannot be told by the others. In some
    directions large values are usual, as in that of a jump; a Student distribution of few degrees of freedom is not
    surprised by them.
    """

    role = "score"
    tensors = ("centre", "directions", "degrees")

    def fit(self, rows: Tensor) -> None:
        """Fit directions and tails.

        Args:
            rows: (N, F) float64, without NaN.
        """
        rows = rows[torch.linspace(0, len(rows) - 1, min(len(rows), _MOST_ROWS)).long()]
        self.centre = rows.median(dim=0).values
        apart = rows - self.centre
        variances, directions = torch.linalg.eigh(apart.T @ apart / len(apart))
        kept = variances > _LEAST_VARIANCE * variances.max().clamp(min=1e-300)
        directions = torch.where(kept, directions / variances.clamp(min=1e-300).sqrt(), 0.0)
        squares = (apart @ directions).square()  # (N, F)
        scale, self.degrees = _fit_student(squares)
        self.directions = directions / scale.sqrt()

    def contributions(self, rows: Tensor) -> Tensor:
        """Share the surprise at rows (N, F) among their features: (N, F), whose sum is the surprise, from 0 on.

        A feature has of the surprise in each direction what it has of the length there; below 0 where the others
        exaggerate what it takes back.
        """
        apart = rows - self.centre
        along = apart @ self.directions
        squares = along.square()
        half = (self.degrees + 1) / 2
        # surprise per square, which is half / degrees where the square is 0
        rate = torch.where(squares > 0, half * torch.log1p(squares / self.degrees) / squares, half / self.degrees)
        return apart * ((along * rate) @ self.directions.T)


def _fit_student(squares: Tensor) -> tuple[Tensor, Tensor]:
    """Find the squared scale and the degrees of freedom, (F,) each, that make squared values (N, F) likeliest."""
    best = torch.full(squares.shape[1:], -torch.inf, dtype=squares.dtype)
    scale, degrees = torch.ones_like(best), torch.full_like(best, _DEGREES[-1])
    for n in _DEGREES:
        own = squares.mean(dim=0).clamp(min=1e-300)
        for _ in range(_ROUNDS):
            own = ((n + 1) * squares / (n + squares / own)).mean(dim=0).clamp(min=1e-300)
        n_ = torch.tensor(n, dtype=squares.dtype)
        constant = torch.lgamma((n_ + 1) / 2) - torch.lgamma(n_ / 2) - 0.5 * n_.log() - 0.5 * own.log()
        likelihood = constant - (n + 1) / 2 * torch.log1p(squares / own / n).mean(dim=0)
        better = likelihood > best
        best, scale = torch.where(better, likelihood, best), torch.where(better, own, scale)
        degrees = torch.where(better, n, degrees)
    return scale, degrees


class StudentScore(Score):
    """Score a bar by how surprising its signed errors are: along their principal directions, each with its own tails.

    Where the sizes of errors say that a bar is far off, their signs say how: a wrong close moves high and close but
    not the open, a jump over night moves all of them.
    """

    fitted_on = "train"

    @checked("score")
    def __init__(self) -> None:
        self.tails = StudentTails()

    def measure(self, windows: Tensor, reconstruction: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        return windows - reconstruction

    def fit(self, values: Tensor) -> None:
        self.tails.fit(values)

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        return self.tails.contributions(values)

    def state_dict(self) -> dict[str, Tensor]:
        return self.tails.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.tails.load_state_dict(state)


class FeatureScore(StudentScore):
    """Score a bar by how surprising its features are, as `StudentScore` judges errors; no model takes part."""

    def measure(self, windows: Tensor, reconstruction: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        return windows
