"""Pictures of one run, as PNG files in its folder figures/."""

import csv
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import numpy as np
import polars as pl

from refold.data import WindowDataModule
from refold.errors import RefoldError
from refold.report.projection import first_two_axes
from refold.runs.directory import METRICS
from refold.runs.fixed_windows import FIXED_WINDOWS, FixedWindows
from refold.scoring.baselines import PCA, TrainingMean
from refold.scoring.scored import Scores
from refold.training.loggers import log_pictures
from refold.training.module import AutoencoderModule
from refold.training.samples import free_running, reconstruct_fixed_windows, window_codes, window_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

MOST_ASSETS = 6
"""Assets in the picture of scores over time."""


@dataclass(frozen=True)
class ScoredPart:
    """Scores of the bars of a part, and their verdicts.

    Attributes:
        scores: scores of N bars.
        levels: (N,) threshold of each bar.
        flagged: (N,) bool, True where the score is above the threshold.
    """

    scores: Scores
    levels: np.ndarray
    flagged: np.ndarray


def draw_figures(
    run_dir: Path,
    module: AutoencoderModule,
    data: WindowDataModule,
    baselines: Mapping[str, PCA | TrainingMean],
    test_scores: ScoredPart | None,
) -> dict[str, Path]:
    """Draw all figures of a trained run, and keep the numbers of its reconstructions.

    Args:
        run_dir: the pictures go to its folder figures/.
        module: the trained module.
        data: its windows.
        baselines: name -> fitted baseline, drawn beside the model.
        test_scores: scores of the test part; None where the run has no threshold.

    Returns:
        Name -> PNG file.

    Raises:
        RefoldError: a picture cannot be written.
    """
    model = free_running(module)
    fixed = reconstruct_fixed_windows(data.test_windows, data.feature_names, model)
    (run_dir / "figures").mkdir(exist_ok=True)
    fixed.save(run_dir / FIXED_WINDOWS)
    others = {name: lambda windows, _, b=baseline: b.reconstruct(windows) for name, baseline in baselines.items()}
    part_errors = {"val": window_errors(model, data.val_windows), "test": window_errors(model, data.test_windows)}
    model_errors = {name: window_errors(function, data.test_windows) for name, function in others.items()}
    figures = {
        "loss_curves": draw_loss_curves(run_dir / METRICS),
        "reconstructions": draw_reconstructions(fixed),
        "latent_map": draw_latent_map(*window_codes(module, data.test_windows)),
        "error_histogram": draw_error_histogram({name: errors.mean(1) for name, errors in part_errors.items()}),
        "feature_errors": draw_feature_errors(
            {"LSTM autoencoder": part_errors["test"], **model_errors}, data.feature_names
        ),
    }
    if test_scores is not None:
        figures["score_over_time"] = draw_score_over_time(test_scores, data)
    return {name: save(figure, run_dir / "figures" / f"{name}.png") for name, figure in figures.items()}


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG and return its path.

    Args:
        figure: to write.
        path: path of the file; after an error there is no such file.

    Raises:
        RefoldError: it cannot be written.
    """
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise RefoldError(f"{path} cannot be written: {error.strerror}") from error
    return path


class ReconstructionPictures(L.Callback):
    """Draw validation windows and their reconstructions after epochs 1, 2, 4, 8, ...

    Loggers that show pictures get them. The windows are of the validation part: nothing looks at the test part before
    the training is over.

    Args:
        run_dir: the pictures go to its folder figures/.
    """

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if not trainer.is_global_zero or epoch & (epoch - 1):  # not a power of two
            return
        data = cast("Any", trainer).datamodule
        model = free_running(cast("AutoencoderModule", pl_module))
        fixed = reconstruct_fixed_windows(data.val_windows, data.feature_names, model)
        (self.run_dir / "figures").mkdir(exist_ok=True)
        try:
            path = save(draw_progress(fixed, epoch), self.run_dir / "figures" / f"val_reconstructions_{epoch:04}.png")
        except RefoldError as error:  # no reason to stop a training
            log.warning("%s; the run goes on without this picture", error)
            return
        log_pictures(trainer.loggers, {"val/reconstructions": path}, trainer.global_step - 1)


def _new_figure(width: float, height: float, *, constrained: bool = True) -> "Figure":
    """Make an empty figure, sizes in inches. Without pyplot there is no window and nothing to close."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained" if constrained else None)


def draw_loss_curves(metrics_csv: Path) -> "Figure":
    """Draw training loss and validation error over optimizer steps, and the teacher-forcing ratio on a second axis.

    Args:
        metrics_csv: metrics.csv of a run.
    """
    with metrics_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def series(name: str) -> tuple[list[int], list[float]]:
        points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        return [step for step, _ in points], [value for _, value in points]

    figure = _new_figure(8, 4.5)
    left = figure.subplots()
    left.plot(*series("train/loss"), color="tab:blue", alpha=0.3, label="train/loss")
    left.plot(*series("train/epoch_loss"), color="tab:blue", label="train/epoch_loss")
    left.plot(*series("val/reconstruction_mse"), color="tab:orange", marker=".", label="val/reconstruction_mse, free")
    left.set(xlabel="optimizer step", ylabel="error", yscale="log")
    lines, ratio = [*left.lines], series("train/teacher_forcing_ratio")
    if ratio[0]:  # a decoder that is fed no bars logs none
        right = left.twinx()
        lines += right.plot(*ratio, color="tab:green", ls="--", label="teacher-forcing ratio")
        right.set(ylabel="teacher-forcing ratio", ylim=(-0.02, 1.02))
    left.legend(lines, [str(line.get_label()) for line in lines], loc="upper right")
    return figure


