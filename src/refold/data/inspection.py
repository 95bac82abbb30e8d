"""Look at a table before any training: what its columns are, what the checks find, and how it would train.

All of this is done without torch.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from refold.data.bars.findings import CHECKS, FINDINGS, ROW, Policy
from refold.data.bars.intervals import describe, infer_timetables
from refold.data.bars.table import value_columns
from refold.data.bars.timetable import Timetable
from refold.data.feature_table import FeatureTable, feature_table, panel_table, rows_of
from refold.data.recipe import Recipe
from refold.data.sources.source import RawTable, Source, Tabular
from refold.data.windows.split import PARTS, divide
from refold.errors import DataError

EXAMPLES = 3
"""Faulty bars that are shown of each check."""

_MENDING: dict[str, Policy] = {"missing_timestamp": "drop", "duplicate": "drop"}
"""Check -> policy that lets a table train, where it is not mask."""

_WINDOWS = (512, 256, 128, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2)
"""Window sizes that are tried if the chosen one leaves a part without windows."""


class Column(NamedTuple):
    """Describe a column of the file: its name, and the part it plays, such as timestamp, close or not used."""

    name: str
    part: str


@dataclass(frozen=True)
class Finding:
    """Describe what one check found.

    Attributes:
        check: its name.
        complaint: what is wrong with the bars.
        policy: what would happen to them in training.
        bars: number of faulty bars.
        assets: number of assets that have some.
        examples: the first of them, in words, with the rows of the file where those are known.
    """

    check: str
    complaint: str
    policy: str
    bars: int
    assets: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """Hold what there is to know of a table.

    Attributes:
        source: where the table comes from.
        form: what was found of how it is written, such as the separator.
        rows: rows of the table as it is written.
        bars: rows of the canonical table.
        columns: those of the file, in their order.
        assets: name, bars, first, last and interval of each asset.
        first: time of the first bar.
        last: time of the last bar.
        time_zone: of the times, or that there is none.
        sessions: how often bars come, and on which days and hours, in words.
        findings: what the checks found, in the order of the checks.
        features: features that would be trained on.
        windows: part -> number of windows.
        obstacles: what would stop the training, and no override mends.
        overrides: settings beyond those given with which the table would train.
    """

    source: str
    form: dict[str, str]
    rows: int
    bars: int
    columns: tuple[Column, ...]
    assets: tuple[dict[str, Any], ...]
    first: str
    last: str
    time_zone: str
    sessions: tuple[str, ...]
    findings: tuple[Finding, ...]
    features: tuple[str, ...]
    windows: dict[str, int]
    obstacles: tuple[str, ...]
    overrides: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """True if no check found anything and nothing would stop the training."""
        return not self.findings and not self.obstacles and not self.overrides

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as for JSON."""
        columns = [column._asdict() for column in self.columns]
        return {"status": "clean" if self.clean else "findings", **asdict(self), "columns": columns}


def inspect_table(source: Source, recipe: Recipe, *, stride: int) -> Inspection:
    """Read a table, and find out everything that its owner would want to know before training.

    Args:
        source: the table.
        recipe: how bars would become windows; every check is heard, whatever its policy.
        stride: bars between the starts of neighbouring windows, at least 1.

    Returns:
        The facts, the findings, and the settings with which the table would train.

    Raises:
        DataError: the table cannot be read.
    """
    raw = source.raw() if isinstance(source, Tabular) else None
    bars = source.load() if raw is None else raw.canonical()
    numbers = _row_numbers(raw, bars)
    heard = _with_policies(recipe, {name: _loudest(name) for name in CHECKS})
    checked = heard.checks.run(bars.with_row_index(ROW))
    findings, runs = checked.table, checked.runs
    policies: dict[str, Policy] = {
        name: _MENDING.get(name, "mask")
        for name in findings["check"].unique()
        if recipe.checks.policies[name] == "error"
    }
    outlook = _outlook(bars, _with_policies(recipe, policies), recipe, stride)
    infinite = pl.col("check") == "feature_not_finite"
    findings = pl.concat([findings, outlook.findings.filter(infinite)])
    runs = [*runs, *(table.filter(infinite) for table in outlook.runs)]
    policies |= outlook.policies
    present = checked.bars.filter(pl.col(ROW).is_not_null())
    timetables = infer_timetables(present)
    return Inspection(
        source=str(source),
        form={} if raw is None else raw.form,
        rows=bars.height if raw is None else raw.frame.height,
        bars=bars.height,
        columns=() if raw is None else _columns(raw),
        assets=_assets(present, timetables),
        **_times(present, timetables),
        findings=_described(findings, runs, bars, numbers, recipe.checks.policies),
        features=outlook.features,
        windows=outlook.windows,
        obstacles=outlook.obstacles,
        overrides=(
            *(f"data.checks.policies.{name}={policies[name]}" for name in CHECKS if name in policies),
            *outlook.overrides,
        ),
    )


