"""A few windows of a part, spread evenly over it: what a model makes of them, their errors and their codes.

Letters: B windows, T bars, F features, Z numbers of a code. Everything is given and returned on the CPU.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from refold.data import Windows
from refold.runs.fixed_windows import FixedWindows
from refold.training.module import AutoencoderModule, evaluating

MOST_FIXED_WINDOWS = 4
"""Windows of a part whose reconstructions are kept and drawn."""

MOST_MEASURED_WINDOWS = 2000
"""Windows of a part whose errors and codes are drawn."""

Reconstruct = Callable[[Tensor, Tensor | None], Tensor]
"""(windows (B, T, F), mask (B, T) or None) -> (B, T, F), all on the CPU."""


def free_running(module: AutoencoderModule) -> Reconstruct:
    """Return the reconstruction of a module in evaluation mode, where its decoder runs free."""

    @torch.no_grad()
    def reconstruct(windows: Tensor, mask: Tensor | None) -> Tensor:
        mask = mask if mask is None else mask.to(module.device)
        with evaluating(module):
            return module(windows.to(module.device), mask).float().cpu()

    return reconstruct


def spread_evenly(windows: Windows, most: int) -> Tensor:
    """Return the numbers of at most so many windows, at even distances from the first to the last.

    Args:
        windows: windows of a part.
        most: number of windows, at least 1.

    Returns:
        (B,) int64, ascending.
    """
    return torch.linspace(0, len(windows) - 1, min(most, len(windows))).long().unique()


def load_windows(windows: Windows, index: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return some windows, and their mask if there is one.

    Args:
        windows: windows of a part.
        index: (B,) int64, numbers of windows.

    Returns:
        Windows (B, T, F), scaled, and mask (B, T) bool, True at present bars, or None where all are present.
    """
    mask = windows.mask(index)
    return windows.gather(index).cpu(), mask if mask is None else mask.cpu()


def reconstruct_fixed_windows(windows: Windows, features: list[str], reconstruct: Reconstruct) -> FixedWindows:
    """Reconstruct the windows of a part that every run on the same data keeps, so that runs can be compared.

    Args:
        windows: windows of the part.
        features: names of the F columns.
        reconstruct: the model.
    """
    index = spread_evenly(windows, MOST_FIXED_WINDOWS)
    truth, mask = load_windows(windows, index)
    present = torch.ones(truth.shape[:2], dtype=torch.bool) if mask is None else mask
    return FixedWindows(
        truth=truth.numpy(),
        made=reconstruct(truth, mask).numpy(),
        present=present.numpy(),
        features=np.array(features),
        assets=np.array(windows.assets(index)),
        moments=windows.timestamps(index),
    )


def window_errors(reconstruct: Reconstruct, windows: Windows) -> np.ndarray:
    """Measure the mean squared error of each feature over the present bars of some windows.

    Args:
        reconstruct: the model.
        windows: windows of a part.

    Returns:
        (B, F) float64, in squared training standard deviations.
    """
    truth, mask = load_windows(windows, spread_evenly(windows, MOST_MEASURED_WINDOWS))
    squares = (reconstruct(truth, mask) - truth).double().square()
    present = torch.ones(truth.shape[:2]) if mask is None else mask
    present = present.double().unsqueeze(-1)  # (B, T) -> (B, T, 1)
    return ((squares * present).sum(1) / present.sum(1)).numpy()


@torch.no_grad()
def window_codes(module: AutoencoderModule, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Encode some windows of a part.

    Args:
        module: the trained module.
        windows: windows of a part.

    Returns:
        Codes (B, Z) float64, and the date of each window's last bar, (B,) datetime64[D].
    """
    index = spread_evenly(windows, MOST_MEASURED_WINDOWS)
    batch, mask = load_windows(windows, index)
    mask = mask if mask is None else mask.to(module.device)
    with evaluating(module):
        codes = module.autoencoder.encode(batch.to(module.device), mask)
    return codes.double().cpu().numpy(), windows.timestamps(index)[:, -1].astype("datetime64[D]")
