"""The table that `experiment=price_errors` ends with: what each scorer finds of each kind of error, over all seeds."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from refold.run import RESULT, write_atomically

RESULTS = "price_errors.csv"
"""In the directory of a sweep and of each run: one row per seed, scorer and kind, with all metrics."""

SHOWN = {"average_precision": "average precision", "event_f1": "event F1, threshold from validation"}


class ErrorsTable(Callback):
    """Hydra calls it in the first process, after a run or after the last run of a sweep."""

    def on_run_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of one seed."""
        finish(Path(config.hydra.runtime.output_dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table of all seeds, and write them into one CSV."""
        finish(Path(config.hydra.sweep.dir))


def finish(directory: Path) -> None:
    """Print what the runs in a directory have measured, and write price_errors.csv into it."""
    paths = [directory / RESULT, *sorted(directory.glob(f"*/{RESULT}"))]
    found = [json.loads(path.read_text()) for path in paths if path.exists()]
    measured = [result["price_errors"] for result in found if "price_errors" in result]
    if not measured:  # a run that was refused or stopped has said why
        return
    rows = errors_frame(measured)
    write_atomically(directory / RESULTS, rows.write_csv())
    console = Console(soft_wrap=True, highlight=False)
    for metric, title in SHOWN.items():
        console.print(_table(rows, metric, title))
    for line in [*_gain_lines(rows), *_checks_lines(measured), *_natural_lines(measured)]:
        console.print(line)
    console.print(f"all metrics: {directory / RESULTS}")


def errors_frame(measured: list[dict[str, Any]]) -> pl.DataFrame:
    """One row per seed, scorer and kind."""
    return pl.DataFrame([{"seed": one["seed"], **row} for one in measured for row in one["errors"]])


def _table(rows: pl.DataFrame, metric: str, title: str) -> Table:
    seeds = rows["seed"].n_unique()
    spread = ", mean ± standard deviation" if seeds > 1 else ""
    table = Table(title=f"{title}: {seeds} seed{'s' * (seeds > 1)}{spread}")
    kinds = rows["kind"].unique(maintain_order=True).to_list()
    for name in ("", *kinds, "real jumps flagged"):
        table.add_column(name, justify="right" if name else "left")
    for (scorer,), part in rows.group_by("scorer", maintain_order=True):
        cells = [_mean_and_spread(part.filter(pl.col("kind") == kind)[metric]) for kind in kinds]
        table.add_row(scorer, *cells, f"{part['jumps_flagged'].mean():.1%}")
    return table


def _mean_and_spread(values: pl.Series) -> str:
    values = values.drop_nans().drop_nulls()
    if not len(values):
        return "-"
    spread = values.std() if len(values) > 1 else None
    return f"{values.mean():.3f}" + (f" ± {spread:.3f}" if spread is not None and math.isfinite(spread) else "")


def _gain_lines(rows: pl.DataFrame) -> list[str]:
    """What the model adds to the rules, seed by seed: nothing, if that is so."""
    from refold.scoring.price_errors import RULES_ALONE, RULES_AND_MODEL  # brings torch; Hydra imports this file early

    lines = []
    for metric, title in SHOWN.items():
        wide = rows.pivot(on="scorer", index=["seed", "kind"], values=metric)
        for (kind,), part in wide.group_by("kind", maintain_order=True):
            gain = part[RULES_AND_MODEL] - part[RULES_ALONE]
            spread = f" ± {gain.std():.3f}" if len(gain) > 1 else ""
            more = f", more in {(gain > 0).sum()} of {len(gain)} seeds"
            lines.append(f"  {title.partition(',')[0]}, {kind}: {gain.mean():+.3f}{spread}{more}")
    return ["what the model adds to the rules:", *lines]


def _checks_lines(measured: list[dict[str, Any]]) -> list[str]:
    kinds = measured[0]["checks"]
    shares = {kind: sum(one["checks"][kind] for one in measured) / len(measured) for kind in kinds}
    if not shares:
        return []
    listed = ", ".join(f"{kind} {share:.1%}" for kind, share in shares.items())
    return [f"found by the checks of the data, before any scorer: {listed}"]


def _natural_lines(measured: list[dict[str, Any]]) -> list[str]:
    """The natural test, a line per scorer: counts over all seeds."""
    rows = pl.DataFrame([row for one in measured for row in one["natural"]])
    if rows.is_empty():
        return []
    lines = [
        f"real splits and moves, over {len(measured)} seeds: splits flagged, of them named split; moves flagged, of "
        f"them called an error; other flags per 1,000 bars"
    ]
    width = max(len(name) for name in rows["scorer"])
    for (scorer,), part in rows.group_by("scorer", maintain_order=True):
        total = part.select(pl.exclude("scorer", "others_per_1000_bars").sum()).row(0, named=True)
        lines.append(
            f"  {scorer:<{width}}  {total['splits_flagged']} of {total['splits']}, {total['splits_named']} named;  "
            f"{total['moves_flagged']} of {total['moves']}, {total['moves_called_error']} called an error;  "
            f"{part['others_per_1000_bars'].mean():.1f}"
        )
    return lines
