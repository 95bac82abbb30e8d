"""From bars to what windows are cut from: checks, features, parts, scale. Pure functions of their arguments.

Letters: N bars, F features, A assets, M moments of the calendar.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import torch

from refold.data import checks as checking
from refold.data.checks import Checked, Checks
from refold.data.features import Feature, find_all, longest_lookback
from refold.data.scaler import Scaler
from refold.data.split import PARTS, Interval, Part, Split, cut, timeline
from refold.data.windows import Series
from refold.errors import DataError

Layout = Literal["per_asset", "panel"]
ROW = "row"
"""Column that a table's row numbers travel in while it is checked, sorted and given bars for its holes."""


@dataclass(frozen=True)
class Recipe:
    """How bars become windows. Everything here, with the bars, decides what comes out.

    layout: "per_asset" makes each asset a series of F features, "panel" all assets one series of A x F. max_masked:
    bars without values that windows may hold in a row. min_assets: share of the assets that a moment of a panel needs.
    """

    features: tuple[str, ...]
    layout: Layout
    min_assets: float
    window_size: int
    max_masked: int
    split: Split
    fold: int
    checks: Checks


@dataclass(frozen=True)
class Prepared:
    """What windows are cut from.

    segments: part -> (S, 2) first row and number of rows. gap_bars: dropped between parts. findings: what the checks
    found. summary: rows, assets, dates and parts in words. fingerprint: hash of the bars.
    """

    series: Series
    column_names: tuple[str, ...]
    scaler: Scaler
    segments: dict[Part, np.ndarray]
    gap_bars: int
    findings: pl.DataFrame
    summary: str
    fingerprint: str


@dataclass(frozen=True)
class _Rows:
    """Features in the order of the series. values: (N, C) float64, NaN where there is none. broken: (N,) bool, bars
    that end a run. The other arrays are (N,) too."""

    values: np.ndarray
    present: np.ndarray
    broken: np.ndarray
    run: np.ndarray
    asset: np.ndarray
    moment: np.ndarray
    close: np.ndarray | None


@dataclass(frozen=True)
class _Table:
    """Bars that passed the checks, and their features. names: the assets of the series, columns: of its values.
    lookback: bars that a row depends on. relative: columns that a window takes its first bar off."""

    checked: Checked
    rows: _Rows
    columns: tuple[str, ...]
    names: tuple[str, ...]
    relative: tuple[int, ...]
    lookback: int
    findings: pl.DataFrame


@dataclass(frozen=True)
class Whole:
    """A whole table as one series, without parts.

    segments: (S, 2) first row and number of rows of each unbroken run. origin: (R, K) row of the table that each row of
    the series was made from, -1 for none; K is 1, or the assets of a panel. columns: names of the series' columns.
    """

    series: Series
    segments: np.ndarray
    origin: np.ndarray
    columns: tuple[str, ...]
    findings: pl.DataFrame


def whole(bars: pl.DataFrame, recipe: Recipe, scaler: Scaler, market: pl.DataFrame | None = None) -> Whole:
    """All bars of a table as windows are cut from them, on a given scale: nothing is split, nothing is fitted.

    Args: bars: canonical. market: `checks.survey` of the whole table, where bars are a piece of it; None: of the bars.
    Raises: DataError: a check refuses the bars, or they lack a column that the features or the scale ask for.
    """
    table = _read(bars.with_row_index(ROW), recipe, market)
    _refuse_few(table.checked.bars.height)
    rows, columns = table.rows, table.columns
    if len(columns) != len(scaler.mean):
        raise DataError(f"the data has {len(columns)} columns of features; the scale was fitted to {len(scaler.mean)}")
    usable = rows.present | _short_stretches(rows, recipe.max_masked)
    everything = [Interval("test", 0, int(rows.moment.max()) + 1)]
    segments = cut(asset=rows.asset, run=rows.run, moment=rows.moment, usable=usable, intervals=everything, gap=0)
    number = table.checked.bars[ROW].cast(pl.Int64).fill_null(-1).to_numpy()  # bars that fill a hole have none
    origin = number[:, None]
    if recipe.layout == "panel":
        origin = np.full((len(rows.moment), table.checked.bars["asset"].n_unique()), -1)
        origin[table.checked.moment, table.checked.bars["asset"].rle_id().to_numpy()] = number
    return Whole(
        series=_series(table, scaler, segments),
        segments=segments["test"],
        origin=origin,
        columns=columns,
        findings=table.findings,
    )


def _read(bars: pl.DataFrame, recipe: Recipe, market: pl.DataFrame | None) -> _Table:
    """Checks, features, layout. Raises: DataError."""
    checked = recipe.checks.run(bars, market)
    available = [name for name in checked.bars.columns if name not in ("timestamp", "asset", ROW)]
    features = find_all(recipe.features, available)
    rows, findings = _feature_rows(checked, features, recipe)
    # not the categories of the column: of some of them a policy may have dropped every bar
    names = tuple(checked.bars["asset"].unique(maintain_order=True).to_list())
    columns = recipe.features
    if recipe.layout == "panel":
        rows = _pivot(rows, len(names), len(checked.calendar), recipe.min_assets)
        columns = tuple(f"{asset}/{feature}" for asset in names for feature in recipe.features)
        names = ("panel",)
    relative = tuple(c for c in range(len(columns)) if features[c % len(features)].relative)
    if relative and recipe.layout == "panel" and recipe.min_assets < 1:
        raise DataError(
            f"data.min_assets is {recipe.min_assets}; it must be 1 for {columns[relative[0]]}, which is relative to "
            f"the window's first bar"
        )
    return _Table(checked, rows, tuple(columns), names, relative, longest_lookback(features), findings)


