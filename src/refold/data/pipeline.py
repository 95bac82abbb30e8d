"""From bars to what windows are cut from: checks, features, parts, scale. Pure functions of their arguments.

Letters: N bars, F features, A assets, M moments of the calendar.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch

from refold.data.bars.checks import Checked, Checks, unbroken
from refold.data.bars.features import Feature, find_all, longest_lookback
from refold.data.bars.findings import EVERY_ROW, merge, summary
from refold.data.bars.market import add_surveys, survey
from refold.data.long.spool import Spool
from refold.data.windows.scaler import Scaler, Statistics
from refold.data.windows.split import PARTS, Interval, Part, Split, cut, timeline
from refold.data.windows.views import Series
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


def whole(
    bars: pl.DataFrame,
    recipe: Recipe,
    scaler: Scaler,
    market: pl.DataFrame | None = None,
    kept: slice | None = None,
) -> Whole:
    """All bars of a table as windows are cut from them, on a given scale: nothing is split, nothing is fitted.

    Args: bars: canonical. market: `checks.survey` of the whole table, where bars are a piece of it; None: of the bars.
        kept: rows that the findings are about; None: all.
    Raises: DataError: a check refuses the bars, or they lack a column that the features or the scale ask for; or a
        whole table has less than two bars.
    """
    counted = EVERY_ROW if kept is None else pl.col(ROW).is_between(kept.start, kept.stop, closed="left")
    single = _read(bars.with_row_index(ROW), recipe, market, counted)
    if market is None:
        _refuse_few(single.checked.bars.height)
    table = _side_by_side([single], recipe) if recipe.layout == "panel" else single
    rows, columns = table.rows, table.columns
    if len(columns) != len(scaler.mean):
        raise DataError(f"the data has {len(columns)} columns of features; the scale was fitted to {len(scaler.mean)}")
    usable = rows.present | _short_stretches(rows, recipe.max_masked)
    everything = [Interval("test", 0, int(rows.moment.max(initial=0)) + 1)]
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


def _read(bars: pl.DataFrame, recipe: Recipe, market: pl.DataFrame | None, counted: pl.Expr) -> _Table:
    """Checks, features, layout. Raises: DataError."""
    checked = recipe.checks.run(bars, market, counted)
    available = [name for name in checked.bars.columns if name not in ("timestamp", "asset", ROW)]
    features = find_all(recipe.features, available)
    rows, findings = _feature_rows(checked, features, recipe, counted)
    # not the categories of the column: of some of them a policy may have dropped every bar
    names = tuple(checked.bars["asset"].unique(maintain_order=True).to_list())
    relative = tuple(number for number, feature in enumerate(features) if feature.relative)
    return _Table(checked, rows, recipe.features, names, relative, longest_lookback(features), findings)


def _side_by_side(tables: Sequence[_Table], recipe: Recipe) -> _Table:
    """The table of a panel: all assets as one, called `panel`, with a row per moment. Raises: DataError."""
    names = [name for table in tables for name in table.names]
    columns = tuple(f"{asset}/{feature}" for asset in names for feature in recipe.features)
    width = len(recipe.features)
    relative = tuple(column for column in range(len(columns)) if column % width in tables[0].relative)
    if relative and recipe.min_assets < 1:
        raise DataError(
            f"data.min_assets is {recipe.min_assets}; it must be 1 for {columns[relative[0]]}, which is relative to "
            f"the window's first bar"
        )
    rows = _pivot([table.rows for table in tables], len(names), len(tables[0].checked.calendar), recipe.min_assets)
    return replace(tables[0], rows=rows, columns=columns, names=("panel",), relative=relative)


def _series(table: _Table, scaler: Scaler, segments: dict[Part, np.ndarray]) -> Series:
    """The table's values on a scale. Args: segments: those that windows will be cut from."""
    rows, calendar = table.rows, table.checked.calendar
    return Series(
        values=torch.from_numpy(_scaled(rows.values, scaler)),
        present=None if rows.present[_held(segments)].all() else torch.from_numpy(rows.present),
        times=calendar.to_physical().to_numpy()[rows.moment].astype(np.int64),
        time_dtype=calendar.dtype,
        close=None if rows.close is None else torch.from_numpy(rows.close),
        asset_names=table.names,
        asset_starts=np.flatnonzero(np.diff(rows.asset, prepend=-1)),
        relative=table.relative,
    )


