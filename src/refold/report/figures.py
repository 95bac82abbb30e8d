"""Pictures of one run, as PNG files in its folder figures/, and the numbers behind the reconstructions."""

import csv
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import matplotlib

matplotlib.use("Agg")  # no window, also where there is a screen
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure
from torch import Tensor

from refold.data import WindowDataModule, Windows
from refold.errors import RefoldError
from refold.report.projection import first_two_axes
from refold.runs.directory import METRICS
from refold.runs.fixed_windows import FIXED_WINDOWS, FixedWindows
from refold.scoring.baselines import PCA, TrainingMean
from refold.scoring.detector import Scores
from refold.training.loggers import log_pictures
from refold.training.module import AutoencoderModule, evaluating

log = logging.getLogger(__name__)

NUM_WINDOWS = 4
"""Windows of a part that are drawn."""

LARGEST_MAP = 2000
"""Windows in the latent map and in the error figures, spread evenly over their part."""

Reconstruct = Callable[[Tensor, Tensor | None], Tensor]
"""(windows (B, T, F), mask (B, T) or None) -> (B, T, F), all on the CPU."""


@dataclass(frozen=True)
class ScoredPart:
    """Scores of the bars of a part. levels, flagged: (N,) thresholds and verdicts."""

    scores: Scores
    levels: np.ndarray
    flagged: np.ndarray


