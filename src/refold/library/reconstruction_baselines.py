"""A trained model beside the baselines that it has to beat, on the windows of validation and test."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from refold.data import WindowDataModule
from refold.scoring.baselines import PCA, TrainingMean, reconstruction_error
from refold.scoring.neighbours import neighbour_preservation

NEIGHBOURS = "test/neighbours"
"""Share of the nearest neighbours of test windows that their codes keep; see `refold.scoring.neighbours`."""

LARGEST_SAMPLE = 2000
"""Test windows, spread evenly, among which neighbours are searched."""

NO_ERROR = 1e-10
"""Mean squared error, in training variances, up to which an error is float32 rounding."""


class Baselines(NamedTuple):
    """The baselines of reconstruction, fitted on the training windows."""

    pca: PCA
    mean: TrainingMean


def fit_baselines(code_size: int, seed: int, data: WindowDataModule) -> Baselines:
    """Fit PCA and the training mean on the training windows.

    Args:
        code_size: Z of the model; PCA gets as many components.
        seed: seed of PCA's randomised decomposition.
        data: set up.

    Returns:
        Both baselines.
    """
    return Baselines(PCA(code_size, seed).fit(data.train_windows), TrainingMean().fit(data.train_windows))


def measure_baselines(fitted: Baselines, data: WindowDataModule) -> dict[str, dict[str, float]]:
    """Measure the baselines on validation and test by the metrics of the model, and the neighbours that PCA keeps.

    Args:
        fitted: the baselines.
        data: set up.

    Returns:
        Baseline -> `split/quantity` -> value; NaN where there is none.
    """
    measured: dict[str, dict[str, float]] = {}
    for name, baseline in fitted._asdict().items():
        measured[name] = {}
        for split, windows in (("val", data.val_windows), ("test", data.test_windows)):
            error = reconstruction_error(baseline, windows)
            measured[name] |= {f"{split}/{quantity}": value for quantity, value in error.items()}
    encode = fitted.pca.encode
    measured["pca"][NEIGHBOURS] = measure_neighbours(lambda windows, mask: encode(windows), data, torch.device("cpu"))
    return measured


def r2_against_baselines(
    metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
) -> dict[str, float | None]:
    """Compute R2 of the model against each baseline: 1 - its squared error / the baseline's.

    Args:
        metrics: `split/reconstruction_mse` of the model.
        baselines: baseline -> `split/reconstruction_mse`.

    Returns:
        `split/r2_against_NAME`: 0 is as good, 1 is perfect; None where the baseline has no error to be reduced.
    """
    found: dict[str, float | None] = {}
    for name, errors in baselines.items():
        for split in ("val", "test"):
            left, error = errors[f"{split}/reconstruction_mse"], metrics[f"{split}/reconstruction_mse"]
            found[f"{split}/r2_against_{name}"] = 1 - error / left if left > NO_ERROR else None
    return found


@torch.no_grad()
def measure_neighbours(
    encode: Callable[[Tensor, Tensor | None], Tensor], data: WindowDataModule, device: torch.device
) -> float:
    """Measure how many neighbours of test windows an encoder keeps.

    Args:
        encode: windows (B, T, F) and mask (B, T) or None -> codes (B, Z).
        data: set up.
        device: device of the encoder.

    Returns:
        Share in [0, 1]; NaN for fewer than 3 windows, and where all windows are alike.
    """
    windows = data.test_windows
    index = torch.linspace(0, len(windows) - 1, min(LARGEST_SAMPLE, len(windows)), dtype=torch.float64).long().unique()
    sample, mask = windows.gather(index).to(device), windows.mask(index)
    codes = encode(sample, mask if mask is None else mask.to(device))
    if len(sample) and (sample - sample[:1]).square().mean() <= NO_ERROR:  # their nearest neighbours are arbitrary
        return float("nan")
    return neighbour_preservation(sample.flatten(1).cpu().numpy(), codes.double().cpu().numpy())  # (N, T F), (N, Z)
