"""The evaluation that ends a run: best.ckpt measured beside the baselines, the detector fitted, result.json written."""

import logging
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import lightning as L
import numpy as np
import polars as pl
from omegaconf import DictConfig

from refold.data import WindowDataModule
from refold.data.part_bars import part_bars
from refold.errors import RefoldError
from refold.library.detection import DETECTION, measure_detection
from refold.library.doubts import (
    find_broken_weights,
    find_divergence,
    find_unfinished_schedule,
    reasons_for_missing,
    without_infinities,
)
from refold.library.fitting import fit_to_data
from refold.library.prediction_baselines import measure_prediction_baselines
from refold.library.reconstruction_baselines import (
    NEIGHBOURS,
    fit_baselines,
    measure_baselines,
    measure_neighbours,
    r2_against_baselines,
)
from refold.report.figures import ScoredPart, draw_figures, scored_assets
from refold.runs.directory import DETECTOR, write_result
from refold.scoring.detector import Detector
from refold.scoring.labelled import against_labels
from refold.scoring.protocols import Evaluation
from refold.scoring.scored import alarm_rate, alarm_unit, validation_rates
from refold.scoring.worth import measure_worth
from refold.training.callbacks import EpochReport
from refold.training.facts import run_facts
from refold.training.loggers import log_end
from refold.training.module import AutoencoderModule
from refold.training.saving import AtomicCheckpointIO, Checkpoints

MOST_ROWS = 1_000_000
"""Rows of a series up to which it is measured what the verdict is worth."""

log = logging.getLogger(__name__)

Wanted = TypeVar("Wanted", bound=L.Callback)


def evaluate_run(
    cfg: DictConfig,
    run_dir: Path,
    trainer: L.Trainer,
    module: AutoencoderModule,
    data: WindowDataModule,
    detector: Detector,
    evaluation: Evaluation | None,
) -> dict[str, Any] | None:
    """Measure a trained run, draw its figures, and write result.json.

    best.ckpt is measured on validation and test, running free; then the baselines, the detector, and what the
    experiment asks for. Every process takes part in measuring the model; the first one does the rest.

    Args:
        cfg: the run's configuration.
        run_dir: the run directory.
        trainer: after `fit`, with our callbacks.
        module: trained.
        data: of the run, set up.
        detector: not fitted.
        evaluation: of the experiment, or None.

    Returns:
        The result, as it stands in result.json; None on the other processes.

    Raises:
        RefoldError: the monitored value was never a number.
    """
    warnings = [find_broken_weights(module), find_unfinished_schedule(module, trainer.global_step)]
    checkpoints, epochs = find_callback(trainer, Checkpoints), find_callback(trainer, EpochReport)
    checkpoints.ensure_best(trainer, module, data)
    training = {"epochs": trainer.current_epoch, "optimizer_steps": trainer.global_step}
    metrics = measure_best(trainer, module, data, checkpoints.best)
    if not trainer.is_global_zero:
        return None
    facts = run_facts(trainer, module, data)
    fitted = fit_baselines(facts["code_size"], cfg.seed, data)
    baselines = measure_baselines(fitted, data)
    metrics |= r2_against_baselines(metrics, baselines)
    warnings.append(find_divergence(metrics, baselines, cfg.optimizer.get("lr")))
    verdict, test_scores = fit_detector(detector, run_dir, data)
    metrics[NEIGHBOURS] = measure_neighbours(module.eval().autoencoder.encode, data, module.device)
    result = {
        "run": cfg.run.id,
        "metrics": metrics,
        "baselines": baselines,
        **({"prediction": predicted} if (predicted := measure_prediction_baselines(data)) else {}),
        "detector": verdict,
        **training,
        "windows_per_s": median(epochs.rates) if epochs.rates else None,
        **facts,
    }
    found, reasons = None, reasons_for_missing(baselines, data.recipe.horizon)
    if test_scores and verdict:
        found = measure_detection(detector, fitted.pca, data, scored_assets(data), test_scores.scores, cfg.seed)
    if found:
        metrics |= found.metrics
        reasons |= found.reasons
        result["detection"] = found.parts
    labels = getattr(data.source, "labels", None)  # a source that knows its anomalies
    if evaluation:
        result["price_errors"] = evaluation.run(detector, data, seed=cfg.seed)
        metrics |= evaluation.metrics(result["price_errors"])
    elif test_scores and verdict and labels:
        errors = against_labels(scored_bars(test_scores, data), labels(), verdict["level"])
        metrics |= {f"errors/{name}": value for name, value in errors.items()}
    result, missing = without_infinities(result, reasons)
    result |= {"warnings": [warning for warning in warnings if warning], "missing": missing}
    figures = draw_figures(run_dir, module, data, fitted._asdict(), test_scores)
    report_end(cfg, trainer, result, figures, checkpoints.best)
    write_result(run_dir, result)
    return result


def measure_best(trainer: L.Trainer, module: AutoencoderModule, data: WindowDataModule, best: Path) -> dict[str, Any]:
    """Measure a checkpoint on validation and test, running free.

    Args:
        trainer: after `fit`; its loggers get nothing of it, because these are no points of the curves.
        module: gets the checkpoint's weights.
        data: set up.
        best: the checkpoint.

    Returns:
        `split/quantity` -> value; NaN where there is none.
    """
    loggers, trainer.loggers = trainer.loggers, []
    settings: dict[str, Any] = {"datamodule": data, "ckpt_path": best, "verbose": False, "weights_only": True}
    metrics = {**trainer.validate(module, **settings)[0], **trainer.test(module, **settings)[0]}
    trainer.loggers = loggers
    return metrics


