"""Standardise features: mean 0 and standard deviation 1 on the training rows, the same shift and factor elsewhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refold.errors import DataError


class Scaler:
    """Shift and scale each feature. Statistics are float64 whatever the dtype of the data.

    Args:
        mean: (F,), in the units of the features.
        std: (F,), above 0, in the units of the features.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean = mean.double()
        self.std = std.double()

    @classmethod
    def fit(cls, train_rows: Tensor, names: Sequence[str]) -> "Scaler":
        """Fit a scaler to training rows; `Statistics` does the same for rows that come in blocks.

        Args:
            train_rows: (N, F) in the units of the features, NaN where there is no value.
            names: the F features, for the message.

        Returns:
            The scaler.

        Raises:
            DataError: a feature has no value or is constant.
        """
        statistics = Statistics()
        statistics.add(train_rows.numpy())
        return statistics.scaler(names)

    def transform(self, values: Tensor) -> Tensor:
        """Scale values.

        Args:
            values: (..., F), in the units of the features.

        Returns:
            (..., F), scaled, of the dtype of the values.
        """
        return ((values - self.mean.to(values.device)) / self.std.to(values.device)).to(values.dtype)

    def inverse_transform(self, values: Tensor) -> Tensor:
        """Undo the scaling.

        Args:
            values: (..., F), scaled.

        Returns:
            (..., F), in the units of the features, of the dtype of the values.
        """
        return (values * self.std.to(values.device) + self.mean.to(values.device)).to(values.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Return mean and std as tensors, for a checkpoint."""
        return {"mean": self.mean, "std": self.std}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scaler):
            return NotImplemented
        return torch.equal(self.mean, other.mean) and torch.equal(self.std, other.std)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Scaler":
        """Build a scaler from a `state_dict`.

        Args:
            state: mean and std, (F,) each.
        """
        return cls(state["mean"], state["std"])


class Statistics:
    """Accumulate count, mean and sum of squared deviations of each feature over blocks of training rows.

    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", equation 2.1.
    """

    def __init__(self) -> None:
        self.count: np.ndarray | int = 0
        self.mean: np.ndarray | float = 0.0
        self.squares: np.ndarray | float = 0.0

    def add(self, rows: np.ndarray) -> None:
        """Add a block of rows.

        Args:
            rows: (n, F), NaN where an asset of a panel has no bar.
        """
        columns = [column[~np.isnan(column)].astype(np.float64) for column in rows.T]
        count = np.array([len(column) for column in columns])
        mean = np.array([column.mean() if len(column) else 0.0 for column in columns])
        squares = np.array([np.square(column - centre).sum() for column, centre in zip(columns, mean, strict=True)])
        total = np.maximum(self.count + count, 1)
        apart = mean - self.mean
        self.squares = self.squares + squares + apart**2 * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = self.count + count

    def moves(self, features: int) -> np.ndarray:
        """Tell which features are not constant on the rows so far, (F,) bool; those without values count as moving.

        Args:
            features: F.
        """
        stds = np.sqrt(np.broadcast_to(self.squares / np.maximum(self.count, 1), features))
        means = np.broadcast_to(self.mean, features)
        # float noise of a constant column is about 1e-16 of its size
        return (stds > 1e-12 * np.maximum(np.abs(means), 1e-12)) | (np.broadcast_to(self.count, features) == 0)

    def scaler(self, names: Sequence[str]) -> Scaler:
        """Return the scaler with the mean and the standard deviation (maximum likelihood) of the rows so far.

        Args:
            names: the F features, for the message.

        Raises:
            DataError: a feature has no value, or is constant, on the training part.
        """
        means = np.broadcast_to(self.mean, len(names))
        stds = np.sqrt(np.broadcast_to(self.squares / np.maximum(self.count, 1), len(names)))
        rows = int(np.max(self.count))
        for name, values, centre, moves in zip(
            names, np.broadcast_to(self.count, len(names)), means, self.moves(len(names)), strict=True
        ):
            if not values:
                raise DataError(
                    f"{name} has no value on the {rows} training rows: does the asset enter later? Leave it out with "
                    f"data.source.table.assets, or make the training part longer"
                )
            if not moves:
                raise DataError(
                    f"data.features has {name}, which is constant ({centre:g}) on the {values} training rows; its "
                    f"standard deviation must be above 0. Leave it out, or make the training part longer"
                )
        return Scaler(torch.tensor(means.copy()), torch.tensor(stds.copy()))
