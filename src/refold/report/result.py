"""The end of a run: the best weights measured beside the baselines, and everything written to result.json."""

import logging
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import lightning as L
from omegaconf import DictConfig

from refold.data import WindowDataModule
from refold.report.figures import draw_figures
from refold.run import write_result
from refold.scoring.baselines import PCA, TrainingMean, reconstruction_error
from refold.training.callbacks import Checkpoints, EpochReport, RunState
from refold.training.facts import run_facts
from refold.training.loggers import log_end
from refold.training.module import AutoencoderModule

log = logging.getLogger(__name__)

Kind = TypeVar("Kind", bound=L.Callback)


def summarise(
    cfg: DictConfig, run_dir: Path, trainer: L.Trainer, module: AutoencoderModule, data: WindowDataModule
) -> dict[str, Any] | None:
    """Measure best.ckpt on validation and test, running free; measure the baselines; draw; write result.json.

    Every process takes part in the measuring; the first one does the rest. Returns: the result there, else None.
    """
    state = find_callback(trainer, RunState)
    try:
        result = _summarise(cfg, run_dir, trainer, module, data)
    except BaseException as error:
        state.end(error)
        raise
    state.end(None)
    return result


def find_callback(trainer: L.Trainer, kind: type[Kind]) -> Kind:
    """The trainer's callback of a class."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))


def _summarise(
    cfg: DictConfig, run_dir: Path, trainer: L.Trainer, module: AutoencoderModule, data: WindowDataModule
) -> dict[str, Any] | None:
    checkpoints, epochs = find_callback(trainer, Checkpoints), find_callback(trainer, EpochReport)
    checkpoints.ensure_best(trainer, module, data)
    training = {"epochs": trainer.current_epoch, "optimizer_steps": trainer.global_step}
    where = {"datamodule": data, "ckpt_path": checkpoints.best, "verbose": False, "weights_only": True}
    loggers, trainer.loggers = trainer.loggers, []  # what follows is not a point of the curves
    metrics = {**trainer.validate(module, **where)[0], **trainer.test(module, **where)[0]}
    trainer.loggers = loggers
    if not trainer.is_global_zero:
        return None
    facts = run_facts(trainer, module, data)
    fitted = fit_baselines(facts["code_size"], cfg.seed, data)
    baselines = {name: measure_baseline(baseline, data) for name, baseline in fitted.items()}
    metrics |= against(metrics, baselines)
    result = {
        "run": cfg.run.id,
        "metrics": metrics,
        "baselines": baselines,
        **training,
        "windows_per_s": median(epochs.rates) if epochs.rates else None,
        **facts,
    }
    figures = draw_figures(run_dir, module, data, fitted)
    log.info("best.ckpt: %s", "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    last = {name: value for name, value in metrics.items() if name.startswith("test/") or "_against_" in name}
    last |= {f"best/{cfg.checkpoint.monitor}": metrics[cfg.checkpoint.monitor]}
    last |= {f"{name}/{quantity}": value for name, errors in baselines.items() for quantity, value in errors.items()}
    pictures = {f"figures/{name}": path for name, path in figures.items()}
    log_end(loggers, last, pictures, best=checkpoints.best, step=max(0, training["optimizer_steps"] - 1))
    write_result(run_dir, result)
    return result


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
