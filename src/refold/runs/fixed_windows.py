"""A few test windows of a run and their reconstructions, kept for a comparison of runs. NumPy alone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

FIXED_WINDOWS = "figures/reconstructions.npz"
"""In a run directory."""


@dataclass(frozen=True)
class FixedWindows:
    """W windows and their reconstructions.

    Attributes:
        truth: (W, T, F) float32, scaled.
        made: (W, T, F) float32, the reconstruction of truth.
        present: (W, T) bool, True at present bars.
        features: (F,) names.
        assets: (W,) names.
        moments: (W, T) datetime64.
    """

    truth: np.ndarray
    made: np.ndarray
    present: np.ndarray
    features: np.ndarray
    assets: np.ndarray
    moments: np.ndarray

    def save(self, path: Path) -> None:
        """Write the windows as an .npz file."""
        np.savez_compressed(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "FixedWindows":
        """Read the windows that `save` wrote.

        Raises:
            OSError: there is no such file.
            ValueError: it is no .npz file, or it holds pickled objects.
            KeyError: an array is missing.
        """
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
