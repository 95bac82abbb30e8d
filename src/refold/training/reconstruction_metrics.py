"""Errors of reconstruction and prediction, exact over batches, masks and processes. Letters as in `refold.models`."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

NO_DEVIATION = 1e-12
"""Share of the sum of squares up to which the squared deviations from the mean are rounding."""


class ReconstructionError(Metric):
    """Measure mean squared error, mean absolute error and R2 over all present bars given so far.

    Sums are kept per feature in float64 and added over processes, so that neither the size of the last batch nor the
    number of processes changes the result. R2 = 1 - sum of squared errors / sum of squared deviations from the mean of
    the windows seen; both sums run over all features, so predicting that mean scores 0.

    Args:
        num_features: F.
        settings: arguments of `torchmetrics.Metric`; sync_on_compute=False measures on one process alone.
    """

    full_state_update = False
    squared_error: Tensor  # (F,) float64, as the next three
    absolute_error: Tensor
    total: Tensor
    total_of_squares: Tensor
    bars: Tensor  # scalar

    def __init__(self, num_features: int, **settings: Any):
        super().__init__(**settings)
        for name in ("squared_error", "absolute_error", "total", "total_of_squares"):
            self.add_state(name, torch.zeros(num_features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("bars", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, windows: Tensor, mask: Tensor | None) -> None:
        """Add a batch.

        Args:
            reconstruction: (B, T, F), in the units of the windows.
            windows: (B, T, F).
            mask: (B, T) bool, True at present bars; None if all are present.
        """
        error = (reconstruction - windows).double()
        windows = windows.double()
        if mask is None:
            present = torch.ones((), dtype=torch.float64, device=windows.device)
            self.bars += windows.shape[0] * windows.shape[1]
        else:
            present = mask.unsqueeze(-1).double()  # (B, T, 1)
            self.bars += present.sum()
        self.squared_error += (error.square() * present).sum(dim=(0, 1))
        self.absolute_error += (error.abs() * present).sum(dim=(0, 1))
        self.total += (windows * present).sum(dim=(0, 1))
        self.total_of_squares += (windows.square() * present).sum(dim=(0, 1))

    def compute(self) -> dict[str, Tensor]:
        """Compute the metrics of all batches added so far.

        Returns:
            reconstruction_mse and reconstruction_mae, in squared and in plain units of the windows, and r2; r2 is NaN
            where the windows stand still.
        """
        values = self.bars * len(self.total)
        deviation = (self.total_of_squares - self.total.square() / self.bars).sum()
        # what is left of a constant is the rounding of float64
        stands_still = deviation <= NO_DEVIATION * self.total_of_squares.sum()
        return {
            "reconstruction_mse": self.squared_error.sum() / values,
            "reconstruction_mae": self.absolute_error.sum() / values,
            "r2": (1 - self.squared_error.sum() / deviation).masked_fill(stands_still, torch.nan),
        }


class PredictionError(nn.Module):
    """Measure the predictions of the bars after windows: of all P bars together, and R2 of each step ahead.

    R2 of a step compares with the mean of the bars that are so many steps ahead.

    Args:
        num_features: F.
        horizon: P.
        settings: as for `ReconstructionError`.
    """

    def __init__(self, num_features: int, horizon: int, **settings: Any):
        super().__init__()
        self.together = ReconstructionError(num_features, **settings)
        self.steps = nn.ModuleList(ReconstructionError(num_features, **settings) for _ in range(horizon))

    def _each(self) -> list[ReconstructionError]:
        return [step for step in self.steps if isinstance(step, ReconstructionError)]

    def update(self, prediction: Tensor, bars: Tensor, mask: Tensor | None) -> None:
        """Add a batch.

        Args:
            prediction: (B, P, F), in the units of the windows.
            bars: (B, P, F), those that came.
            mask: (B, P) bool, True at present bars; None if all are present.
        """
        self.together.update(prediction, bars, mask)
        for place, step in enumerate(self._each()):
            here = slice(place, place + 1)
            step.update(prediction[:, here], bars[:, here], mask if mask is None else mask[:, here])

    def compute(self) -> dict[str, Tensor]:
        """Compute the metrics of all batches added so far.

        Returns:
            prediction_mse and prediction_r2 of all bars, and prediction_r2_1, prediction_r2_2, ... of each step ahead;
            R2 is NaN where the bars stand still.
        """
        together = self.together.compute()
        found = {"prediction_mse": together["reconstruction_mse"], "prediction_r2": together["r2"]}
        return found | {f"prediction_r2_{n}": step.compute()["r2"] for n, step in enumerate(self._each(), start=1)}

    def reset(self) -> None:
        """Forget all batches."""
        self.together.reset()
        for step in self._each():
            step.reset()