Pieces = Sequence[Callable[[], pl.DataFrame]]
"""What loads a table of canonical bars, some whole assets at a time."""


def prepare(pieces: Pieces, recipe: Recipe, scaler: Scaler | None = None, folder: Path | None = None) -> Prepared:
    """Do it all.

    Args: pieces: of the table, in the order of the assets' names; several are read twice, first for what the market did
        as a whole. scaler: to scale by; None fits one to the training rows. folder: to build the arrays of the series
        in, so that no more than a piece of it is in memory; None: all of it is.
    Raises: DataError.
    """
    market = None if len(pieces) == 1 else add_surveys(survey(load()) for load in pieces)
    assembly = _Assembly(recipe, folder, fits=scaler is None)
    tables = (assembly.note(_read(load(), recipe, market, EVERY_ROW)) for load in pieces)
    for table in [_side_by_side(list(tables), recipe)] if recipe.layout == "panel" else tables:
        assembly.add(table)
    return assembly.finish(scaler)


class _Assembly:
    """A series with its parts, put together from one table after another.

    Args: folder: of its arrays; None: memory. fits: whether a scale is to be fitted.
    """

    def __init__(self, recipe: Recipe, folder: Path | None, *, fits: bool) -> None:
        self.recipe = recipe
        self.folder = folder
        self.fits = fits
        self.raw, self.present, self.times, self.close = map(self._spool, ("raw", "present", "times", "close"))
        self.digest = hashlib.blake2b(digest_size=6)
        self.findings: list[pl.DataFrame] = []
        self.bars, self.assets, self.longest, self.whole = 0, 0, 0, True
        self.names: list[str] = []
        self.starts: list[np.ndarray] = []
        self.segments: dict[Part, list[np.ndarray]] = {part: [] for part in PARTS}
        self.statistics = Statistics()
        self.spread: dict[int, tuple[float, int]] = {}

    def _spool(self, name: str) -> Spool:
        return Spool(self.folder and self.folder / f"{name}.npy")

    def note(self, table: _Table) -> _Table:
        """Take up what is told of bars, and let go of them."""
        bars = table.checked.bars
        self.findings.append(table.findings)
        self.bars += bars.height
        self.assets += len(table.names)
        update(self.digest, bars)
        return replace(table, checked=replace(table.checked, bars=bars.clear()))

    def add(self, table: _Table) -> None:
        """Take up features: to the arrays, to the parts and to the scale."""
        recipe, rows, calendar = self.recipe, table.rows, table.checked.calendar
        self.table = table
        self.gap = (recipe.window_size - 1) + (table.lookback - 1) + recipe.split.embargo
        self.intervals = recipe.split.intervals(calendar, recipe.fold)
        usable = rows.present | _short_stretches(rows, recipe.max_masked)
        where = {"asset": rows.asset, "run": rows.run, "moment": rows.moment, "usable": usable}
        segments = cut(**where, intervals=self.intervals, gap=self.gap)
        anywhere = cut(**where, intervals=[Interval("train", 0, len(calendar))], gap=0)["train"]
        self.longest = max(self.longest, int(anywhere[:, 1].max(initial=0)))
        self.whole &= bool(rows.present[_held(segments)].all())
        if self.fits:
            self._measure(rows, segments["train"], table.relative)
        self.names += table.names
        self.starts.append(self.raw.rows + np.flatnonzero(np.diff(rows.asset, prepend=-1)))
        for part in PARTS:
            self.segments[part].append(segments[part] + [self.raw.rows, 0])
        self.raw.add(rows.values)
        self.present.add(rows.present)
        self.times.add(calendar.to_physical().to_numpy()[rows.moment].astype(np.int64))
        if rows.close is not None:
            self.close.add(rows.close)

    def _measure(self, rows: _Rows, segments: np.ndarray, relative: tuple[int, ...]) -> None:
        """An asset at a time, so that the scale does not depend on the pieces."""
        train = np.concatenate([np.zeros(0, np.int64), *(np.arange(first, first + n) for first, n in segments)])
        train = train[rows.present[train]]
        for block in np.split(train, np.flatnonzero(np.diff(rows.asset[train])) + 1):
            self.statistics.add(rows.values[block])
        for column in relative:
            so_far = self.spread.get(column, (0.0, 0))
            self.spread[column] = _spread(rows, column, segments, self.recipe.window_size, so_far)

    def finish(self, scaler: Scaler | None) -> Prepared:
        """Scale. Raises: DataError: there are no windows, or no scale."""
        _refuse_few(self.bars)
        segments = {part: np.concatenate(pieces) for part, pieces in self.segments.items()}
        _refuse_empty(segments, self.longest, self.gap, self.recipe)
        findings, table = merge(self.findings), self.table
        scaler = scaler or self._scaler()
        values = self._spool("values")
        for block in self.raw:
            values.add(_scaled(block, scaler))
        self.raw.discard()
        calendar = table.checked.calendar
        series = Series(
            values=torch.from_numpy(values.array()),
            present=self._present(),
            times=self.times.array(),
            time_dtype=calendar.dtype,
            close=torch.from_numpy(self.close.array()) if self.close.rows else None,
            asset_names=tuple(self.names),
            asset_starts=np.concatenate(self.starts),
            relative=table.relative,
        )
        return Prepared(
            series=series,
            column_names=table.columns,
            scaler=scaler,
            segments=segments,
            gap_bars=self.gap,
            findings=findings,
            summary=_summary(self.bars, self.assets, calendar, self.intervals, self.gap, findings, self.recipe),
            fingerprint=self.digest.hexdigest(),
        )

    def _present(self) -> torch.Tensor | None:
        if not self.whole:
            return torch.from_numpy(self.present.array())
        self.present.discard()
        return None

    def _scaler(self) -> Scaler:
        scaler = self.statistics.scaler(self.table.columns)
        for column, (total, count) in self.spread.items():
            if total == 0.0:
                name = self.recipe.features[column % len(self.recipe.features)]
                raise DataError(
                    f"data.features has {name}, which is constant (0) on the training windows; a window must have at "
                    f"least 2 bars, and the price must move"
                )
            scaler.mean[column] = 0.0  # of log ratios to a bar of the window itself
            scaler.std[column] = math.sqrt(total / count)
        return scaler


