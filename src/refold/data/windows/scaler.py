"""Standardise features by statistics of the training rows, of all assets or of each, or by those of the bars before.

Letters: A assets, F features, N rows.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor

from refold.errors import DataError

if TYPE_CHECKING:
    from refold.data.windows.views import Series

FEWEST_ROWS = 100
"""Training rows from which on an asset has a scale of its own; a standard deviation of so many is right to some 7 %."""

LEAST_SHARE = 0.1
"""Least standard deviation of the bars before, as a share of that of the asset's training rows: a price that stood
still would have none."""


class Scaler:
    """Shift and scale each feature, all assets alike. Statistics are float64 whatever the dtype of the data.

    Args:
        mean: (F,), in the units of the features, or (..., F) with a mean for each of some rows.
        std: of the same shape, above 0, in the units of the features.
    """

    kind: ClassVar[Literal["pooled", "per_asset", "trailing"]] = "pooled"
    """The setting of data.scale that makes such a scaler."""

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

    def of_rows(self, names: Sequence[str], asset: np.ndarray, moving: Tensor | None) -> "Scaler":
        """Return the scale of some rows.

        Args:
            names: of the A assets.
            asset: int of any shape, the number of each row's asset.
            moving: (..., 2 F) means and standard deviations of the bars before each row, if there are any.

        Returns:
            A scaler for values (..., F) of these rows.
        """
        return self

    def at(self, series: "Series", rows: np.ndarray) -> "Scaler":
        """Return the scale of some rows of a series; see `of_rows`.

        Args:
            series: scaled by this scaler.
            rows: int of any shape, such as (B, T) of windows.
        """
        asset = np.searchsorted(series.asset_starts, rows, side="right") - 1
        return self.of_rows(series.asset_names, asset, None if series.moving is None else series.moving[rows])

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, for a checkpoint."""
        return {"mean": self.mean, "std": self.std}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scaler):
            return NotImplemented
        return to_lists(self.state_dict()) == to_lists(other.state_dict())

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Scaler":
        """Build a scaler from a `state_dict`: the one that has such a state.

        Args:
            state: as `state_dict` returns it, or as `to_lists` makes it.
        """
        mean, std = (torch.as_tensor(state[name], dtype=torch.float64) for name in ("mean", "std"))
        if "assets" not in state:
            return Scaler(mean, std)
        means, stds = (torch.as_tensor(state[name], dtype=torch.float64) for name in ("means", "stds"))
        own = {name: (means[number], stds[number]) for number, name in enumerate(state["assets"])}
        return (TrailingScaler if state["trailing"] else AssetScaler)(mean, std, own)


class AssetScaler(Scaler):
    """Shift and scale each feature of an asset by its own training rows.

    Args:
        mean: (F,) of all assets, for those that have no scale of their own.
        std: (F,) of all assets, above 0.
        own: asset -> its mean and standard deviation, (F,) each.
    """

    kind = "per_asset"

    def __init__(self, mean: Tensor, std: Tensor, own: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__(mean, std)
        self.own = {name: (one.double(), other.double()) for name, (one, other) in own.items()}

    def of(self, asset: str) -> Scaler:
        """Return the scale of an asset: its own, or that of all assets."""
        return Scaler(*self.own.get(asset, (self.mean, self.std)))

    def of_rows(self, names: Sequence[str], asset: np.ndarray, moving: Tensor | None) -> Scaler:
        """Return the scale of some rows; see `Scaler.of_rows`."""
        scales = [self.of(name) for name in names]
        number = torch.from_numpy(np.asarray(asset))
        means, stds = torch.stack([one.mean for one in scales]), torch.stack([one.std for one in scales])
        return Scaler(means[number], stds[number])

    def transform(self, values: Tensor) -> Tensor:
        """Refuse to scale values of unknown assets."""
        self._refuse()

    def inverse_transform(self, values: Tensor) -> Tensor:
        """Refuse to undo the scaling of values of unknown assets."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError("each row has a scale of its own: take that of the rows first, with `at`")

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values, for a checkpoint."""
        F = len(self.mean)
        means, stds = (torch.stack(part) for part in zip(*self.own.values(), strict=True)) if self.own else (
            torch.empty(0, F, dtype=torch.float64), torch.empty(0, F, dtype=torch.float64)
        )  # fmt: skip
        state = {**super().state_dict(), "assets": list(self.own), "means": means, "stds": stds}
        return {**state, "trailing": self.kind == "trailing"}


class TrailingScaler(AssetScaler):
    """Shift and scale each value by mean and standard deviation of the same asset's bars before it.

    The standard deviation is at least LEAST_SHARE of that of the asset's training rows, which are those of all assets
    for an asset without enough of them.

    Args:
        mean: as for `AssetScaler`.
        std: as for `AssetScaler`.
        own: as for `AssetScaler`.
    """

    kind = "trailing"

    def of_rows(self, names: Sequence[str], asset: np.ndarray, moving: Tensor | None) -> Scaler:
        """Return the scale of some rows; see `Scaler.of_rows`."""
        if moving is None:
            raise TypeError("a trailing scale needs the statistics of the bars before each row")
        mean, std = moving.double().chunk(2, dim=-1)
        return Scaler(mean, torch.maximum(std, LEAST_SHARE * super().of_rows(names, asset, None).std))


def to_lists(state: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the tensors of a scaler's state into nested lists, for JSON."""
    return {key: value.tolist() if isinstance(value, Tensor) else value for key, value in state.items()}


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

    def alone(self, features: int) -> tuple[Tensor, Tensor] | None:
        """Return mean and standard deviation of the rows, (F,) each; None if they are too few or a feature is constant.

        Args:
            features: F.
        """
        count = np.broadcast_to(self.count, features)
        if count.min() < FEWEST_ROWS or not self.moves(features).all():
            return None
        mean, squares = np.broadcast_to(self.mean, features), np.broadcast_to(self.squares, features)
        return torch.tensor(mean.copy()), torch.tensor(np.sqrt(squares / count))

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