def _loudest(check: str) -> Policy:
    """Return the policy under which a check counts its bars and stops nothing."""
    policies = CHECKS[check].policies
    return next(policy for policy in ("warn", "mask", "drop") if policy in policies)


def _with_policies(recipe: Recipe, policies: Mapping[str, Policy]) -> Recipe:
    checks = copy(recipe.checks)
    merged: dict[str, Policy] = {**recipe.checks.policies, **policies}
    checks.policies = merged
    return replace(recipe, checks=checks)


# ---- columns and times ----------------------------------------------------------------------------------------------


def _columns(raw: RawTable) -> tuple[Column, ...]:
    """Name the part that each column of the file plays."""
    found = raw.table.find(raw.columns, raw.where)
    parts = {column: part for part, column in found.items()}
    if raw.table.is_wide(found):
        parts |= {name: f"close of {name}" for name in raw.columns if name not in parts and raw.table.keeps(name)}
    return tuple(Column(name, parts.get(name, "not used")) for name in raw.columns)


def _row_numbers(raw: RawTable | None, bars: pl.DataFrame) -> pl.Series | None:
    """Return the row of the file of each bar, counted from 1; None where a row is not a bar."""
    from refold.data.bars.table import ROW as NUMBER

    if raw is None or raw.frame.height != bars.height or NUMBER not in raw.frame.columns:
        return None
    return raw.frame[NUMBER] + raw.table.cells.first_row


def _assets(bars: pl.DataFrame, timetables: Mapping[str, Timetable | None]) -> tuple[dict[str, Any], ...]:
    """Describe the bars of each asset: how many, from when to when, how often."""
    each = bars.group_by("asset", maintain_order=True).agg(
        pl.len().alias("bars"), pl.col("timestamp").min().alias("first"), pl.col("timestamp").max().alias("last")
    )
    assets = []
    for asset, count, first, last in each.iter_rows():
        timetable = timetables.get(str(asset))
        interval = "unknown" if timetable is None else timetable.interval if timetable.regular else "irregular"
        assets.append(
            {"asset": str(asset), "bars": count, "first": str(first), "last": str(last), "interval": interval}
        )
    return tuple(assets)


def _times(bars: pl.DataFrame, timetables: Mapping[str, Timetable | None]) -> dict[str, Any]:
    """Describe the times of all bars: span, time zone, and how often and at which hours they come."""
    times = bars["timestamp"]
    zone = getattr(times.dtype, "time_zone", None)
    none = "none: days" if times.dtype == pl.Date else "none: times are taken as they are written"
    return {
        "first": str(times.min()),
        "last": str(times.max()),
        "time_zone": zone or none,
        "sessions": tuple(describe(timetables)),
    }


# ---- findings -------------------------------------------------------------------------------------------------------


def _described(
    findings: pl.DataFrame,
    runs: Sequence[pl.DataFrame],
    bars: pl.DataFrame,
    numbers: pl.Series | None,
    policies: Mapping[str, Policy],
) -> tuple[Finding, ...]:
    """Describe the findings of each check, with the first runs of faulty bars.

    Args:
        findings: one row per check and asset.
        runs: of faulty bars; see `refold.data.bars.findings.FaultyRuns`.
        bars: canonical.
        numbers: row of the file of each bar; None if it is not known.
        policies: check -> policy.
    """
    described = []
    for (check,), found in findings.group_by("check", maintain_order=True):
        own = pl.concat(table for table in runs if table.height and table["check"][0] == check)
        first = own.sort("first", maintain_order=True, nulls_last=True).head(EXAMPLES)
        described.append(
            Finding(
                check=str(check),
                complaint=CHECKS[str(check)].complaint,
                policy=policies[str(check)],
                bars=int(found["bars"].sum()),
                assets=found.height,
                examples=tuple(_example(run, bars, numbers) for run in first.iter_rows(named=True)),
            )
        )
    return tuple(described)


