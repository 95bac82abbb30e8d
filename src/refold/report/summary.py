"""The table that a run ends with."""

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PLANTED = {"average_precision": "average precision", "event_f1": "event F1, threshold from validation"}
"""Metrics of `experiment=price_errors` that tables show -> their captions."""


def print_summary(result: dict[str, Any], run_dir: Path) -> None:
    """Print the errors of the model and of the baselines, the speed, and where to look.

    Args:
        result: content of result.json.
        run_dir: the run's directory.
    """
    table = Table(title=f"{result['run']}: reconstruction running free, in training standard deviations")
    rows = beside_baselines(result)
    for name in ["", *next(iter(rows.values()))]:
        table.add_column(name, justify="right" if name else "left")
    for name, values in rows.items():
        table.add_row(name, *("" if value is None else f"{value:.4f}" for value in values.values()))
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not console.is_terminal:  # nothing is folded in a file
        console.width = max(console.width, 120)
    console.print(table)
    own, pca = result["metrics"]["test/r2"], result["baselines"]["pca"]["test/r2"]
    ahead = "" if own is None or pca is None else f"test/r2 against PCA's: {own - pca:+.4f}; "
    console.print(f"{ahead}test/neighbours: share of a window's 10 nearest that its code keeps")
    for path, reason in result["missing"].items():
        if path.startswith("metrics."):
            console.print(f"{path.removeprefix('metrics.')} has no value: {reason}")
    if result["windows_per_s"]:
        console.print(
            f"{result['windows_per_s']:,.0f} windows per second in training, {result['parameters']:,} weights"
        )
    if found := result["detector"]:
        console.print(
            f"{found['score']}, {found['threshold']}: bars scoring above {found['level']:.4g} are flagged, "
            f"{found['val/alarms_per_asset_year']:.1f} alarms per asset and year on validation, "
            f"{found['test/alarms_per_asset_year']:.1f} on test"
        )
    for warning in result["warnings"]:
        console.print(f"warning: {warning}")
    directory = shlex.quote(_short(run_dir))
    console.print(f"run directory: {directory}")
    if (run_dir / "wandb").is_dir():
        console.print(f"look at it:    wandb leet {directory}/wandb   (curves in the terminal), {directory}/figures/")
    else:
        console.print(f"look at it:    {directory}/figures/")


def beside_baselines(result: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return the errors of the model and of the baselines that it has to beat.

    Args:
        result: content of result.json.

    Returns:
        Row -> column -> value, None where there is none.
    """
    columns = ["val/reconstruction_mse", "val/r2", "test/reconstruction_mse", "test/r2", "test/neighbours"]
    rows = {
        "LSTM autoencoder": result["metrics"],
        f"PCA, {result['code_size']} components": result["baselines"]["pca"],
        "training mean": result["baselines"]["mean"],
    }
    return {
        row: {name.replace("reconstruction_", ""): metrics.get(name) for name in columns}
        for row, metrics in rows.items()
    }


def tables(result: dict[str, Any]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return all tables of a result in which the model stands beside baselines.

    Args:
        result: content of result.json.

    Returns:
        Caption -> row -> column -> value, None where there is none.
    """
    found = {"reconstruction running free, in training variances": beside_baselines(result)}
    if measured := result.get("price_errors"):
        for metric, title in PLANTED.items():
            rows: dict[str, dict[str, float | None]] = {}
            for row in measured["errors"]:
                rows.setdefault(row["scorer"], {})[row["kind"]] = row[metric]
            found[f"errors planted into the test part, {title}"] = rows
    return found


def _short(path: Path) -> str:
    """Shorten a path below the working directory to a relative one; return any other path unchanged."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
