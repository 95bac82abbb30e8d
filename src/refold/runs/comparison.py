"""A comparison of runs: what differs between them, their metrics, best first, with mean and spread over seeds."""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from refold.errors import DataError
from refold.runs.records import RunRecord

COLUMNS = ("test/reconstruction_mse", "test/r2", "test/r2_against_pca", "errors/average_precision", "errors/vus_pr")
COLUMNS += ("test/detection/average_precision", "test/detection/vus_pr", "test/detection/event_f1")
COLUMNS += ("val/exposure_gap", "val/r2", "test/alarms_per_asset_year", "test/alarms_per_asset_day", "windows_per_s")
"""Metrics beside the one that is sorted by, where any run has them; a narrow terminal shows the first ones."""

USUAL_METRIC = "val/reconstruction_mse"
"""Metric that runs are sorted by if the settings of none can be read."""

SMALLER_IS_BETTER = ("_mse", "_mae", "_gap", "loss", "parameters", "alarms")
SMALLER_IS_BETTER += ("alarms_per_asset_year", "alarms_per_asset_day", "flagged_share")


@dataclass(frozen=True)
class Row:
    """Finished runs that differ in nothing but the seed, or one run that has not finished.

    Attributes:
        settings: values of the settings that differ, in the order of `Comparison.settings`.
        runs: at least one.
    """

    settings: tuple[Any, ...]
    runs: tuple[RunRecord, ...]

    @property
    def of_seeds(self) -> bool:
        """True if no two of its runs have the same seed."""
        return len({run.seed for run in self.runs}) == len(self.runs)

    @property
    def finished(self) -> bool:
        """True if the metrics of the runs of this row are final."""
        return self.runs[0].status == "finished"

    def values(self, metric: str) -> list[float]:
        """Return the metric of each run that has it."""
        return [run.metrics[metric] for run in self.runs if metric in run.metrics]

    def mean(self, metric: str) -> float:
        """Return the mean over its runs; NaN if none has the metric."""
        values = self.values(metric)
        return mean(values) if values else math.nan

    def spread(self, metric: str) -> float:
        """Return the standard deviation over its runs; NaN if fewer than two have the metric."""
        values = self.values(metric)
        with suppress(OverflowError):  # of values near the largest float
            return stdev(values) if len(values) > 1 else math.nan
        return math.inf


@dataclass(frozen=True)
class Comparison:
    """Runs, the settings that differ between them, and the rows of their table, best first.

    Attributes:
        runs: all of them.
        settings: keys of the columns.
        metrics: names of the columns; the rows are sorted by the first.
        rows: rows of the table.
        notes: sentences that a reader must know before he trusts a difference.
    """

    runs: tuple[RunRecord, ...]
    settings: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def metric(self) -> str:
        """The metric that the rows are sorted by."""
        return self.metrics[0]


def twins(rows: Sequence[Row]) -> dict[int, int]:
    """Find the rows whose runs an earlier row has already: their settings differ in what has no effect.

    Args:
        rows: rows of a comparison, in their order.

    Returns:
        Number of such a row -> number of the first row with the same runs, both from 0.
    """
    first: dict[frozenset, int] = {}
    found = {}
    for number, row in enumerate(rows):
        same = first.setdefault(frozenset(run.directory.resolve() for run in row.runs), number)
        if same != number:
            found[number] = same
    return found


def smaller_is_better(metric: str) -> bool:
    """Return True for errors, losses and sizes, False for scores, shares and speeds."""
    return metric.endswith(SMALLER_IS_BETTER)


def compare(runs: Sequence[RunRecord], metric: str | None = None, *, each: bool = False) -> Comparison:
    """Find what differs between runs, and sort them.

    A run that cannot be read, or whose result holds a value that is no finite number, is a row of its own at the end.

    Args:
        runs: at least one.
        metric: to sort by; None for the one that the runs were stopped and chosen by.
        each: one row per run, in place of the mean over seeds.

    Raises:
        DataError: runs were chosen by different metrics and none is named, or no finished run has
            the metric.
    """
    metric = metric or _common_monitor(runs)
    finished = [run for run in runs if run.status == "finished"]
    if finished and not any(metric in run.metrics for run in finished):
        common = set.intersection(*(set(run.metrics) for run in finished))
        have = f"all of them have: {', '.join(sorted(common))}" if common else "they have none in common"
        raise DataError(f"{metric}: {finished[0].directory} has no such metric, so runs cannot be sorted by it; {have}")
    settings = what_differs([run for run in runs if run.settings])
    there = {name for run in runs for name in run.metrics}
    shown = [metric, *(name for name in COLUMNS if name != metric and name in there)]
    return Comparison(
        tuple(runs), settings, tuple(shown), tuple(_rows(runs, settings, metric, each)), tuple(_notes(runs, metric))
    )


