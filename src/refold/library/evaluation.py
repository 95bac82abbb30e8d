"""The end of a run: the best weights measured beside the baselines, and everything written to result.json."""

import logging
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import lightning as L
import numpy as np
import polars as pl
import torch
from omegaconf import DictConfig

from refold.data import WindowDataModule
from refold.errors import RefoldError
from refold.report.figures import ScoredPart, draw_figures, scored_assets
from refold.runs.directory import DETECTOR, write_result
from refold.scoring.baselines import PCA, TrainingMean, reconstruction_error
from refold.scoring.detector import Detector, alarm_rate
from refold.scoring.labelled import against_labels
from refold.scoring.neighbours import neighbour_preservation
from refold.scoring.protocols import Evaluation
from refold.training.callbacks import AtomicCheckpointIO, Checkpoints, EpochReport
from refold.training.facts import run_facts
from refold.training.loggers import log_end
from refold.training.module import AutoencoderModule

log = logging.getLogger(__name__)

NEIGHBOURS = "test/neighbours"
"""Share of the nearest neighbours of test windows that their codes keep; see `refold.scoring.neighbours`."""

LARGEST_SAMPLE = 2000
"""Test windows, spread evenly, among which neighbours are looked for."""

Kind = TypeVar("Kind", bound=L.Callback)