def _series(table: _Table, scaler: Scaler, segments: dict[Part, np.ndarray]) -> Series:
    """The table's values on a scale. Args: segments: those that windows will be cut from."""
    rows, calendar = table.rows, table.checked.calendar
    return Series(
        values=_scaled(rows, scaler),
        present=None if rows.present[_held(segments)].all() else torch.from_numpy(rows.present),
        times=calendar.to_physical().to_numpy()[rows.moment].astype(np.int64),
        time_dtype=calendar.dtype,
        close=None if rows.close is None else torch.from_numpy(rows.close),
        asset_names=table.names,
        asset_starts=np.flatnonzero(np.diff(rows.asset, prepend=-1)),
        relative=table.relative,
    )


def prepare(bars: pl.DataFrame, recipe: Recipe, scaler: Scaler | None = None) -> Prepared:
    """Do it all. Args: bars: canonical. scaler: to scale by; None fits one to the training rows. Raises: DataError."""
    table = _read(bars, recipe, None)
    _refuse_few(table.checked.bars.height)
    checked, rows, columns, relative = table.checked, table.rows, table.columns, table.relative
    gap = (recipe.window_size - 1) + (table.lookback - 1) + recipe.split.embargo
    intervals = recipe.split.intervals(checked.calendar, recipe.fold)
    usable = rows.present | _short_stretches(rows, recipe.max_masked)
    segments = cut(asset=rows.asset, run=rows.run, moment=rows.moment, usable=usable, intervals=intervals, gap=gap)
    _refuse_empty(segments, rows, usable, gap, recipe)
    if scaler is None:
        train = np.concatenate([np.arange(first, first + count) for first, count in segments["train"]])
        scaler = Scaler.fit(torch.from_numpy(rows.values[train[rows.present[train]]]), columns)
        for column in relative:
            scaler.mean[column] = 0.0  # of log ratios to a bar of the window itself
            scaler.std[column] = _spread(rows, column, segments["train"], recipe)
    return Prepared(
        series=_series(table, scaler, segments),
        column_names=columns,
        scaler=scaler,
        segments=segments,
        gap_bars=gap,
        findings=table.findings,
        summary=_summary(checked, intervals, gap, table.findings, recipe),
        fingerprint=fingerprint(checked.bars),
    )


def compute(bars: pl.DataFrame, features: Sequence[Feature], run: np.ndarray) -> pl.DataFrame:
    """The features of each bar, from bars of its own unbroken run only. Args: bars: sorted. run: (N,) number of it."""
    keyed = bars.with_columns(pl.Series("run", run))
    return keyed.select(feature.expression.over("run").alias(feature.name) for feature in features)


def _feature_rows(checked: Checked, features: Sequence[Feature], recipe: Recipe) -> tuple[_Rows, pl.DataFrame]:
    """Features per asset, and all findings so far. A feature that is there and not finite is a fault of its own."""
    bars, policies = checked.bars, recipe.checks.policies
    asset = bars["asset"].rle_id().to_numpy().astype(np.int64)
    breaks = recipe.layout == "panel" or recipe.checks.calendar is not None
    run = checking.unbroken(asset, checked.moment, holes_break=breaks)
    table = compute(bars, features, run)
    faulty = table.select(pl.any_horizontal(pl.all().is_not_null() & ~pl.all().is_finite())).to_series()
    findings = checked.table
    if faulty.any():
        keyed = pl.concat([bars, table], how="horizontal")
        findings = pl.concat([findings, recipe.checks.features(keyed, faulty, [feature.name for feature in features])])
    values = table.to_numpy()  # nulls become NaN
    present = np.isfinite(values).all(axis=1)
    broken = faulty.to_numpy() & (policies["feature_not_finite"] == "drop")
    close = bars["close"].cast(pl.Float32).to_numpy(writable=True) if "close" in bars.columns else None
    return _Rows(values, present, broken, run, asset, checked.moment, close), findings


def _pivot(rows: _Rows, assets: int, moments: int, min_assets: float) -> _Rows:
    """One row per moment: the features of all assets side by side, NaN for an asset without a bar then."""
    width = rows.values.shape[1]
    values = np.full((moments, assets, width), np.nan)
    values[rows.moment[rows.present], rows.asset[rows.present]] = rows.values[rows.present]
    there = np.isfinite(values[:, :, 0]).sum(axis=1)
    one = np.zeros(moments, dtype=np.int64)
    return _Rows(
        values=values.reshape(moments, assets * width),
        present=(there >= max(1, min_assets * assets - 1e-9)),
        broken=np.zeros(moments, dtype=bool),
        run=one,
        asset=one,
        moment=np.arange(moments),
        close=None,
    )