def draw_figures(
    run_dir: Path,
    module: AutoencoderModule,
    data: WindowDataModule,
    baselines: dict[str, PCA | TrainingMean],
    test_scores: ScoredPart | None,
) -> dict[str, Path]:
    """Draw all figures of a trained run, and keep the numbers of its reconstructions. Returns: name -> file.

    Args: test_scores: None where the run has no threshold.
    """
    model = free_running(module)
    fixed = fixed_windows(data.test_windows, data.feature_names, model)
    (run_dir / "figures").mkdir(exist_ok=True)
    fixed.save(run_dir / FIXED_WINDOWS)
    others = {name: lambda windows, _, b=baseline: b.reconstruct(windows) for name, baseline in baselines.items()}
    figures = {
        "loss_curves": loss_curves(run_dir / METRICS),
        "reconstructions": reconstructions(fixed),
        "latent_map": latent_map(module, data),
        "error_histogram": error_histogram(model, data),
        "feature_errors": feature_errors({"LSTM autoencoder": model, **others}, data),
    }
    if test_scores is not None:
        figures["score_over_time"] = score_over_time(test_scores, data)
    return {name: save(figure, run_dir / "figures" / f"{name}.png") for name, figure in figures.items()}


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and forget it. Raises: RefoldError: it cannot be written; there is no such file then."""
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise RefoldError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        plt.close(figure)
    return path


class Progress(L.Callback):
    """Draws validation windows and their reconstructions after epochs 1, 2, 4, 8, ... and shows them where pictures can
    be shown. The windows are of the validation part: nothing looks at the test part before the training is over.

    Args: run_dir: the pictures go to its folder figures/.
    """

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: AutoencoderModule) -> None:
        epoch, data = trainer.current_epoch + 1, trainer.datamodule
        if not trainer.is_global_zero or epoch & (epoch - 1):  # not a power of two
            return
        fixed = fixed_windows(data.val_windows, data.feature_names, free_running(pl_module))
        (self.run_dir / "figures").mkdir(exist_ok=True)
        try:
            path = save(progress(fixed, epoch), self.run_dir / "figures" / f"val_reconstructions_{epoch:04}.png")
        except RefoldError as error:  # no reason to stop a training
            log.warning("%s; the run goes on without this picture", error)
            return
        log_pictures(trainer.loggers, {"val/reconstructions": path}, trainer.global_step - 1)


def fixed_windows(windows: Windows, features: list[str], reconstruct: Reconstruct) -> FixedWindows:
    """Windows spread evenly over a part, the same of every run on the same data, and what a model makes of them."""
    index = torch.linspace(0, len(windows) - 1, min(NUM_WINDOWS, len(windows))).long()
    truth, mask = on_cpu(windows, index)
    present = torch.ones(truth.shape[:2], dtype=torch.bool) if mask is None else mask
    return FixedWindows(
        truth=truth.numpy(),
        made=reconstruct(truth, mask).numpy(),
        present=present.numpy(),
        features=np.array(features),
        assets=np.array(windows.assets(index)),
        moments=windows.timestamps(index),
    )


def on_cpu(windows: Windows, index: Tensor) -> tuple[Tensor, Tensor | None]:
    """Some windows (B, T, F), and their mask (B, T) if there is one, on the CPU."""
    mask = windows.mask(index)
    return windows.gather(index).cpu(), mask if mask is None else mask.cpu()


def free_running(module: AutoencoderModule) -> Reconstruct:
    """The model as it is used: in evaluation mode, running free, from and to the CPU."""

    @torch.no_grad()
    def reconstruct(windows: Tensor, mask: Tensor | None) -> Tensor:
        mask = mask if mask is None else mask.to(module.device)
        with evaluating(module):
            return module(windows.to(module.device), mask).float().cpu()

    return reconstruct


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


def reconstructions(fixed: FixedWindows) -> Figure:
    """Each window in a column, each feature in a row: the truth, and what the decoder makes of its code."""
    names, count = fixed.features[:8], len(fixed.truth)
    size = (4 * count, 1.6 * len(names) + 0.6)
    figure, axes = plt.subplots(len(names), count, figsize=size, squeeze=False, sharex=True, layout="constrained")
    for column in range(count):
        axes[0, column].set_title(f"{fixed.assets[column]}, from {str(fixed.moments[column, 0])[:10]}", fontsize=10)
        for row, name in enumerate(names):
            axes[row, column].plot(fixed.truth[column, :, row], color="black", lw=1, label="truth")
            axes[row, column].plot(fixed.made[column, :, row], color="tab:red", lw=1, label="reconstruction")
            if column == 0:
                axes[row, 0].set_ylabel(name, fontsize=8)
        axes[-1, column].set_xlabel("bar")
    axes[0, 0].legend(fontsize=7)
    return figure


def progress(fixed: FixedWindows, epoch: int) -> Figure:
    """All windows one after another, features above one another. One axis: it is drawn during the training."""
    W, T, _ = fixed.truth.shape
    names = fixed.features[:5]
    apart = 8.0  # training standard deviations between two features
    figure, axis = plt.subplots(figsize=(10, 1.3 * len(names) + 1))
    bars = np.arange(W * (T + 1)).reshape(W, T + 1)  # one empty place between two windows
    for row in range(len(names)):
        for values, colour in ((fixed.truth, "black"), (fixed.made, "tab:red")):
            line = np.full(bars.shape, np.nan)
            line[:, :T] = values[:, :, row] - apart * row
            axis.plot(bars.ravel(), line.ravel(), color=colour, lw=0.8)
    axis.set_yticks(-apart * np.arange(len(names)), names, fontsize=7, rotation=30)
    axis.set_xticks(bars[:, T // 2], fixed.assets)
    axis.set_title(f"validation windows (black) and reconstructions (red) after epoch {epoch}", fontsize=9)
    return figure


def scored_assets(data: WindowDataModule) -> list[str]:
    """The names behind the numbers of assets in `Scores`."""
    if data.recipe.layout == "panel":  # one series of all assets: its columns say which
        return [column.rpartition("/")[0] for column in data.feature_names[:: len(data.recipe.features)]]
    return list(data.test_windows.series.asset_names)


def score_over_time(test: ScoredPart, data: WindowDataModule) -> Figure:
    """Scores of the test part, their threshold, and the bars above it, for at most six assets."""
    scores, series, names = test.scores, data.test_windows.series, scored_assets(data)
    known = ~np.isnan(scores.score)
    assets = np.unique(scores.asset[known])[:6]
    figure, axes = plt.subplots(
        len(assets), figsize=(9, 1.5 * len(assets) + 0.8), squeeze=False, sharex=True, layout="constrained"
    )
    for axis, asset in zip(axes[:, 0], assets, strict=True):
        rows = known & (scores.asset == asset)
        moments = pl.Series(scores.times[rows]).cast(series.time_dtype).to_numpy()
        values, above = scores.score[rows], test.flagged[rows]
        axis.plot(moments, values, lw=0.7, color="tab:blue")
        axis.plot(moments, test.levels[rows], lw=0.9, ls="--", color="black")
        axis.plot(moments[above], values[above], ".", color="tab:red")
        axis.set_ylabel(names[asset], fontsize=8)
        axis.set_yscale("symlog")
    axes[0, 0].set_title("anomaly score of test bars, threshold fitted on validation (dashed)", fontsize=10)
    return figure


def window_errors(reconstruct: Reconstruct, windows: Windows) -> np.ndarray:
    """Mean squared error of some windows, spread evenly over their part, per feature: (N, F), over present bars."""
    index = torch.linspace(0, len(windows) - 1, min(LARGEST_MAP, len(windows))).long().unique()
    truth, mask = on_cpu(windows, index)
    squares = (reconstruct(truth, mask) - truth).double().square()
    present = torch.ones(truth.shape[:2]) if mask is None else mask
    present = present.double().unsqueeze(-1)
    return ((squares * present).sum(1) / present.sum(1)).numpy()


def error_histogram(reconstruct: Reconstruct, data: WindowDataModule) -> Figure:
    """How the errors of windows are spread, in validation and in test."""
    errors = {part: window_errors(reconstruct, getattr(data, f"{part}_windows")).mean(1) for part in ("val", "test")}
    positive = np.concatenate(list(errors.values()))
    bins = np.geomspace(max(positive.min(), 1e-12), positive.max() * 1.0001, 50)
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for part, values in errors.items():
        axis.hist(values, bins, density=True, histtype="stepfilled", alpha=0.45, label=f"{part}, {len(values)} windows")
    axis.set(xscale="log", xlabel="mean squared error of a window", ylabel="density")
    axis.legend()
    return figure


def feature_errors(reconstruct: dict[str, Reconstruct], data: WindowDataModule) -> Figure:
    """Mean squared error on test windows per feature, of the model beside the baselines. Args: name -> what it does."""
    names = data.feature_names[:20]
    figure, axis = plt.subplots(figsize=(8, 0.35 * len(names) + 2), layout="constrained")
    height = 0.8 / len(reconstruct)
    for position, (label, function) in enumerate(reconstruct.items()):
        errors = window_errors(function, data.test_windows).mean(0)[: len(names)]
        axis.barh(np.arange(len(names)) + position * height, errors, height, label=label)
    axis.set_yticks(np.arange(len(names)) + 0.4 - height / 2, names)
    axis.invert_yaxis()
    axis.set(xlabel="test mean squared error, in squared training standard deviations")
    axis.legend(fontsize=8)
    return figure


@torch.no_grad()
def latent_map(module: AutoencoderModule, data: WindowDataModule) -> Figure:
    """Codes of test windows on their first two principal axes, coloured by the date of their last bar."""
    windows = data.test_windows
    index = torch.linspace(0, len(windows) - 1, min(LARGEST_MAP, len(windows))).long().unique()
    batch, mask = on_cpu(windows, index)
    mask = mask if mask is None else mask.to(module.device)
    with evaluating(module):
        codes = module.autoencoder.encode(batch.to(module.device), mask)
    place, _ = first_two_axes(codes.double().cpu().numpy())
    last = windows.timestamps(index)[:, -1].astype("datetime64[D]")
    years = 1970 + last.astype(np.int64) / 365.25
    figure, axis = plt.subplots(figsize=(6.5, 5), layout="constrained")
    points = axis.scatter(place[:, 0], place[:, 1], c=years, s=6, cmap="viridis")
    figure.colorbar(points, label="date of the last bar, year")
    axis.set(xlabel="first principal axis of the codes", ylabel="second")
    return figure
