"""Draw the windows of some assets more often than those of others in an epoch of training.

A weight w draws each of an asset's windows floor(w) or ceil(w) times in an epoch: 2 draws all of them twice, 0.5 draws
one half of them, each epoch another half. Each draw is computed from its number in the epoch. So the shuffled order,
the shares of processes and the position that a resumed run starts from need no other code.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np

from refold.bounds import at_least, complaint
from refold.data.recipe import Layout
from refold.errors import DataError

AssetWeights = Literal["balanced"] | Mapping[str, float]
"""Weights of assets: "balanced", or the weights of some by name; the others have weight 1."""


def weigh_assets(setting: AssetWeights, names: Sequence[str], counts: np.ndarray) -> np.ndarray:
    """Compute the weight of each asset.

    Args:
        setting: "balanced" draws as many windows of each asset that has any, about as many in all as there are. A
            mapping gives the weights of some assets, at least 0; those that it does not name have weight 1.
        names: the A assets.
        counts: (A,) training windows of each.

    Returns:
        (A,) float64, at least 0.

    Raises:
        DataError: the mapping names an asset that does not exist, or leaves nothing to train on.
    """
    if isinstance(setting, str):
        share = counts.sum() / max(1, np.count_nonzero(counts))
        return np.divide(share, counts, out=np.zeros(len(counts)), where=counts > 0)
    for name in setting:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names[:12])}"
            raise DataError(f"data.asset_weights has {name!r}; {hint}")
    weights = np.array([float(setting.get(name, 1.0)) for name in names])
    if not (weights * counts).any():
        raise DataError(f"data.asset_weights is {dict(setting)}; it leaves no window to train on")
    return weights


class Draws:
    """Map the numbers of an epoch's draws to windows.

    Args:
        counts: (A,) windows of each asset; those of asset a stand right after those of asset a - 1.
        weights: (A,) at least 0; see `weigh_assets`.
        seed: decides which windows a fraction picks.
    """

    def __init__(self, counts: np.ndarray, weights: np.ndarray, *, seed: int) -> None:
        self.seed = seed
        self.counts = counts.astype(np.int64)
        # an asset that counts at all is drawn at least once
        drawn = np.maximum(np.round(weights * counts), (weights > 0) & (counts > 0)).astype(np.int64)
        self.drawn = drawn
        self.first_window = np.cumsum(self.counts) - self.counts
        self.ends = np.cumsum(drawn)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def windows(self, numbers: np.ndarray, epoch: int) -> np.ndarray:
        """Return the windows of some draws.

        Args:
            numbers: (B,) int, numbers of the draws, in [0, len).
            epoch: number of the epoch, from 0.

        Returns:
            (B,) int64, numbers of windows.
        """
        asset = np.searchsorted(self.ends, numbers, side="right")
        nth = numbers - (self.ends[asset] - self.drawn[asset])
        count, drawn = self.counts[asset], self.drawn[asset]
        # on a circle of `count` windows the draws stand count / drawn apart, from a point that each epoch chooses
        turn = np.random.default_rng([self.seed, epoch]).random(len(self.counts))[asset]
        place = (nth * count + (turn * count).astype(np.int64)) // drawn % count
        return self.first_window[asset] + place


def refuse_weights(weights: AssetWeights | None, layout: Layout) -> None:
    """Raise a ValueError for weights that are not numbers, or that windows of all assets cannot have."""
    if weights is not None and layout == "panel":
        raise ValueError(
            "data.asset_weights must be null for data.layout=panel: each window there holds all assets; leave assets "
            "out with data.source.table.assets"
        )
    for name, weight in weights.items() if isinstance(weights, Mapping) else ():
        wrong = complaint(Annotated[float, at_least(0)], weight)
        if wrong:
            raise ValueError(f"data.asset_weights.{name} is {weight!r}; {wrong}")
