"""Run directories as training leaves them, written without training."""

import copy
import functools
import json
from pathlib import Path
from typing import Any

import yaml
from conftest import compose_run

from refold.runs.settings import to_plain


def settings_of(*overrides: str) -> dict[str, Any]:
    """The resolved configuration of a run with these overrides; group choices among them are noted as Hydra does."""
    return copy.deepcopy(_composed(overrides))


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    choices = {"decoder": "autoregressive", "layers": "one", "optimizer": "adamw", "data": "stocks"}
    chosen = [f"{group}={option}" for group, option in choices.items()]
    cfg = to_plain(compose_run([*chosen, *overrides], definite=False))
    given = dict(text.split("=", 1) for text in overrides)
    cfg["run"]["choices"] = {group: given.get(group, option) for group, option in choices.items()}
    return cfg


def write_run(
    directory: Path,
    cfg: dict[str, Any],
    *,
    metrics: dict[str, float] | None,
    group: str | None = None,
    fingerprint: str = "f00d",
    curve: list[float] | None = None,
) -> Path:
    """Write resolved.yaml, metrics.csv and, given metrics, result.json. Args: curve: validation error by epoch."""
    directory.mkdir(parents=True)
    cfg = {**cfg, "run": {**cfg["run"], "id": directory.name.partition("_")[2] or directory.name, "group": group}}
    (directory / "resolved.yaml").write_text(yaml.safe_dump(cfg))
    rows = [f"{epoch},{10 * epoch + 9},{value}" for epoch, value in enumerate(curve or [])]
    (directory / "metrics.csv").write_text("\n".join(["epoch,step,val/reconstruction_mse", *rows]) + "\n")
    if metrics is not None:
        result = {"run": directory.name, "metrics": metrics, "baselines": {}, "data_fingerprint": fingerprint}
        (directory / "result.json").write_text(json.dumps({**result, "windows_per_s": 1000.0}))
    return directory


def measured(val: float, **others: float) -> dict[str, float]:
    """Metrics of a finished run."""
    named = {name.replace("_", "/", 1): value for name, value in others.items()}
    return {"val/reconstruction_mse": val, "test/reconstruction_mse": val + 0.1, "test/r2": 1 - val, **named}
