"""Look at a table before any training: what its columns are, what the checks find, and how it would train.

All of this is done without torch.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import polars as pl

from refold.data.bars.dates import moment_in_words
from refold.data.bars.entries import choose, columns_of, usable_columns
from refold.data.bars.expected import Timetables
from refold.data.bars.findings import CHECKS, ROW, Policy
from refold.data.bars.intervals import describe_timetables
from refold.data.bars.market import in_order
from refold.data.bars.series_columns import HEAD
from refold.data.bars.table import value_columns
from refold.data.bars.timetable import Timetable
from refold.data.feature_table import feature_table
from refold.data.outlook import Outlook, named, shorter, without_constants
from refold.data.recipe import Recipe
from refold.data.scale_choice import choose_scale
from refold.data.sources.source import RawTable, Source, Tabular
from refold.data.windows.split import PARTS
from refold.errors import DataError

EXAMPLES = 3
"""Faulty bars that are shown of each check."""

_MENDING: dict[str, Policy] = {"missing_timestamp": "drop", "duplicate": "drop"}
"""Check -> policy that lets a table train, where it is not mask."""


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
        scale: by which bars they would be scaled, as data.scale names it.
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
    scale: str
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
    timetables, mixed = _intervals(bars, recipe)
    recipe = replace(recipe, checks=recipe.checks.knowing(timetables))
    heard = _with_policies(recipe, {name: _loudest(name) for name in CHECKS})
    chosen, unread = recipe.entries is None, list[str]()
    try:
        recipe = _resolved(recipe, bars)
        if recipe.checks.kind == "series":  # as in training, what no feature is made of is not checked
            read = columns_of(recipe.entries or ())
            unread = [name for name in value_columns(bars.columns, "series") if name not in read]
            bars = bars.drop(unread)
        table = feature_table(bars.with_row_index(ROW), _like(heard, recipe), None)
        checked, obstacle = table.checked, ""
    except DataError as error:
        table, obstacle = None, str(error)
        checked = heard.checks.run(bars.with_row_index(ROW))
    findings, runs = pl.concat([mixed, checked.table]), list(checked.runs)
    policies: dict[str, Policy] = {
        name: _MENDING.get(name, "mask" if "mask" in CHECKS[name].policies else _loudest(name))
        for name in findings["check"].unique()
        if recipe.checks.policies[name] == "error"
    }
    outlook = Outlook(recipe.features, dict.fromkeys(PARTS, 0), (obstacle,), ())
    if table is not None:
        used, mended = _like(heard, recipe), _with_policies(recipe, policies)
        if any(mended.checks.policies[name] != _loudest(name) for name in findings["check"].unique()):
            lenient: dict[str, Policy] = {"feature_not_finite": heard.checks.policies["feature_not_finite"]}
            used = _with_policies(mended, lenient)
            table = feature_table(bars.with_row_index(ROW), used, None)
        infinite = pl.col("check") == "feature_not_finite"
        found = table.findings.filter(infinite)
        findings, runs = pl.concat([findings, found]), [*runs, *(run.filter(infinite) for run in table.runs)]
        if found.height and recipe.checks.policies["feature_not_finite"] == "error":
            policies["feature_not_finite"] = "mask"
        outlook = without_constants(bars, used, recipe, stride, table)
        if not chosen and len(outlook.features) < len(recipe.features) and recipe.layout == "per_asset":
            outlook = outlook._replace(overrides=(named(outlook), *outlook.overrides))
        if outlook.obstacles and chosen:
            outlook = shorter(bars, used, recipe, stride) or outlook
    if no_prices := _doubt(findings, bars, recipe):
        outlook = outlook._replace(obstacles=(no_prices,))
    left_out = dict.fromkeys((name for name in recipe.features if name not in outlook.features), "constant, not used")
    left_out |= dict.fromkeys(unread, "empty, not used")
    present = checked.bars.filter(pl.col(ROW).is_not_null())
    return Inspection(
        source=str(source),
        form={} if raw is None else raw.form,
        rows=bars.height if raw is None else raw.frame.height,
        bars=bars.height,
        columns=() if raw is None else _columns(raw, left_out if chosen else {}),
        assets=_assets(present, timetables.of),
        **_times(present, timetables.of),
        findings=_described(findings, runs, bars, numbers, recipe.checks.policies),
        features=outlook.features,
        scale=recipe.scale or "pooled",
        windows=outlook.windows,
        obstacles=outlook.obstacles,
        overrides=(
            *(f"data.checks.policies.{name}={policies[name]}" for name in CHECKS if name in policies),
            *outlook.overrides,
        ),
    )


def _intervals(bars: pl.DataFrame, recipe: Recipe) -> tuple[Timetables, pl.DataFrame]:
    """Infer how often the bars of each asset come, and list the assets whose interval is not that of most."""
    whole = in_order(bars.filter(pl.all_horizontal(pl.col("timestamp", "asset").is_not_null())))
    counts = dict(whole.group_by("asset", maintain_order=True).len().iter_rows())
    timetables = recipe.checks.timetables_of(whole.lazy(), len(counts))
    checks = _with_policies(recipe, {"mixed_interval": "warn"}).checks
    return timetables, checks.compare(timetables, counts)


def _like(heard: Recipe, recipe: Recipe) -> Recipe:
    """Return a recipe whose policies stop nothing, with the features and the scale of another."""
    return replace(heard, entries=recipe.entries, scale=recipe.scale)


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


def _columns(raw: RawTable, left_out: Mapping[str, str]) -> tuple[Column, ...]:
    """Name the part that each column of the file plays, or why one of numbers is left out."""
    if raw.table.kind == "series":
        series = raw.table.settled(raw.frame.head(HEAD), raw.where).series
        assert series is not None
        parts = {column: part for part, column in series.keys.items()} | dict.fromkeys(series.values, "value")
        parts |= left_out
    else:
        present = [name for name in raw.columns if name in raw.frame.columns]
        found = raw.table.find(present, raw.where)
        parts = {column: part for part, column in found.items()}
        if raw.table.is_wide(found):
            parts |= {name: f"close of {name}" for name in present if name not in parts and raw.table.keeps(name)}
    parts |= dict.fromkeys(raw.joined, "timestamp")
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
        span = {"first": moment_in_words(first), "last": moment_in_words(last)}
        assets.append({"asset": str(asset), "bars": count, **span, "interval": interval})
    return tuple(assets)


def _times(bars: pl.DataFrame, timetables: Mapping[str, Timetable | None]) -> dict[str, Any]:
    """Describe the times of all bars: span, time zone, and how often and at which hours they come."""
    times = bars["timestamp"]
    zone = getattr(times.dtype, "time_zone", None)
    none = "none: days" if times.dtype == pl.Date else "none: times are taken as they are written"
    return {
        "first": moment_in_words(times.min()),
        "last": moment_in_words(times.max()),
        "time_zone": zone or none,
        "sessions": tuple(describe_timetables(timetables)),
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
        own = [table for table in runs if table.height and table["check"][0] == check]
        if own:
            first = pl.concat(own).sort("first", maintain_order=True, nulls_last=True).head(EXAMPLES)
            examples = tuple(_example(run, bars, numbers) for run in first.iter_rows(named=True))
        else:  # it is about whole assets
            first = found.select("asset", "bars").head(EXAMPLES)
            examples = tuple(f"{asset}, {count:,} bars" for asset, count in first.iter_rows())
        described.append(
            Finding(
                check=str(check),
                complaint=CHECKS[str(check)].complaint,
                policy=policies[str(check)],
                bars=int(found["bars"].sum()),
                assets=found.height,
                examples=examples,
            )
        )
    return tuple(described)


def _example(run: Mapping[str, Any], bars: pl.DataFrame, numbers: pl.Series | None) -> str:
    """Name the first bar of a run of faulty ones, with its row in the file and its values."""
    several = f" to {moment_in_words(run['end'])}, {run['bars']} bars" if run["bars"] > 1 else ""
    name = f"{run['asset']} {moment_in_words(run['start'])}{several}"
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


def _resolved(recipe: Recipe, bars: pl.DataFrame) -> Recipe:
    """Choose features and scale as training would, if the settings do not name them."""
    kind = recipe.checks.kind
    columns = value_columns(bars.columns, kind)
    if recipe.entries is None:
        recipe = replace(recipe, entries=choose(usable_columns(bars.lazy(), columns, kind), kind))
    recipe = recipe.resolved(columns)
    return replace(recipe, scale=recipe.scale or choose_scale(bars["asset"].drop_nulls().n_unique(), recipe))


def _doubt(findings: pl.DataFrame, bars: pl.DataFrame, recipe: Recipe) -> str:
    """Say that a table holds no prices, if a twentieth of its values is 0 or below; else return an empty text."""
    found = int(findings.filter(pl.col("check") == "non_positive")["bars"].sum())
    if recipe.checks.kind == "series" or 20 * found < bars.height:
        return ""
    return f"{found:,} of {bars.height:,} bars are 0 or below: are these prices? data=series reads any numbers"