def _short_stretches(rows: _Rows, longest: int) -> np.ndarray:
    """(N,) absent bars in stretches of at most `longest`, with a present bar of the same run on both sides."""
    number = np.arange(len(rows.present))
    before = np.maximum.accumulate(np.where(rows.present, number, -1))
    after = np.minimum.accumulate(np.where(rows.present, number, len(number))[::-1])[::-1]
    inside = ~rows.present & (before >= 0) & (after < len(number)) & (after - before - 1 <= longest)
    before, after = before[inside], after[inside]
    breaks = np.cumsum(rows.broken)
    short = inside.copy()
    short[inside] = (rows.run[before] == rows.run[after]) & (breaks[before] == breaks[after])
    return short


def _held(segments: dict[Part, np.ndarray]) -> np.ndarray:
    """All rows of all parts."""
    pieces = [np.arange(first, first + count) for part in PARTS for first, count in segments[part]]
    return np.concatenate([np.zeros(0, dtype=np.int64), *pieces])


def _spread(rows: _Rows, column: int, segments: np.ndarray, recipe: Recipe) -> float:
    """Root mean square of a relative column over all training windows: of its differences to their first bars."""
    values = np.where(rows.present, rows.values[:, column], np.nan)
    total, count = 0.0, 0
    for first, bars in segments.tolist():
        piece, windows = values[first : first + bars], max(0, bars - recipe.window_size + 1)
        for lag in range(recipe.window_size):
            squares = np.square(piece[lag : lag + windows] - piece[:windows])
            total, count = total + float(np.nansum(squares)), count + int(np.isfinite(squares).sum())
    if total == 0.0:
        name = recipe.features[column % len(recipe.features)]
        raise DataError(
            f"data.features has {name}, which is constant (0) on the training windows; a window must have at least 2 "
            f"bars, and the price must move"
        )
    return math.sqrt(total / count)


def _scaled(rows: _Rows, scaler: Scaler) -> torch.Tensor:
    """(N, C) float32, made a column at a time: no second float64 copy. Absent bars and missing assets are 0."""
    scaled = np.zeros(rows.values.shape, dtype=np.float32)
    for column, (mean, std) in enumerate(zip(scaler.mean.tolist(), scaler.std.tolist(), strict=True)):
        values = (rows.values[:, column] - mean) / std
        there = rows.present & np.isfinite(values)
        scaled[there, column] = values[there]
    return torch.from_numpy(scaled)


def _refuse_few(bars: int) -> None:
    if bars < 2:
        raise DataError(f"the data has {bars} usable row{'s' * (bars != 1)}; a window needs data.window_size bars")


def _refuse_empty(segments: dict[Part, np.ndarray], rows: _Rows, usable: np.ndarray, gap: int, recipe: Recipe) -> None:
    """Raise a DataError if the window is longer than every run of bars, or a part holds no window."""
    T = recipe.window_size
    whole = Interval("train", 0, int(rows.moment.max()) + 1)
    pieces = cut(asset=rows.asset, run=rows.run, moment=rows.moment, usable=usable, intervals=[whole], gap=0)["train"]
    longest = int(pieces[:, 1].max(initial=0))
    if longest < T:
        remedy = f"choose data.window_size at most {longest}, " if longest else ""
        raise DataError(
            f"data.window_size is {T}; the longest run of bars without a hole, after the look-back of the features, is "
            f"{longest}: {remedy}choose features with a shorter look-back, or bring more bars"
        )
    for part in PARTS:
        longest = int(segments[part][:, 1].max(initial=0))
        if longest < T:
            remedy = f"choose data.window_size at most {longest}, " if longest else ""
            raise DataError(
                f"data.split leaves no windows for {part}: its longest run has {longest} bars, after the {gap} "
                f"that are dropped between parts, and data.window_size is {T}; {remedy}give {part} a larger part in "
                f"data.split, or bring more bars"
            )


def _summary(checked: Checked, intervals: list[Interval], gap: int, findings: pl.DataFrame, recipe: Recipe) -> str:
    bars, calendar = checked.bars, checked.calendar
    assets = bars["asset"].n_unique()
    layout = "one series each" if recipe.layout == "per_asset" else "side by side in one series"
    return (
        f"{bars.height:,} bars of {assets} asset{'s' * (assets != 1)}, {layout}, {calendar[0]} to {calendar[-1]}\n"
        f"features: {', '.join(recipe.features)}\n"
        f"checks: {checking.summary(findings)}\n"
        f"{timeline(intervals, calendar, gap)}"
    )


def fingerprint(bars: pl.DataFrame) -> str:
    """Twelve hexadecimal digits of a hash of all values, for "was this trained on the same data?"."""
    digest = hashlib.blake2b("\n".join(bars["asset"].unique(maintain_order=True)).encode(), digest_size=6)
    for column in bars:
        digest.update(f"{column.name} {column.dtype.base_type()}".encode())
        values = column.to_physical()
        digest.update(np.ascontiguousarray(values.to_numpy()))
    return digest.hexdigest()
