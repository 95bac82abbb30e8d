"""Warnings that a reader of a result needs before trusting it, and the reasons why a metric has no value."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from refold.training.module import AutoencoderModule

DIVERGED = 2.0
"""A validation error of more than so many times that of predicting the training mean is the end of a diverged
training."""


def find_broken_weights(module: AutoencoderModule) -> str | None:
    """Name the first weights of a trained module that hold NaN or infinity.

    Args:
        module: after the training, before best.ckpt is loaded.

    Returns:
        A sentence, or None if all weights are numbers.
    """
    for name, weights in module.autoencoder.named_parameters():
        if not torch.isfinite(weights).all():
            return (
                f"training diverged: the weights {name} became NaN or infinite; best.ckpt is from before: lower "
                "optimizer.lr, or set trainer.gradient_clip_val"
            )
    return None


def find_divergence(
    metrics: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]], lr: float | None
) -> str | None:
    """Say whether the best weights are far worse than predicting the training mean.

    Args:
        metrics: metrics of best.ckpt, among them `val/reconstruction_mse`.
        baselines: the baselines, with `val/reconstruction_mse` of the training mean, as "mean".
        lr: the learning rate that the training began with, if it is known.

    Returns:
        A sentence, or None if the training did not diverge.
    """
    error, constant = metrics["val/reconstruction_mse"], baselines["mean"]["val/reconstruction_mse"]
    if error <= DIVERGED * constant:
        return None
    return (
        f"training diverged: val/reconstruction_mse of best.ckpt is {error:.4g}, that of the training mean "
        f"{constant:.4g}: lower optimizer.lr{'' if lr is None else f' = {lr:g}'}, or set trainer.gradient_clip_val"
    )


def find_unfinished_schedule(module: AutoencoderModule, steps: int) -> str | None:
    """Say whether the training ended before teacher forcing reached its final ratio.

    Args:
        module: trained.
        steps: optimizer steps of the training.

    Returns:
        A sentence, or None if the schedule came to its end, has none, or no decoder reads bars.
    """
    if not module.reads_bars or not steps:
        return None
    return module.teacher_forcing.describe_unfinished(steps)


def without_infinities(result: Any, reasons: Mapping[str, str], path: str = "") -> tuple[Any, dict[str, str]]:
    """Replace NaN and infinity by None, because JSON has neither, and collect why each value is missing.

    Args:
        result: plain dicts, lists and values.
        reasons: end of a dotted path, such as "test/r2", -> why a value there may be missing.
        path: dotted path of `result` in the complete result.

    Returns:
        The same with None in place of NaN and infinity, and dotted path -> reason.
    """
    if isinstance(result, dict):
        parts = {key: without_infinities(value, reasons, f"{path}.{key}".strip(".")) for key, value in result.items()}
        return {key: part for key, (part, _) in parts.items()}, {k: v for _, m in parts.values() for k, v in m.items()}
    if isinstance(result, list | tuple):
        items = [without_infinities(value, reasons, f"{path}.{n}") for n, value in enumerate(result)]
        return [item for item, _ in items], {k: v for _, m in items for k, v in m.items()}
    broken = isinstance(result, float) and not math.isfinite(result)
    given = next((reason for name, reason in reasons.items() if path.endswith(name)), None)
    if broken or (result is None and given):
        return None, {path: given or f"it is {result}, which JSON cannot hold"}
    return result, {}


def reasons_for_missing(baselines: Mapping[str, Mapping[str, Any]], horizon: int = 0) -> dict[str, str]:
    """List why metrics of a part may have no value.

    Args:
        baselines: names of the baselines.
        horizon: bars after a window that are predicted, 0 for none.

    Returns:
        Name of a metric -> reason.
    """
    names = {"pca": "PCA", "mean": "the training mean"}
    reasons = {
        f"{split}/r2": f"the windows of the {part} part stand still: there is no variance to explain"
        for split, part in (("val", "validation"), ("test", "test"))
    }
    for split, part in (("val", "validation"), ("test", "test")):
        for step in ("", *(f"_{n}" for n in range(1, horizon + 1))):
            reasons[f"{split}/prediction_r2{step}"] = f"the bars after the windows of the {part} part stand still"
    reasons["test/neighbours"] = "fewer than 3 test windows, or all of them alike"
    for name in baselines:
        for split in ("val", "test"):
            reasons[f"{split}/r2_against_{name}"] = f"{names.get(name, name)} has no error left on {split}"
    return reasons
