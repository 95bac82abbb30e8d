"""Facts that are known of a run before its first step: code, data, sizes, devices."""

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from lightning import Trainer

    from refold.data import WindowDataModule, Windows
    from refold.training.module import AutoencoderModule


def run_facts(trainer: "Trainer", module: "AutoencoderModule", data: "WindowDataModule") -> dict[str, Any]:
    """Collect the facts of a run for its loggers and result.json.

    Args:
        trainer: a trainer whose strategy is set up.
        module: to be trained.
        data: set up.

    Returns:
        Plain values. `global_batch_size` counts windows per optimizer step over all processes.
    """
    device = trainer.strategy.root_device
    return {
        "git_commit": git_commit(),
        "data_fingerprint": data.fingerprint,
        "intervals": data.recipe.checks.intervals(),
        "windows_lost": data.windows_lost,
        "parts": {part: describe_part(getattr(data, f"{part}_windows")) for part in ("train", "val", "test")},
        "parameters": sum(weights.numel() for weights in module.parameters()),
        "code_size": module.autoencoder.code_size,
        "processes": trainer.world_size,
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "devices": trainer.num_devices,
        "num_nodes": trainer.num_nodes,
        "strategy": type(trainer.strategy).__name__,
        "precision": str(trainer.precision),
        "global_batch_size": data.global_batch_size(trainer.world_size) * trainer.accumulate_grad_batches,
    }


def describe_part(windows: "Windows") -> dict[str, Any]:
    """Count the windows of a part, and date its first and its last bar.

    Args:
        windows: windows of the part.

    Returns:
        windows, first and last.
    """
    counts = np.diff(windows.offsets)
    ends = windows.first_rows + (counts - 1) * windows.stride + windows.window_size - 1 + windows.horizon
    times = windows.series.times
    rows = np.array([windows.first_rows[times[windows.first_rows].argmin()], ends[times[ends].argmax()]])
    first, last = (str(moment).partition("T00:00:00")[0] for moment in windows.series.timestamps(rows))
    return {"windows": len(windows), "first": first, "last": last}


def git_commit() -> str | None:
    """Find the commit of Refold's own sources.

    Returns:
        The commit, with `-dirty` if the sources were changed since; None outside a checkout.
    """
    here = Path(__file__)
    tracked = "ls-files", "--error-unmatch", here.name  # fails where the sources lie in the .venv of another checkout
    commit = "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"  # no tags
    try:
        for command in (tracked, commit):
            arguments = ["git", "-C", str(here.parent), *command]
            done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