def _common_monitor(runs: Sequence[RunRecord]) -> str:
    """Return the monitored metric that all readable runs share; raise DataError if they have several."""
    monitors = sorted({run.monitor for run in runs if run.monitor is not None}) or [USUAL_METRIC]
    if len(monitors) > 1:
        raise DataError(f"checkpoint.monitor differs between these runs: {', '.join(monitors)}; choose with --metric")
    return monitors[0]


def what_differs(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """Return the keys whose value is not the same in all runs, without the seed and its copies.

    Chosen options and overrides come first. Another key is named only if they do not decide it: `decoder=repeat,...`
    changes a dozen keys of its section, and says all of them.
    """
    keys = dict.fromkeys(key for run in runs for key in (*run.stated, *run.settings))
    stated = {key for run in runs for key in run.stated}
    varying = [key for key in keys if len({_value(run, key) for run in runs}) > 1]
    varying = [key for key in varying if any(_value(run, key) != run.seed for run in runs)]
    shown = [key for key in varying if key in stated]
    for key in varying:
        if key not in stated and not _decided_by(shown, key, runs):
            shown.append(key)
    return tuple(shown)


def _decided_by(shown: list[str], key: str, runs: Sequence[RunRecord]) -> bool:
    """Check whether runs that are equal in the shown settings are equal in this key, too."""
    seen: dict[tuple, Any] = {}
    shown_values = [tuple(_value(run, name) for name in shown) for run in runs]
    return all(
        seen.setdefault(at, _value(run, key)) == _value(run, key) for at, run in zip(shown_values, runs, strict=True)
    )


def _value(run: RunRecord, key: str) -> Any:
    """Return the value of a setting, or an em dash if the run does not have it."""
    return run.settings.get(key, "—")


def _rows(runs: Sequence[RunRecord], settings: Sequence[str], metric: str, each: bool) -> list[Row]:
    """Build the rows of finished runs, best first; runs without the metric come next, unfinished ones last."""
    groups: dict[tuple, list[RunRecord]] = {}
    unfinished = []
    for run in runs:
        key = tuple(_value(run, name) for name in settings)
        if run.status == "finished":
            measured_on = (
                (run.directory,) if each else (run.fingerprint, tuple(text.split()[0] for text in run.problems))
            )
            groups.setdefault((measured_on, *key), []).append(run)
        else:
            unfinished.append(Row(key, (run,)))
    sign = 1 if smaller_is_better(metric) else -1

    def order(row: Row) -> tuple[bool, float]:
        value = row.mean(metric)
        return math.isnan(value), 0.0 if math.isnan(value) else sign * value

    finished = [Row(key[1:], tuple(members)) for key, members in groups.items()]
    return sorted(finished, key=order) + sorted(unfinished, key=order)


def _notes(runs: Sequence[RunRecord], metric: str) -> Iterable[str]:
    """Write sentences about the differences that make runs incomparable."""
    finished = [run for run in runs if run.status == "finished"]
    if len({run.fingerprint for run in finished if run.fingerprint}) > 1:
        yield "these runs were measured on different data: their errors cannot be compared as they stand"
    elif len({tuple(_value(run, key) for key in run.settings if key.startswith(PART_KEYS)) for run in finished}) > 1:
        yield "these runs were measured on different windows of the data: their errors cannot be compared as they stand"
    lacking = [run for run in finished if metric not in run.metrics]
    if lacking:
        yield f"{len(lacking)} of {len(finished)} finished runs have no {metric}: their rows stand below the others"
    broken = [run for run in runs if run.status == "broken"]
    if broken:
        yield f"{len(broken)} of {len(runs)} runs cannot be read: their rows say why"
    unfinished = len(runs) - len(finished) - len(broken)
    if unfinished:
        yield f"{unfinished} of {len(runs)} runs did not finish: their row shows the best value so far"


PART_KEYS = ("data.split.", "data.window_size", "data.stride", "data.features", "data.fold", "data.layout")
PART_KEYS += ("predictor.horizon",)
"""Settings that decide what an error is measured on."""


def meaning_of_spread(comparison: Comparison) -> str:
    """Say what a spread in the table is of; return an empty text if no row has one.

    Args:
        comparison: the runs.
    """
    several = [row for row in comparison.rows if len(row.runs) > 1]
    if not several:
        return ""
    if all(row.of_seeds for row in several):
        return "± the standard deviation over seeds"
    return "± the standard deviation over runs; a row of runs, not of seeds, has one seed more than once"


def best_rows(comparison: Comparison) -> dict[str, int | None]:
    """Return the number of the finished row with the best mean of each metric.

    Returns:
        Metric -> number of a row; None if all means are equal, or if there is only one.
    """
    winners: dict[str, int | None] = {}
    for name in comparison.metrics:
        means = {n: row.mean(name) for n, row in enumerate(comparison.rows) if row.finished}
        means = {n: value for n, value in means.items() if not math.isnan(value)}
        pick = min if smaller_is_better(name) else max
        winners[name] = pick(means, key=means.__getitem__) if len(set(means.values())) > 1 else None
    return winners
