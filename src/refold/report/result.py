"""The end of a run: the best weights measured beside the baselines, and everything written to result.json."""

import logging
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import lightning as L
from omegaconf import DictConfig

from refold.data import WindowDataModule
from refold.errors import RefoldError
from refold.report.figures import ScoredPart, draw_figures
from refold.run import DETECTOR, write_result
from refold.scoring.baselines import PCA, TrainingMean, reconstruction_error
from refold.scoring.detector import Detector, alarm_rate
from refold.training.callbacks import AtomicCheckpointIO, Checkpoints, EpochReport
from refold.training.facts import run_facts
from refold.training.loggers import log_end
from refold.training.module import AutoencoderModule

log = logging.getLogger(__name__)

Kind = TypeVar("Kind", bound=L.Callback)


def summarise(
    cfg: DictConfig,
    run_dir: Path,
    trainer: L.Trainer,
    module: AutoencoderModule,
    data: WindowDataModule,
    detector: Detector,
) -> dict[str, Any] | None:
    """Measure best.ckpt on validation and test, running free; measure the baselines; fit the detector; draw; write
    result.json.

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
    baselines = {name: measure_baseline(baseline, data) for name, baseline in fitted.items()}
    metrics |= against(metrics, baselines)
    verdict, test_scores = fit_detector(detector, run_dir, data)
    result = {
        "run": cfg.run.id,
        "metrics": metrics,
        "baselines": baselines,
        "detector": verdict,
        **training,
        "windows_per_s": median(epochs.rates) if epochs.rates else None,
        **facts,
    }
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
    row |= {name: value for name, value in metrics.items() if name.startswith("test/") or "_against_" in name}
    row |= {f"{name}/{key}": value for name, errors in result["baselines"].items() for key, value in errors.items()}
    return row | {name: value for name, value in (result["detector"] or {}).items() if "/" in name}


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


def measure_baseline(baseline: PCA | TrainingMean, data: WindowDataModule) -> dict[str, float]:
    """Its errors on validation and test."""
    parts = {"val": data.val_windows, "test": data.test_windows}
    errors = {split: reconstruction_error(baseline, windows) for split, windows in parts.items()}
    return {f"{split}/{quantity}": value for split, error in errors.items() for quantity, value in error.items()}


def against(metrics: dict[str, float], baselines: dict[str, dict[str, float]]) -> dict[str, float]:
    """R2 of the model against each baseline, 1 - its squared error / the baseline's: 0 is as good, 1 is perfect."""
    return {
        f"{split}/r2_against_{name}": 1 - metrics[f"{split}/reconstruction_mse"] / errors[f"{split}/reconstruction_mse"]
        for name, errors in baselines.items()
        for split in ("val", "test")
        if errors[f"{split}/reconstruction_mse"] > 0
    }