def compute(bars: pl.DataFrame, features: Sequence[Feature], run: np.ndarray) -> pl.DataFrame:
    """The features of each bar, from bars of its own unbroken run only. Args: bars: sorted. run: (N,) number of it."""
    keyed = bars.with_columns(pl.Series("run", run))
    return keyed.select(feature.expression.over("run").alias(feature.name) for feature in features)


def _feature_rows(
    checked: Checked, features: Sequence[Feature], recipe: Recipe, counted: pl.Expr
) -> tuple[_Rows, pl.DataFrame]:
    """Features per asset, and all findings so far. A feature that is there and not finite is a fault of its own."""
    bars, policies = checked.bars, recipe.checks.policies
    asset = bars["asset"].rle_id().to_numpy().astype(np.int64)
    breaks = recipe.layout == "panel" or recipe.checks.calendar is not None
    run = unbroken(asset, checked.moment, holes_break=breaks)
    table = compute(bars, features, run)
    faulty = table.select(pl.any_horizontal(pl.all().is_not_null() & ~pl.all().is_finite())).to_series()
    findings = checked.table
    if faulty.any():
        keyed = pl.concat([bars, table], how="horizontal")
        names = [feature.name for feature in features]
        findings = pl.concat([findings, recipe.checks.features(keyed, faulty, names, counted)])
    values = table.to_numpy(writable=True)  # nulls become NaN
    present = np.isfinite(values).all(axis=1)
    values[~present] = np.nan
    broken = faulty.to_numpy() & (policies["feature_not_finite"] == "drop")
    close = bars["close"].cast(pl.Float32).to_numpy(writable=True) if "close" in bars.columns else None
    return _Rows(values, present, broken, run, asset, checked.moment, close), findings


