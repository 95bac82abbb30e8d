"""One self-contained HTML page that compares runs.

It holds the table, parallel coordinates, the importance of settings, curves and reconstructions.
"""

import math
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from refold.report.comparison_table import cell_text, label_of, short_names
from refold.report.html_page import assemble_page
from refold.runs.comparison import Comparison, best_rows, meaning_of_spread, smaller_is_better
from refold.runs.directory import METRICS, write_atomically
from refold.runs.fixed_windows import FIXED_WINDOWS, FixedWindows
from refold.runs.importance import measure_importance
from refold.runs.records import RunRecord, read_metrics

MOST_CURVES = 40
"""Runs whose curves are drawn: the best one of each row, in their order, then the second of each."""

MOST_POINTS = 300
"""Of one curve; of more, every n-th."""

MOST_RECONSTRUCTIONS = 8
"""Runs whose reconstructions are drawn, in the same order."""

MOST_FEATURES = 6
"""Of a window."""

CURVES = (
    "val/reconstruction_mse", "val/r2", "train/epoch_loss", "train/reconstruction_mse", "val/exposure_gap",
    "train/grad_norm", "train/lr", "train/teacher_forcing_ratio", "perf/windows_per_s",
)  # fmt: skip


def write_comparison(path: Path, comparison: Comparison, title: str) -> None:
    """Write the page; an error leaves an earlier one as it was.

    Args:
        path: path of the HTML file.
        comparison: the runs.
        title: title of the page; any text.

    Raises:
        RefoldError: the file cannot be written.
    """
    rows = [sorted_runs(row.runs, comparison.metric) for row in comparison.rows]
    ranked = [run for place in zip_longest(*rows) for run in place if run is not None]  # the best of each row first
    finished = [run for run in ranked if run.status == "finished" and comparison.metric in run.metrics]
    payload = {
        "facts": {
            "runs": str(len(ranked)),
            "finished": str(sum(run.status == "finished" for run in ranked)),
            "sorted by": comparison.metric,
            "varied": ", ".join(comparison.settings) or "nothing but the seed",
        },
        "notes": list(comparison.notes),
        "table": _metrics_table(comparison),
        "parallel": _parallel(comparison, finished),
        "importance": _importance(comparison, finished),
        "curves": _curves(comparison, ranked),
        "windows": _reconstructions(comparison, finished),
    }
    write_atomically(path, assemble_page(title, payload, "compare"))


def sorted_runs(runs: Sequence[RunRecord], metric: str) -> list[RunRecord]:
    """Return runs sorted by a metric, best first; those without it last."""
    sign = 1 if smaller_is_better(metric) else -1
    return sorted(runs, key=lambda run: sign * run.metrics.get(metric, sign * math.inf))


def _metrics_table(comparison: Comparison) -> dict[str, Any]:
    """Build the table that a terminal shows, with every metric."""
    rows = [
        [
            *(str(value) for value in row.settings),
            label_of(row),
            *(cell_text(row, name) for name in comparison.metrics),
        ]
        for row in comparison.rows
    ]
    winners = best_rows(comparison)
    return {
        "columns": [*comparison.settings, "run", *comparison.metrics],
        "rows": rows,
        "first_metric": len(comparison.settings) + 1,
        "best": [winners[name] for name in comparison.metrics],
        "finished": [row.finished for row in comparison.rows],
        "note": meaning_of_spread(comparison),
    }


def _parallel(comparison: Comparison, finished: Sequence[RunRecord]) -> dict[str, Any] | None:
    """Build the parallel axes: numbers where all values are numbers, else names, and the metric as the last axis."""
    keys = [*comparison.settings, *(["seed"] if len({run.seed for run in finished}) > 1 else [])]
    if not keys or len(finished) < 2:
        return None
    axes = []
    for key, label in zip(keys, short_names(keys), strict=True):
        values = [run.settings.get(key, "—") for run in finished]
        if all(_is_number(value) for value in values):
            axes.append({"label": label, "values": values})
        else:
            names = sorted({str(value) for value in values})
            axes.append({"label": label, "values": [names.index(str(value)) for value in values], "names": names})
    axes.append({"label": comparison.metric, "values": [run.metrics[comparison.metric] for run in finished]})
    return {
        "dimensions": axes,
        "metric": comparison.metric,
        "smaller_is_better": smaller_is_better(comparison.metric),
    }