def draw_reconstructions(fixed: FixedWindows) -> "Figure":
    """Draw each window in a column and each feature in a row: the truth, and its reconstruction."""
    names, count = fixed.features[:8], len(fixed.truth)
    figure = _new_figure(4 * count, 1.6 * len(names) + 0.6)
    axes = figure.subplots(len(names), count, squeeze=False, sharex=True)
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


def draw_progress(fixed: FixedWindows, epoch: int) -> "Figure":
    """Draw all windows one after another and their features above one another.

    Everything stands on one axis, because the picture is drawn during the training and must be quick.

    Args:
        fixed: windows and reconstructions.
        epoch: number of epochs that are done.
    """
    W, T, _ = fixed.truth.shape
    names = fixed.features[:5]
    apart = 8.0  # training standard deviations between two features
    figure = _new_figure(10, 1.3 * len(names) + 1, constrained=False)
    axis = figure.subplots()
    bars = np.arange(W * (T + 1)).reshape(W, T + 1)  # one empty place between two windows
    for row in range(len(names)):
        for values, colour in ((fixed.truth, "black"), (fixed.made, "tab:red")):
            line = np.full(bars.shape, np.nan)
            line[:, :T] = values[:, :, row] - apart * row
            axis.plot(bars.ravel(), line.ravel(), color=colour, lw=0.8)
    axis.set_yticks(-apart * np.arange(len(names)), names.tolist(), fontsize=7, rotation=30)
    axis.set_xticks(bars[:, T // 2], fixed.assets.tolist())
    axis.set_title(f"validation windows (black) and reconstructions (red) after epoch {epoch}", fontsize=9)
    return figure


def scored_assets(data: WindowDataModule) -> list[str]:
    """Return the names behind the numbers of assets in `Scores`."""
    if data.recipe.layout == "panel":  # one series of all assets: its columns say which
        first = f"/{data.recipe.features[0]}"
        return [column.removesuffix(first) for column in data.feature_names[:: len(data.recipe.features)]]
    return list(data.test_windows.series.asset_names)


def draw_score_over_time(test: ScoredPart, data: WindowDataModule) -> "Figure":
    """Draw the scores of the test part, their threshold and the bars above it, for at most MOST_ASSETS assets."""
    scores, series, names = test.scores, data.test_windows.series, scored_assets(data)
    known = ~np.isnan(scores.score)
    assets = np.unique(scores.asset[known])[:MOST_ASSETS]
    figure = _new_figure(9, 1.5 * len(assets) + 0.8)
    axes = figure.subplots(len(assets), squeeze=False, sharex=True)
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


def draw_error_histogram(errors: Mapping[str, np.ndarray]) -> "Figure":
    """Draw how the errors of windows are spread.

    Args:
        errors: part -> (N,) mean squared error of each window.
    """
    positive = np.concatenate(list(errors.values()))
    bins = np.geomspace(max(positive.min(), 1e-12), positive.max() * 1.0001, 50)
    figure = _new_figure(7, 4)
    axis = figure.subplots()
    for part, values in errors.items():
        label = f"{part}, {len(values)} windows"
        axis.hist(values, bins.tolist(), density=True, histtype="stepfilled", alpha=0.45, label=label)
    axis.set(xscale="log", xlabel="mean squared error of a window", ylabel="density")
    axis.legend()
    return figure


def draw_feature_errors(errors: Mapping[str, np.ndarray], features: list[str]) -> "Figure":
    """Draw the mean squared error of each feature, of the model beside the baselines.

    Args:
        errors: model or baseline -> (N, F) error of each window and feature.
        features: names of the F features; the first twenty are drawn.
    """
    names = features[:20]
    figure = _new_figure(8, 0.35 * len(names) + 2)
    axis = figure.subplots()
    height = 0.8 / len(errors)
    for position, (label, values) in enumerate(errors.items()):
        axis.barh(np.arange(len(names)) + position * height, values.mean(0)[: len(names)], height, label=label)
    axis.set_yticks(np.arange(len(names)) + 0.4 - height / 2, names)
    axis.invert_yaxis()
    axis.set(xlabel="test mean squared error, in squared training standard deviations")
    axis.legend(fontsize=8)
    return figure


def draw_latent_map(codes: np.ndarray, dates: np.ndarray) -> "Figure":
    """Draw codes on their first two principal axes, coloured by date.

    Args:
        codes: (N, Z).
        dates: (N,) datetime64[D], of each window's last bar.
    """
    places, _ = first_two_axes(codes)
    years = 1970 + dates.astype(np.int64) / 365.25
    figure = _new_figure(6.5, 5)
    axis = figure.subplots()
    points = axis.scatter(places[:, 0], places[:, 1], c=years, s=6, cmap="viridis")
    figure.colorbar(points, label="date of the last bar, year")
    axis.set(xlabel="first principal axis of the codes", ylabel="second")
    return figure
