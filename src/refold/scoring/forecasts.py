"""Baselines that a predictor has to beat: the last value, the mean, and a ridge regression on the window.

Letters: B windows, T bars, P bars after a window, F features, N windows that are fitted, D numbers of an input.
"""

from collections.abc import Iterator
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from refold.data import Windows

MOST_WINDOWS = 20_000
"""Training windows, spread evenly, that a regression is fitted to."""

MOST_NUMBERS = 40_000_000
"""Numbers of their inputs: 320 MB in float64. Of longer inputs fewer windows are fitted."""

PENALTIES = tuple(10.0**power for power in range(7))
"""Penalties of the ridge regression, of which leave-one-out errors on the training windows choose one."""

_BATCH = 4096


class Forecast(Protocol):
    """A fitted baseline."""

    def predict(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Predict the bars after windows.

        Args:
            windows: (B, T, F), 0 at absent bars.
            mask: (B, T) bool, True at present bars; None: all are.

        Returns:
            (B, P, F).
        """
        ...


class LastValue:
    """Repeat the last present bar of the window.

    Args:
        horizon: P.
    """

    def __init__(self, horizon: int) -> None:
        self.horizon = horizon

    def predict(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Predict the bars after windows; see `Forecast`."""
        T = windows.shape[1]
        last = torch.full((len(windows),), T - 1)
        if mask is not None:
            last = T - 1 - mask.flip(1).int().argmax(dim=1)
        return windows[torch.arange(len(windows)), last].unsqueeze(1).expand(-1, self.horizon, -1)


class MeanAhead:
    """Predict, for each step ahead and feature, the mean over the training windows."""

    def fit(self, train_windows: Windows) -> Self:
        """Learn the means of the present bars after the training windows."""
        total, count = torch.zeros(()), torch.zeros(())
        for index in batches(train_windows):
            bars, mask = train_windows.ahead(index)
            there = torch.ones(bars.shape[:2]) if mask is None else mask.cpu()
            total = total + (bars.cpu().double() * there.unsqueeze(2)).sum(dim=0)
            count = count + there.double().sum(dim=0)
        self.mean = total / count.clamp(min=1).unsqueeze(1)
        return self

    def predict(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Predict the bars after windows; see `Forecast`."""
        return self.mean.expand(len(windows), -1, -1)


class Ridge:
    """Predict by a linear map of the flat window with an L2 penalty (Hoerl and Kennard 1970), by scikit-learn.

    Args:
        penalties: those that are tried.
    """

    def __init__(self, penalties: tuple[float, ...] = PENALTIES) -> None:
        self.penalties = penalties

    def fit(self, train_windows: Windows) -> Self:
        """Learn the map from training windows to the bars after them."""
        return self.fit_inputs(train_windows, lambda windows: windows.flatten(1))

    def fit_inputs(self, train_windows: Windows, read: "InputReader") -> Self:
        """Learn a map from what is read of training windows to the bars after them.

        Args:
            train_windows: windows with a horizon.
            read: windows (B, T, F) -> inputs (B, D).
        """
        from sklearn.linear_model import RidgeCV  # half a second to import, and only needed here

        size = read(train_windows.gather(np.zeros(1, dtype=np.int64)).cpu()).shape[1]
        kept = max(2, min(len(train_windows), MOST_WINDOWS, MOST_NUMBERS // size))
        chosen = np.linspace(0, len(train_windows) - 1, kept).round().astype(np.int64)
        bars, mask = train_windows.ahead(chosen)
        complete = np.ones(kept, dtype=bool) if mask is None else mask.all(dim=1).cpu().numpy()
        if complete.sum() < 2:
            complete[:] = True  # absent bars are 0, the mean
        inputs = read(train_windows.gather(chosen).cpu())[torch.from_numpy(complete)].double()
        self.shape = bars.shape[1:]
        targets = bars.cpu()[torch.from_numpy(complete)].flatten(1).double()
        fitted = RidgeCV(list(self.penalties)).fit(inputs.numpy(), targets.numpy())
        # one target has a coefficient for each input, several have a row of them each
        self.weights = torch.from_numpy(np.atleast_2d(np.asarray(fitted.coef_))).T.contiguous()  # (D, P F)
        self.intercept = torch.from_numpy(np.atleast_1d(np.asarray(fitted.intercept_)))
        return self

    def predict(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Predict the bars after windows; see `Forecast`."""
        return self.predict_inputs(windows.flatten(1))

    def predict_inputs(self, inputs: Tensor) -> Tensor:
        """Predict from inputs (B, D) as `fit_inputs` read them -> (B, P, F), float64."""
        return (inputs.double() @ self.weights + self.intercept).unflatten(1, self.shape)


class InputReader(Protocol):
    """Compute the inputs of a regression from windows."""

    def __call__(self, windows: Tensor, /) -> Tensor:
        """Return (B, D) of windows (B, T, F)."""
        ...


def batches(windows: Windows) -> Iterator[np.ndarray]:
    """Yield the numbers of all windows in order, some thousand at a time.

    Args:
        windows: of a part.
    """
    for start in range(0, len(windows), _BATCH):
        yield np.arange(start, min(start + _BATCH, len(windows)))
