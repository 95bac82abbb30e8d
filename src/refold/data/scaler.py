"""Standardisation: mean 0 and standard deviation 1 on the training rows, the same shift and factor everywhere else."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from refold.errors import DataError


class Scaler:
    """Affine map of each feature. Statistics are float64 whatever the dtype of the data.

    Args: mean: (F,), std: (F,), positive, in the units of the features.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean = mean.double()
        self.std = std.double()

    @classmethod
    def fit(cls, train_rows: Tensor, names: Sequence[str]) -> "Scaler":
        """Mean and standard deviation (maximum likelihood) of the training rows.

        Args: train_rows: (N, F); NaN where an asset of a panel has no bar. names: the F features, for the message.
        Raises: DataError: a feature has no value, or is constant, on the training part.
        """
        means, stds = [], []
        for name, column in zip(names, train_rows.unbind(dim=1), strict=True):
            values = column[~column.isnan()].double()
            if not len(values):
                raise DataError(
                    f"{name} has no value on the {len(train_rows)} training rows: does the asset enter later? Leave it "
                    f"out with data.source.table.assets, or make the training part longer"
                )
            centre, spread = values.mean().item(), values.std(correction=0).item()
            # float noise of a constant column is about 1e-16 of its size
            if not spread > 1e-12 * max(abs(centre), 1e-12):
                raise DataError(
                    f"data.features has {name}, which is constant ({centre:g}) on the {len(train_rows)} training rows; "
                    f"its standard deviation must be above 0. Leave it out, or make the training part longer"
                )
            means.append(centre)
            stds.append(spread)
        return cls(torch.tensor(means, dtype=torch.float64), torch.tensor(stds, dtype=torch.float64))

    def transform(self, values: Tensor) -> Tensor:
        """(..., F) in the units of the features -> scaled, same dtype."""
        return ((values - self.mean.to(values.device)) / self.std.to(values.device)).to(values.dtype)

    def inverse_transform(self, values: Tensor) -> Tensor:
        """(..., F) scaled -> in the units of the features, same dtype."""
        return (values * self.std.to(values.device) + self.mean.to(values.device)).to(values.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Mean and std as tensors."""
        return {"mean": self.mean, "std": self.std}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scaler):
            return NotImplemented
        return torch.equal(self.mean, other.mean) and torch.equal(self.std, other.std)

    __hash__ = None

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Scaler":
        """The scaler that `state_dict` described."""
        return cls(state["mean"], state["std"])