def _example(run: Mapping[str, Any], bars: pl.DataFrame, numbers: pl.Series | None) -> str:
    """Name the first bar of a run of faulty ones, with its row in the file and its values."""
    several = f" to {run['end']}, {run['bars']} bars" if run["bars"] > 1 else ""
    name = f"{run['asset']} {run['start']}{several}"
    if run["check"] == "gap" or run["first"] is None:
        return name
    row = bars.row(run["first"], named=True)
    number = "" if numbers is None else f"row {numbers[run['first']]}, "
    values = ", ".join(
        f"{key} {'empty' if value is None else value}"
        for key, value in row.items()
        if key not in ("timestamp", "asset")
    )
    return f"{number}{name}: {values}"


# ---- how it would train ---------------------------------------------------------------------------------------------


class _Outlook(NamedTuple):
    """How a table would train: features, windows, what stands against it, and the settings that mend it."""

    features: tuple[str, ...]
    windows: dict[str, int]
    obstacles: tuple[str, ...]
    overrides: tuple[str, ...]
    policies: dict[str, Policy]
    findings: pl.DataFrame
    runs: Sequence[pl.DataFrame]


def _outlook(bars: pl.DataFrame, mended: Recipe, recipe: Recipe, stride: int) -> _Outlook:
    """Count the windows of each part under the policies that let the table train."""
    lenient = mended
    if recipe.checks.policies["feature_not_finite"] == "error":
        lenient = _with_policies(mended, {"feature_not_finite": "mask"})
    empty: dict[str, int] = dict.fromkeys(PARTS, 0)
    chosen = recipe.entries is None
    try:
        columns = value_columns(bars.columns, recipe.checks.kind)
        recipe, lenient = recipe.resolved(columns), lenient.resolved(columns)
        table = feature_table(bars.with_row_index(ROW), lenient, None)
    except DataError as error:
        return _Outlook(recipe.features, empty, (str(error),), (), {}, pl.DataFrame(schema=FINDINGS), ())
    table = panel_table([table], recipe) if recipe.layout == "panel" else table
    infinite = "feature_not_finite" in table.findings["check"]
    policies: dict[str, Policy] = {"feature_not_finite": "mask"} if infinite and lenient is not mended else {}
    overrides: tuple[str, ...] = ()
    obstacles: list[str] = []
    windows, train = _windows(table, recipe, recipe.window_size, stride)
    if not all(windows.values()):
        for size in (size for size in _WINDOWS if size < recipe.window_size):
            fewer, train = _windows(table, recipe, size, stride)
            if all(fewer.values()):
                windows, overrides = fewer, (f"data.window_size={size}",)
                break
        else:
            obstacles.append(
                f"no window size leaves windows for all parts: {table.rows.present.sum():,} bars have features"
            )
    constant = [name for name, spread in zip(table.columns, _spread(table, train), strict=True) if spread == 0]
    kept = tuple(name for name in recipe.features if name not in constant)
    if constant and recipe.layout == "per_asset" and kept:
        # chosen features that are constant are left out by training itself
        overrides = overrides if chosen else (*overrides, f"data.features=[{','.join(kept)}]")
    elif constant and not obstacles:
        obstacles.append(f"{', '.join(constant[:12])}: constant on the training rows")
    return _Outlook(table.columns, windows, tuple(obstacles), overrides, policies, table.findings, table.runs)


def _windows(table: FeatureTable, recipe: Recipe, size: int, stride: int) -> tuple[dict[str, int], np.ndarray]:
    """Count the windows of a size in each part, and return the rows that the scale would be fitted to."""
    rows, calendar = table.rows, table.checked.calendar
    gap = (size - 1) + (table.lookback - 1) + recipe.split.embargo
    intervals = divide(recipe.split, recipe.fold, calendar, table.checked.occurs)
    segments = rows.segments(rows.usable(min(recipe.max_masked, size - 1)), intervals, gap)
    counts = {part: int(np.maximum(0, (segments[part][:, 1] - size) // stride + 1).sum()) for part in PARTS}
    train = rows_of({"train": segments["train"]})
    return counts, train[rows.present[train]]


def _spread(table: FeatureTable, train: np.ndarray) -> Sequence[float]:
    """Measure the range of each column on the training rows; that of a relative one is not known, and not 0."""
    if not len(train):
        return [1.0] * len(table.columns)
    spread = np.ptp(table.rows.values[train], axis=0)
    spread[list(table.relative)] = 1.0
    return spread.tolist()