def summarise(
    cfg: DictConfig,
    run_dir: Path,
    trainer: L.Trainer,
    module: AutoencoderModule,
    data: WindowDataModule,
    detector: Detector,
    evaluation: Evaluation | None,
) -> dict[str, Any] | None:
    """Measure best.ckpt on validation and test, running free; measure the baselines; fit the detector; measure
    what the experiment asks for; draw; write result.json.

    Every process takes part in the measuring; the first one does the rest. Returns: the result there, else None.
    """
    checkpoints, epochs = find_callback(trainer, Checkpoints), find_callback(trainer, EpochReport)
    checkpoints.ensure_best(trainer, module, data)
    training = {"epochs": trainer.current_epoch, "optimizer_steps": trainer.global_step}
    where = {"datamodule": data, "ckpt_path": checkpoints.best, "verbose": False, "weights_only": True}
    loggers, trainer.loggers = trainer.loggers, []  # what follows is no point of the curves
    metrics = {**trainer.validate(module, **where)[0], **trainer.test(module, **where)[0]}
    trainer.loggers = loggers
    if not trainer.is_global_zero:
        return None
    facts = run_facts(trainer, module, data)
    fitted = fit_baselines(facts["code_size"], cfg.seed, data)
    baselines = measure_baselines(fitted, data)
    metrics |= against(metrics, baselines)
    verdict, test_scores = fit_detector(detector, run_dir, data)
    metrics[NEIGHBOURS] = neighbours_kept(module.eval().autoencoder.encode, data, module.device)
    result = {
        "run": cfg.run.id,
        "metrics": metrics,
        "baselines": baselines,
        "detector": verdict,
        **training,
        "windows_per_s": median(epochs.rates) if epochs.rates else None,
        **facts,
    }
    if evaluation:
        result["price_errors"] = evaluation.run(detector, data, seed=cfg.seed)
        metrics |= evaluation.metrics(result["price_errors"])
    elif test_scores and hasattr(data.source, "labels"):
        found = against_labels(scored_bars(test_scores, data), data.source.labels(), verdict["level"])
        metrics |= {f"errors/{name}": value for name, value in found.items()}
    figures = draw_figures(run_dir, module, data, fitted, test_scores)
    log.info("best.ckpt: %s", "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    last = last_row(result, cfg.checkpoint.monitor)
    pictures = {f"figures/{name}": path for name, path in figures.items()}
    log_end(loggers, last, pictures, best=checkpoints.best, step=max(0, trainer.global_step - 1))
    write_result(run_dir, result)
    return result


def last_row(result: dict[str, Any], monitor: str) -> dict[str, float]:
    """What loggers get at the end: the best monitored value, test errors, the baselines', and the alarm rates."""
    metrics = result["metrics"]
    row = {f"best/{monitor}": metrics[monitor]}
    row |= {
        name: value for name, value in metrics.items() if name.startswith(("test/", "errors/")) or "_against_" in name
    }
    row |= {f"{name}/{key}": value for name, errors in result["baselines"].items() for key, value in errors.items()}
    return row | {name: value for name, value in (result["detector"] or {}).items() if "/" in name}


def scored_bars(test: ScoredPart, data: WindowDataModule) -> pl.DataFrame:
    """The scores of the test part as a table: timestamp, asset, score."""
    times = pl.Series("timestamp", test.scores.times).cast(data.train_windows.series.time_dtype)
    names = np.array(scored_assets(data))
    return pl.DataFrame([times, pl.Series("asset", names[test.scores.asset]), pl.Series("score", test.scores.score)])


def find_callback(trainer: L.Trainer, kind: type[Kind]) -> Kind:
    """The trainer's callback of a class."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))


def fit_detector(
    detector: Detector, run_dir: Path, data: WindowDataModule
) -> tuple[dict[str, Any] | None, ScoredPart | None]:
    """Fit score and threshold to the run's parts and keep them beside the checkpoints.

    Returns: level and alarm rates; the one on test is what a user may expect, and nothing is fitted to it; and the
    scores of the test part. None twice if validation does not suffice for the threshold: no reason to lose a run.
    """
    series = data.train_windows.series
    try:
        detector.fit_series((series, data.segments("train")), (series, data.segments("val")))
    except RefoldError as error:
        log.warning("the run has no threshold, choose another one when scoring: %s", error)
        return None, None
    AtomicCheckpointIO().save_checkpoint(detector.state_dict(), run_dir / DETECTOR)
    test = detector.score_series(series, data.segments("test"))
    levels, flagged = detector.flag(test.score, test.asset)
    verdict = {
        "score": type(detector.score_function).__name__,
        "threshold": type(detector.threshold).__name__,
        "alignment": detector.alignment,
        "level": detector.validation["level"],
        "val/alarms_per_asset_year": detector.validation["alarms_per_asset_year"],
        "test/alarms_per_asset_year": alarm_rate(flagged, test, series.time_dtype),
    }
    return verdict, ScoredPart(test, levels, flagged)


def fit_baselines(code_size: int, seed: int, data: WindowDataModule) -> dict[str, PCA | TrainingMean]:
    """PCA with as many components as the code has numbers, and the training mean, fitted on the training windows."""
    return {"pca": PCA(code_size, seed).fit(data.train_windows), "mean": TrainingMean().fit(data.train_windows)}


def measure_baselines(fitted: dict[str, PCA | TrainingMean], data: WindowDataModule) -> dict[str, dict[str, float]]:
    """Their errors on validation and test, and the neighbours that PCA keeps."""
    measured: dict[str, dict[str, float]] = {}
    for name, baseline in fitted.items():
        measured[name] = {}
        for split, windows in (("val", data.val_windows), ("test", data.test_windows)):
            error = reconstruction_error(baseline, windows)
            measured[name] |= {f"{split}/{quantity}": value for quantity, value in error.items()}
    pca = fitted["pca"]
    measured["pca"][NEIGHBOURS] = neighbours_kept(lambda windows, mask: pca.encode(windows), data, torch.device("cpu"))
    return measured


def against(metrics: dict[str, float], baselines: dict[str, dict[str, float]]) -> dict[str, float]:
    """R2 of the model against each baseline, 1 - its squared error / the baseline's: 0 is as good, 1 is perfect."""
    return {
        f"{split}/r2_against_{name}": 1 - metrics[f"{split}/reconstruction_mse"] / errors[f"{split}/reconstruction_mse"]
        for name, errors in baselines.items()
        for split in ("val", "test")
        if errors[f"{split}/reconstruction_mse"] > 0
    }


@torch.no_grad()
def neighbours_kept(encode: Callable, data: WindowDataModule, device: torch.device) -> float:
    """Neighbour preservation of an encoder, (windows, mask) -> codes, on test windows. device: the encoder's."""
    windows = data.test_windows
    index = torch.linspace(0, len(windows) - 1, min(LARGEST_SAMPLE, len(windows)), dtype=torch.float64).long().unique()
    sample, mask = windows.gather(index).to(device), windows.mask(index)
    codes = encode(sample, mask if mask is None else mask.to(device))
    return neighbour_preservation(sample.flatten(1).cpu().numpy(), codes.double().cpu().numpy())
