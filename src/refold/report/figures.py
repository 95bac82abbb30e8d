"""Pictures of one run, as PNG files in its folder figures/."""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window, also where there is a screen
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from refold.data import WindowDataModule
from refold.report.projection import first_two_axes
from refold.run import METRICS
from refold.training.module import AutoencoderModule

NUM_WINDOWS = 4
"""Test windows that are drawn; the same of every run on the same data."""

LARGEST_MAP = 2000
"""Windows in the latent map."""


def draw_figures(run_dir: Path, module: AutoencoderModule, data: WindowDataModule) -> dict[str, Path]:
    """Draw all figures of a trained run. Returns: name -> file."""
    figures = {
        "loss_curves": loss_curves(run_dir / METRICS),
        "reconstructions": reconstructions(module, data),
        "latent_map": latent_map(module, data),
    }
    (run_dir / "figures").mkdir(exist_ok=True)
    files = {}
    for name, figure in figures.items():
        files[name] = run_dir / "figures" / f"{name}.png"
        figure.savefig(files[name], dpi=120)
        plt.close(figure)
    return files


def loss_curves(metrics_csv: Path) -> Figure:
    """Training loss and validation error over optimizer steps, with the teacher-forcing ratio on a second axis."""
    with metrics_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def series(name: str) -> tuple[list[int], list[float]]:
        points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        return [step for step, _ in points], [value for _, value in points]

    figure, left = plt.subplots(figsize=(8, 4.5), layout="constrained")
    right = left.twinx()
    left.plot(*series("train/loss"), color="tab:blue", alpha=0.3, label="train/loss")
    left.plot(*series("train/epoch_loss"), color="tab:blue", label="train/epoch_loss")
    left.plot(*series("val/reconstruction_mse"), color="tab:orange", marker=".", label="val/reconstruction_mse, free")
    right.plot(*series("train/teacher_forcing_ratio"), color="tab:green", ls="--", label="teacher-forcing ratio")
    left.set(xlabel="optimizer step", ylabel="error", yscale="log")
    right.set(ylabel="teacher-forcing ratio", ylim=(-0.02, 1.02))
    lines = [*left.lines, *right.lines]
    left.legend(lines, [line.get_label() for line in lines], loc="upper right")
    return figure


@torch.no_grad()
def reconstructions(module: AutoencoderModule, data: WindowDataModule) -> Figure:
    """Test windows spread evenly over the test part, and what the decoder makes of their codes, per feature."""
    windows = data.test_windows
    index = torch.linspace(0, len(windows) - 1, min(NUM_WINDOWS, len(windows))).long()
    truth, mask = windows.gather(index), windows.mask(index)
    truth, made = truth.cpu(), _free_running(module, truth, mask)
    names, assets, moments = data.feature_names[:8], windows.assets(index), windows.timestamps(index)
    size = (4 * len(index), 1.6 * len(names) + 0.6)
    figure, axes = plt.subplots(len(names), len(index), figsize=size, squeeze=False, sharex=True, layout="constrained")
    for column in range(len(index)):
        axes[0, column].set_title(f"{assets[column]}, from {str(moments[column, 0])[:10]}", fontsize=10)
        for row, name in enumerate(names):
            axes[row, column].plot(truth[column, :, row], color="black", lw=1, label="truth")
            axes[row, column].plot(made[column, :, row], color="tab:red", lw=1, label="reconstruction")
            if column == 0:
                axes[row, 0].set_ylabel(name, fontsize=8)
        axes[-1, column].set_xlabel("bar")
    axes[0, 0].legend(fontsize=7)
    return figure


@torch.no_grad()
def latent_map(module: AutoencoderModule, data: WindowDataModule) -> Figure:
    """Codes of test windows on their first two principal axes, coloured by the date of their last bar."""
    windows = data.test_windows
    index = torch.linspace(0, len(windows) - 1, min(LARGEST_MAP, len(windows))).long().unique()
    batch, mask = windows.gather(index), windows.mask(index)
    module.eval()
    mask = mask if mask is None else mask.to(module.device)
    codes = module.autoencoder.encode(batch.to(module.device), mask)
    place, _ = first_two_axes(codes.double().cpu().numpy())
    last = windows.timestamps(index)[:, -1].astype("datetime64[D]")
    years = 1970 + last.astype(np.int64) / 365.25
    figure, axis = plt.subplots(figsize=(6.5, 5), layout="constrained")
    points = axis.scatter(place[:, 0], place[:, 1], c=years, s=6, cmap="viridis")
    figure.colorbar(points, label="date of the last bar, year")
    axis.set(xlabel="first principal axis of the codes", ylabel="second")
    return figure


def _free_running(module: AutoencoderModule, windows: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    module.eval()
    mask = mask if mask is None else mask.to(module.device)
    return module(windows.to(module.device), mask).float().cpu()
