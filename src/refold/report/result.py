"""The end of a run: the best weights measured beside the baselines, and everything written to result.json."""

import logging
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import lightning as L
import torch
from omegaconf import DictConfig

from refold.data import WindowDataModule
from refold.errors import RefoldError
from refold.report.figures import draw_figures
from refold.run import DETECTOR, write_result
from refold.scoring.baselines import PCA, TrainingMean, reconstruction_error
from refold.scoring.detector import Detector, alarm_rate
from refold.scoring.neighbours import neighbour_preservation
from refold.scoring.price_errors import PriceErrors
from refold.training.callbacks import AtomicCheckpointIO, Checkpoints, EpochReport
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
    evaluation: PriceErrors | None,
) -> dict[str, Any] | None:
    """Measure best.ckpt on validation and test, running free; measure the baselines; fit the detector; measure
    what the experiment asks for; draw; write result.json.

    Every process takes part in the measuring; the first one does the rest. Returns: the result there, else None.
    """
    checkpoints, epochs = find_callback(trainer, Checkpoints), find_callback(trainer, EpochReport)
    checkpoints.ensure_best(trainer, module, data)
    training = {"epochs": trainer.current_epoch, "optimizer_steps": trainer.global_step}
    where = {"datamodule": data, "ckpt_path": checkpoints.best, "verbose": False, "weights_only": True}
    metrics = {**trainer.validate(module, **where)[0], **trainer.test(module, **where)[0]}
    if not trainer.is_global_zero:
        return None
    metrics[NEIGHBOURS] = neighbours_kept(module.eval().autoencoder.encode, data, module.device)
    result = {
        "run": cfg.run.id,
        "metrics": metrics,
        "baselines": measure_baselines(module.autoencoder.code_size, cfg.seed, data),
        "detector": fit_detector(detector, run_dir, data),
        **training,
        "code_size": module.autoencoder.code_size,
        "parameters": sum(weights.numel() for weights in module.parameters()),
        "windows_per_s": median(epochs.rates) if epochs.rates else None,
        "processes": trainer.world_size,
        "accelerator": cfg.trainer.accelerator,
        "devices": cfg.trainer.devices,
        "num_nodes": cfg.trainer.num_nodes,
        "strategy": cfg.trainer.strategy,
        "precision": str(trainer.precision),
        "global_batch_size": data.batch_size * cfg.trainer.accumulate_grad_batches,
        "data_fingerprint": data.fingerprint,
    }
    if evaluation:
        result["price_errors"] = evaluation.run(detector, data, seed=cfg.seed)
    draw_figures(run_dir, module, data)
    log.info("best.ckpt: %s", "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    write_result(run_dir, result)
    return result


def find_callback(trainer: L.Trainer, kind: type[Kind]) -> Kind:
    """The trainer's callback of a class."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, kind))


def fit_detector(detector: Detector, run_dir: Path, data: WindowDataModule) -> dict[str, Any] | None:
    """Fit score and threshold to the run's parts and keep them beside the checkpoints.

    Returns: level and alarm rates; the one on test is what a user may expect, and nothing is fitted to it. None if
    validation does not suffice for the threshold: no reason to lose a trained run.
    """
    series = data.train_windows.series
    try:
        detector.fit_series((series, data.segments("train")), (series, data.segments("val")))
    except RefoldError as error:
        log.warning("the run has no threshold, choose another one when scoring: %s", error)
        return None
    AtomicCheckpointIO().save_checkpoint(detector.state_dict(), run_dir / DETECTOR)
    test = detector.score_series(series, data.segments("test"))
    flagged = detector.flag(test.score, test.asset)[1]
    return {
        "score": type(detector.score_function).__name__,
        "threshold": type(detector.threshold).__name__,
        "alignment": detector.alignment,
        "level": detector.validation["level"],
        "val/alarms_per_asset_year": detector.validation["alarms_per_asset_year"],
        "test/alarms_per_asset_year": alarm_rate(flagged, test, series.time_dtype),
    }


def measure_baselines(code_size: int, seed: int, data: WindowDataModule) -> dict[str, dict[str, float]]:
    """Validation and test errors of PCA with as many components as the code has numbers, and of the training mean."""
    pca, mean = PCA(code_size, seed).fit(data.train_windows), TrainingMean().fit(data.train_windows)
    measured: dict[str, dict[str, float]] = {}
    for name, baseline in {"pca": pca, "mean": mean}.items():
        measured[name] = {}
        for split, windows in (("val", data.val_windows), ("test", data.test_windows)):
            error = reconstruction_error(baseline, windows)
            measured[name] |= {f"{split}/{quantity}": value for quantity, value in error.items()}
    measured["pca"][NEIGHBOURS] = neighbours_kept(lambda windows, mask: pca.encode(windows), data, torch.device("cpu"))
    return measured


@torch.no_grad()
def neighbours_kept(encode: Callable, data: WindowDataModule, device: torch.device) -> float:
    """Neighbour preservation of an encoder, (windows, mask) -> codes, on test windows. device: the encoder's."""
    windows = data.test_windows
    index = torch.linspace(0, len(windows) - 1, min(LARGEST_SAMPLE, len(windows)), dtype=torch.float64).long().unique()
    sample, mask = windows.gather(index).to(device), windows.mask(index)
    codes = encode(sample, mask if mask is None else mask.to(device))
    return neighbour_preservation(sample.flatten(1).cpu().numpy(), codes.double().cpu().numpy())
