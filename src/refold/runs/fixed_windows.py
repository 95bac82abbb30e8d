"""A few test windows of a run and their reconstructions, kept for a comparison of runs. NumPy alone."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FIXED_WINDOWS = "figures/reconstructions.npz"
"""In a run directory."""

LARGEST_BYTES = 200_000_000
"""Of the unpacked arrays that are read: 4 windows of a usual run take 20 KB."""


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
            ValueError: the file is no .npz file, holds pickled objects, or is too large, or its arrays do not fit.
            KeyError: an array is missing.
        """
        if not zipfile.is_zipfile(path):
            path.open("rb").close()  # says so if there is none
            raise ValueError(f"{path} is no .npz file")
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > LARGEST_BYTES:
                    raise ValueError(f"{path} is larger than {LARGEST_BYTES:,} bytes when unpacked")
            with np.load(path, allow_pickle=False) as arrays:
                found = cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path} is broken: {error}") from None
        found._check()
        return found

    def _check(self) -> None:
        """Refuse arrays whose shapes do not fit one another. Raises ValueError."""
        W, T, F = self.truth.shape  # ValueError unless it has three dimensions
        wanted = [(W, T, F), (W, T), (F,), (W,), (W, T)]
        if [array.shape for array in (self.made, self.present, self.features, self.assets, self.moments)] != wanted:
            raise ValueError("the arrays of the windows have shapes that do not fit")
        if not all(array.dtype.kind in "fiu" for array in (self.truth, self.made)) or self.present.dtype != bool:
            raise ValueError("the arrays of the windows hold no numbers")
        if not all(array.dtype.kind == "U" for array in (self.features, self.assets)):
            raise ValueError("the names of the windows are no texts")