def _pivot(pieces: Sequence[_Rows], assets: int, moments: int, min_assets: float) -> _Rows:
    """One row per moment: the features of all assets side by side, NaN for an asset without a bar then."""
    values = np.full((moments, assets, pieces[0].values.shape[1]), np.nan)
    first = 0
    for rows in pieces:
        values[rows.moment[rows.present], first + rows.asset[rows.present]] = rows.values[rows.present]
        first += int(rows.asset.max(initial=-1)) + 1
    there = np.isfinite(values[:, :, 0]).sum(axis=1)
    present = there >= max(1, min_assets * assets - 1e-9)
    values[~present] = np.nan
    one = np.zeros(moments, dtype=np.int64)
    return _Rows(
        values=values.reshape(moments, -1),
        present=present,
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


def _spread(
    rows: _Rows, column: int, segments: np.ndarray, window_size: int, so_far: tuple[float, int]
) -> tuple[float, int]:
    """Sum of squares of a relative column over windows, of its differences to their first bars, and their number."""
    values, (total, count) = rows.values[:, column], so_far
    for first, bars in segments.tolist():
        piece, windows = values[first : first + bars], max(0, bars - window_size + 1)
        for lag in range(window_size):
            squares = np.square(piece[lag : lag + windows] - piece[:windows])
            total, count = total + float(np.nansum(squares)), count + int(np.isfinite(squares).sum())
    return total, count


def _scaled(values: np.ndarray, scaler: Scaler) -> np.ndarray:
    """(N, C) float32, made a column at a time: no second float64 copy. What is absent, NaN, becomes 0."""
    scaled = np.zeros(values.shape, dtype=np.float32)
    for column, (mean, std) in enumerate(zip(scaler.mean.tolist(), scaler.std.tolist(), strict=True)):
        there = np.isfinite(values[:, column])
        scaled[there, column] = (values[there, column] - mean) / std
    return scaled


def _refuse_few(bars: int) -> None:
    if bars < 2:
        raise DataError(f"the data has {bars} usable row{'s' * (bars != 1)}; a window needs data.window_size bars")


def _refuse_empty(segments: dict[Part, np.ndarray], longest: int, gap: int, recipe: Recipe) -> None:
    """Raise a DataError if the window is longer than the longest run of bars, or a part holds no window."""
    T = recipe.window_size
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


def _summary(
    bars: int,
    assets: int,
    calendar: pl.Series,
    intervals: list[Interval],
    gap: int,
    findings: pl.DataFrame,
    recipe: Recipe,
) -> str:
    layout = "one series each" if recipe.layout == "per_asset" else "side by side in one series"
    return (
        f"{bars:,} bars of {assets} asset{'s' * (assets != 1)}, {layout}, {calendar[0]} to {calendar[-1]}\n"
        f"features: {', '.join(recipe.features)}\n"
        f"checks: {summary(findings)}\n"
        f"{timeline(intervals, calendar, gap)}"
    )


def update(digest: "hashlib._Hash", bars: pl.DataFrame) -> None:
    """Feed all values of sorted bars to a hash, for "was this trained on the same data?", an asset after the other."""
    starts = bars["asset"].rle_id().to_numpy()
    starts = np.flatnonzero(np.diff(starts, prepend=-1)).tolist()
    for start, end in pairwise([*starts, bars.height]):
        digest.update(str(bars["asset"][start]).encode())
        for column in bars[start:end].drop("asset"):
            digest.update(f"{column.name} {column.dtype.base_type()}".encode())
            digest.update(np.ascontiguousarray(column.to_physical().to_numpy()))
