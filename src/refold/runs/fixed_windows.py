"""A few test windows of a run and their reconstructions, kept for a comparison of runs. NumPy alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

FIXED_WINDOWS = "figures/reconstructions.npz"
"""In a run directory."""


@dataclass(frozen=True)
class FixedWindows:
    """W windows and what a model makes of them.

    truth, made: (W, T, F) float32, scaled. present: (W, T) bool. features: F names. assets: W names. moments: (W, T)
    datetime64.
    """

    truth: np.ndarray
    made: np.ndarray
    present: np.ndarray
    features: np.ndarray
    assets: np.ndarray
    moments: np.ndarray

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        np.savez_compressed(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "FixedWindows":
        """Read what `save` wrote. Raises: OSError, ValueError or KeyError: there is no such file, or it is another."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