def report_end(
    cfg: DictConfig, trainer: L.Trainer, result: dict[str, Any], figures: dict[str, Path], best: Path
) -> None:
    """Write the end of a run to its log and its loggers.

    Args:
        cfg: the run's configuration.
        trainer: with the run's loggers.
        result: complete.
        figures: name -> PNG file.
        best: best.ckpt.
    """
    numbers = {name: value for name, value in result["metrics"].items() if value is not None}
    shown = [f"{name} {value:.4f}" for name, value in numbers.items() if DETECTION not in name]
    log.info("best.ckpt: %s", "  ".join(shown))
    if found := [f"{name} {value:.4g}" for name, value in numbers.items() if DETECTION in name]:
        log.info("against the labels: %s", "  ".join(found))
    for path, reason in result["missing"].items():
        log.info("%s has no value: %s", path, reason)
    for warning in result["warnings"]:
        log.warning(warning)
    pictures = {f"figures/{name}": path for name, path in figures.items()}
    last = last_row(result, cfg.checkpoint.monitor)
    log_end(trainer.loggers, last, pictures, best=best, step=max(0, trainer.global_step - 1))


def last_row(result: dict[str, Any], monitor: str) -> dict[str, float]:
    """Collect the numbers that loggers get at the end of a run.

    Args:
        result: complete.
        monitor: name of the monitored metric.

    Returns:
        The best monitored value, the metrics of test and of planted errors, those of the baselines, and the alarm
        rates; without those that have no value.
    """
    metrics = result["metrics"]
    row = {f"best/{monitor}": metrics[monitor]}
    row |= {
        name: value for name, value in metrics.items() if name.startswith(("test/", "errors/")) or "_against_" in name
    }
    ahead = result.get("prediction", {"baselines": {}})["baselines"]
    for baselines in (result["baselines"], ahead):
        row |= {f"{name}/{key}": value for name, errors in baselines.items() for key, value in errors.items()}
    row |= {name: value for name, value in (result["detector"] or {}).items() if "/" in name}
    return {name: value for name, value in row.items() if value is not None}


def scored_bars(test: ScoredPart, data: WindowDataModule) -> pl.DataFrame:
    """Turn the scores of the test part into a table.

    Args:
        test: the scores.
        data: of the run, set up.

    Returns:
        timestamp, asset and score, asset after asset in order of time; NaN where a bar has no score.
    """
    times = pl.Series("timestamp", test.scores.times).cast(data.train_windows.series.time_dtype)
    names = np.array(scored_assets(data))
    return pl.DataFrame([times, pl.Series("asset", names[test.scores.asset]), pl.Series("score", test.scores.score)])


def find_callback(trainer: L.Trainer, kind: type[Wanted]) -> Wanted:
    """Find the trainer's callback of a class.

    Args:
        trainer: it has one.
        kind: the class.

    Returns:
        The first callback of that class.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]  set undeclared
    return next(callback for callback in callbacks if isinstance(callback, kind))


def fit_detector(
    detector: Detector, run_dir: Path, data: WindowDataModule
) -> tuple[dict[str, Any] | None, ScoredPart | None]:
    """Fit score and threshold to the run's parts, write them beside the checkpoints, and score the test part.

    Args:
        detector: not fitted.
        run_dir: the run directory.
        data: of the run, set up.

    Returns:
        Level and alarm rates, and the scores of the test part. Nothing is fitted to the test part, so its alarm rate
        is what a user may expect. Both are None if validation has too few scores for the threshold.
    """
    series = data.train_windows.series
    try:
        fit_to_data(detector, data)
    except RefoldError as error:
        log.warning("the run has no threshold, choose another one when scoring: %s", error)
        return None, None
    AtomicCheckpointIO().save_checkpoint(detector.state_dict(), run_dir / DETECTOR)
    test = detector.score_series(series, data.segments("test"))
    levels, flagged = detector.flag(test)
    verdict = {
        "score": type(detector.score_function).__name__,
        "threshold": type(detector.threshold).__name__,
        "alignment": detector.alignment,
        "level": detector.validation["level"],
        **({"levels": detector.validation["levels"]} if detector.validation["levels"] else {}),
        "bar_seconds": detector.validation["bar_seconds"],
        "alarms_per": alarm_unit(detector.validation["bar_seconds"]),
        **validation_rates(detector.validation),
        **alarm_rate(flagged, test, series.time_dtype).named("test/"),
        "worth": _worth(detector, data),
    }
    return verdict, ScoredPart(test, levels, flagged)


def _worth(detector: Detector, data: WindowDataModule) -> dict[str, Any] | None:
    """Measure what the verdict is worth; None for a table that is cached or long, which is not read once more."""
    if data.cache is not None or len(data.train_windows.series.times) > MOST_ROWS:
        return None
    return measure_worth(detector, part_bars(data.source.load(), data.recipe)["test"], data.seed)