def _importance(comparison: Comparison, finished: Sequence[RunRecord]) -> dict[str, Any]:
    """Compute the importance of each setting, to be drawn as bars."""
    columns = {key: [run.settings.get(key, "—") for run in finished] for key in (*comparison.settings, "seed")}
    found = measure_importance(columns, [run.metrics[comparison.metric] for run in finished])
    return {
        "names": list(found.shares),
        "shares": [share for share, _ in found.shares.values()],
        "spreads": [spread for _, spread in found.shares.values()],
        "note": f"{comparison.metric}: {found.note}.",
    }


def _curves(comparison: Comparison, ranked: Sequence[RunRecord]) -> dict[str, Any]:
    """Collect the curves of the first runs, thinned."""
    drawn = ranked[:MOST_CURVES]
    runs = []
    for run in drawn:
        curves = read_metrics(run.directory / METRICS)
        thinned = {name: points[:: math.ceil(len(points) / MOST_POINTS)] for name, points in curves.items()}
        lines = {
            name: {"x": [step for step, _ in points], "y": [_finite(value) for _, value in points]}
            for name, points in thinned.items()
            if name in CURVES
        }
        runs.append({"name": _name(run, comparison), "curves": lines})
    names = [name for name in CURVES if any(name in run["curves"] for run in runs)]
    return {"names": names, "runs": runs, "note": _share(len(drawn), len(ranked))}


def _reconstructions(comparison: Comparison, finished: Sequence[RunRecord]) -> dict[str, Any] | None:
    """Collect windows of the best run that has kept some, and the reconstructions of the same windows by other runs."""
    drawn: list[tuple[RunRecord, FixedWindows]] = []
    others = 0
    for run in finished:
        if len(drawn) == MOST_RECONSTRUCTIONS:
            break
        try:
            fixed = FixedWindows.load(run.directory / FIXED_WINDOWS)
        except (OSError, ValueError, KeyError):  # of another version, deleted, or broken
            continue
        if drawn and not _same(drawn[0][1], fixed):
            others += 1
        else:
            drawn.append((run, fixed))
    if not drawn:
        return None
    first = drawn[0][1]
    note = _share(len(drawn), len(finished))
    if others:
        note += f" {others} were measured on other windows and are left out."
    return {
        "labels": [f"{asset}, from {str(m[0])[:10]}" for asset, m in zip(first.assets, first.moments, strict=True)],
        "features": first.features[:MOST_FEATURES].tolist(),
        "truth": _by_feature(first, first.truth),
        "runs": [{"name": _name(run, comparison), "made": _by_feature(fixed, fixed.made)} for run, fixed in drawn],
        "note": note,
    }


def _share(drawn: int, there: int) -> str:
    return f"{drawn} of {there} runs, the best one of each row of the table first." if drawn < there else ""


def _same(one: FixedWindows, other: FixedWindows) -> bool:
    """Check whether two runs kept the same windows in the same units."""
    pairs = ((one.truth, other.truth), (one.moments, other.moments), (one.features, other.features))
    return all(np.array_equal(a, b) for a, b in (*pairs, (one.assets, other.assets)))


def _by_feature(fixed: FixedWindows, values: np.ndarray) -> list[list[list[float | None]]]:
    """Convert values (W, T, F) to rounded lists W x F x T, with None at absent bars."""
    kept = np.where(fixed.present[:, :, None], values, np.nan)[:, :, :MOST_FEATURES].transpose(0, 2, 1)
    return [[[_finite(round(float(value), 4)) for value in line] for line in window] for window in kept]


def _name(run: RunRecord, comparison: Comparison) -> str:
    """Name a run by the settings in which it differs from the others."""
    parts = [str(run.settings.get(key, "—")) for key in comparison.settings]
    ending = "" if run.status == "finished" else f" ({run.status})"
    return f"{' · '.join([*parts, f'seed {run.seed}'])}{ending}" if parts else f"{run.id}{ending}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
