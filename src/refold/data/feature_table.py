"""Features of checked bars, in the order of the series that windows are cut from.

Letters: N rows of a series, F features, A assets, C columns of a series (F, or A x F of a panel).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from refold.data.bars.checks import Checked, unbroken
from refold.data.bars.entries import find_all
from refold.data.bars.features import Feature, longest_lookback
from refold.data.bars.findings import EVERY_ROW, Findings
from refold.data.bars.table import LABEL, OWN, value_columns
from refold.data.recipe import Recipe
from refold.data.windows.split import Interval, Part, cut
from refold.errors import DataError

if TYPE_CHECKING:
    from refold.data.windows.scaler import Scaler
    from refold.data.windows.views import Series

RUN = f"{OWN}run"
"""Column with the number of the unbroken run of each bar, while features are computed."""
LONG = 1000
"""Rows of a run from which on its features are computed on a slice of its own."""
BLOCK = 1 << 16
"""Rows that are scaled at once."""


@dataclass(frozen=True)
class FeatureRows:
    """Features as arrays.

    Attributes:
        values: (N, C) float64, NaN where there is none.
        present: (N,) bool, whether the row has values.
        broken: (N,) bool, whether the row ends a run of bars.
        run: (N,) int64, number of the unbroken run of bars.
        hole: (N,) bool, whether bars are missing right before the row.
        bridged: (N,) bool, whether the row is the first of a session that has no values because its features span the
            night: windows run on over it.
        asset: (N,) int64, number of the asset.
        moment: (N,) int64, position on the calendar.
        close: (N,) float32, or None if the bars have no close.
        label: (N,) int8, 1 where a bar is known to be anomalous; of a panel (N, A). None if the bars have no labels.
        moving: (N, 2 C) float32, mean and standard deviation of the bars before each row; None if the scale needs none.
    """

    values: np.ndarray
    present: np.ndarray
    broken: np.ndarray
    run: np.ndarray
    hole: np.ndarray
    bridged: np.ndarray
    asset: np.ndarray
    moment: np.ndarray
    close: np.ndarray | None
    label: np.ndarray | None
    moving: np.ndarray | None = None

    def usable(self, max_masked: int) -> np.ndarray:
        """Mark the rows (N,) that windows may hold: present ones, and stretches of at most `max_masked` absent ones."""
        between = np.zeros(len(self.present), dtype=bool)
        between[1:-1] = self.present[:-2] & self.present[2:] & (self.run[:-2] == self.run[2:])
        return self.present | _short_stretches(self, max_masked) | (self.bridged & between)

    def segments(self, usable: np.ndarray, intervals: Sequence[Interval], gap: int) -> dict[Part, np.ndarray]:
        """Find the stretches of usable rows that windows may be cut from; see `refold.data.windows.split.cut`."""
        return cut(asset=self.asset, run=self.run, moment=self.moment, usable=usable, intervals=intervals, gap=gap)

    def longest_run(self, usable: np.ndarray) -> int:
        """Count the rows of the longest stretch of usable rows in one unbroken run."""
        ends = ~usable[:-1] | ~usable[1:] | (self.run[1:] != self.run[:-1])
        borders = np.concatenate([[0], np.flatnonzero(ends) + 1, [len(usable)]])
        return int((np.diff(borders) * np.append(usable, False)[borders[:-1]]).max(initial=0))


@dataclass(frozen=True)
class FeatureTable:
    """Bars that passed the checks, and their features.

    Attributes:
        checked: the bars.
        rows: their features.
        columns: names of the C columns.
        names: names of the assets of the series.
        relative: numbers of the columns from which a window subtracts the value at its first bar.
        lookback: bars that a row depends on, its own included.
        run_lookback: those of them that must lie in the row's own run, its own included.
        findings: what the checks found: check, policy, asset, bars, first.
        runs: tables of the runs of faulty bars, if the bars came with the column `ROW`.
    """

    checked: Checked
    rows: FeatureRows
    columns: tuple[str, ...]
    names: tuple[str, ...]
    relative: tuple[int, ...]
    lookback: int
    run_lookback: int
    findings: pl.DataFrame
    runs: list[pl.DataFrame]


def feature_table(
    bars: pl.DataFrame, recipe: Recipe, market: pl.DataFrame | None, counted: pl.Expr = EVERY_ROW
) -> FeatureTable:
    """Check bars and compute their features.

    Args:
        bars: canonical; other columns travel along.
        recipe: the features, the checks and the layout.
        market: `refold.data.bars.market.survey` of the table that the bars are a part of; None means that they are
            all of it.
        counted: which rows the findings are about.

    Returns:
        A row of features for each bar that the checks leave.

    Raises:
        DataError: a check refuses the bars, or they lack a column that a feature needs.
    """
    checked = recipe.checks.run(bars, market, counted)
    recipe = recipe.resolved(value_columns(checked.bars.columns, recipe.checks.kind))
    features = find_all(recipe.entries or (), checked.bars.columns)
    rows, found = _feature_rows(checked, features, recipe, counted)
    findings, runs = pl.concat([checked.table, found.table()]), [*checked.runs, *found.runs]
    # not the categories of the column: of some of them a policy may have dropped every bar
    names = tuple(checked.bars["asset"].unique(maintain_order=True).to_list())
    relative = tuple(number for number, feature in enumerate(features) if feature.relative)
    own = longest_lookback(features)
    return FeatureTable(checked, rows, recipe.features, names, relative, own + recipe.scale_bars, own, findings, runs)


def panel_table(tables: Sequence[FeatureTable], recipe: Recipe) -> FeatureTable:
    """Put the assets of tables side by side, as one series with the name `panel` and a row per moment.

    Args:
        tables: at least one, of different assets and on the same calendar.
        recipe: the features, and the share of the assets that a moment needs.

    Returns:
        The table of the panel; its checked bars are those of the first table.

    Raises:
        DataError: a feature is relative to the first bar of a window, and a moment may lack assets.
    """
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


def series_of(table: FeatureTable, scaler: "Scaler", *, masked: bool) -> "Series":
    """Scale the features of a table, and return them as the series that windows are cut from.

    Args:
        table: the features.
        scaler: the scale of the C columns.
        masked: whether windows hold rows without values.
    """
    import torch  # a table is checked and its features are computed without it

    from refold.data.windows.views import Series

    rows, calendar = table.rows, table.checked.calendar
    moving = None if rows.moving is None else torch.from_numpy(rows.moving)
    return Series(
        values=torch.from_numpy(scaled(rows.values, scaler.of_rows(table.names, rows.asset, moving))),
        present=torch.from_numpy(rows.present) if masked else None,
        times=calendar.to_physical().to_numpy()[rows.moment].astype(np.int64),
        time_dtype=calendar.dtype,
        close=None if rows.close is None else torch.from_numpy(rows.close),
        label=None if rows.label is None else torch.from_numpy(rows.label),
        asset_names=table.names,
        asset_starts=np.flatnonzero(np.diff(rows.asset, prepend=-1)),
        relative=table.relative,
        moving=moving,
    )


def compute_features(bars: pl.DataFrame, features: Sequence[Feature], run: np.ndarray) -> pl.DataFrame:
    """Compute the features of bars; each bar looks back on bars of its own unbroken run only.

    Args:
        bars: (N rows) sorted by asset, then time.
        features: the features.
        run: (N,) int, number of the run that each bar is in.

    Returns:
        N rows with a column per feature, null where a feature has no value.
    """
    named = [feature.expression.alias(feature.name) for feature in features]
    grouped = [column.over(RUN) for column in named]
    ends = np.append(np.flatnonzero(np.diff(run, prepend=run[:1] - 1)), len(run))
    alone = np.diff(ends) >= LONG  # a slice of a long run takes half of the time of .over()
    # neighbouring short runs stay together
    apart = np.append(0, np.flatnonzero(alone[1:] | alone[:-1]) + 1) if len(alone) else np.zeros(0, dtype=int)
    keyed = bars.with_columns(pl.Series(RUN, run))
    borders = [*ends[apart].tolist(), len(run)]
    parts = [
        keyed[start:end].select(named if long else grouped)
        for (start, end), long in zip(pairwise(borders), alone[apart], strict=True)
    ]
    return pl.concat(parts or [keyed.select(grouped)])


def scaled(values: np.ndarray, scaler: "Scaler") -> np.ndarray:
    """Scale values, a block of rows at a time: a second copy in float64 would be large.

    Args:
        values: (N, C) float64, NaN where there is none.
        scaler: the scale of the C columns, or of these rows of them.

    Returns:
        (N, C) float32, 0 where there is no value.
    """
    result = np.empty(values.shape, dtype=np.float32)
    means, stds = scaler.mean.numpy(), scaler.std.numpy()
    for first in range(0, len(values), BLOCK):
        rows = slice(first, first + BLOCK)
        mean, std = (part if part.ndim == 1 else part[rows] for part in (means, stds))
        block = (values[rows] - mean) / std
        result[rows] = np.where(np.isfinite(values[rows]), block, 0.0)
    return result


def moving_statistics(table: pl.DataFrame, features: Sequence[Feature], asset: np.ndarray, lookback: int) -> np.ndarray:
    """Compute mean and standard deviation of each feature over the bars before each row, its own left out.

    A row has them if so many bars of its asset lie before it, and half of those have values. Holes do not matter: they
    do not change how much a price usually moves, and each would else cost as many bars.

    Args:
        table: N rows of the features.
        features: the F features.
        asset: (N,) int, number of the asset of each bar.
        lookback: bars before a row.

    Returns:
        (N, 2 F) float32, NaN where there are none.

    Raises:
        DataError: a feature is relative to the first bar of a window, which has no scale of its own.
    """
    if relative := [feature.name for feature in features if feature.relative]:
        raise DataError(
            f"data.scale is trailing; it must be pooled or per_asset for {relative[0]}, which is relative to the "
            f"window's first bar: all bars of a window need one scale"
        )
    first = lookback + longest_lookback(features) - 1  # row of an asset with so many features before it
    enough = pl.int_range(pl.len()) >= first
    least = max(2, -(-lookback // 2))
    before = []
    for name in table.columns:
        finite = pl.when(pl.col(name).is_finite()).then(pl.col(name))
        before.append(finite.rolling_mean(lookback, min_samples=least).shift(1))
        before.append(finite.rolling_std(lookback, min_samples=least, ddof=0).shift(1))
    ordered = [*before[::2], *before[1::2]]
    columns = [pl.when(enough).then(part).cast(pl.Float32).alias(f"{n}") for n, part in enumerate(ordered)]
    ends = np.append(np.flatnonzero(np.diff(asset, prepend=-1)), len(asset)).tolist()
    # a slice of each asset: half of the time of .over()
    parts = [table[start:end].select(columns) for start, end in pairwise(ends)]
    return pl.concat(parts or [table.select(columns)]).to_numpy(writable=True)


def rows_of(segments: dict[Part, np.ndarray]) -> np.ndarray:
    """Return the numbers of all rows of the segments of all parts, int64."""
    rows = [np.arange(first, first + count) for part in segments.values() for first, count in part]
    return np.concatenate([np.zeros(0, dtype=np.int64), *rows])


def _feature_rows(
    checked: Checked, features: Sequence[Feature], recipe: Recipe, counted: pl.Expr
) -> tuple[FeatureRows, Findings]:
    """Compute the features of each asset, and find those that are there and not finite."""
    bars, policies = checked.bars, recipe.checks.policies
    asset = bars["asset"].rle_id().to_numpy().astype(np.int64)
    breaks = recipe.layout == "panel" or recipe.checks.calendar is not None
    hole = checked.hole if breaks else np.zeros(bars.height, dtype=bool)
    closes = checked.closing if recipe.overnight == "break" else np.zeros(bars.height, dtype=bool)
    run = unbroken(asset, checked.moment, hole | closes)
    table = compute_features(bars, features, run)
    faulty = table.select(pl.any_horizontal(pl.all().is_not_null() & ~pl.all().is_finite())).to_series()
    findings = Findings(policies, counted, recipe.checks.kind)
    if faulty.any():
        names = [feature.name for feature in features]
        keyed = pl.concat([bars.drop(names, strict=False), table], how="horizontal")  # a column may be a feature itself
        recipe.checks.features(keyed, faulty, names, findings)
    values = table.to_numpy(writable=True)  # nulls become NaN
    present = np.asarray(np.isfinite(values).all(axis=1))
    bridged = spans_night(features) & checked.closing & (recipe.overnight == "mask" and recipe.window_size > 1)
    present &= ~bridged
    moving = None
    if recipe.scale == "trailing":
        inside = table.select(pl.when(pl.Series(~bridged)).then(pl.col(name)).alias(name) for name in table.columns)
        moving = moving_statistics(inside, features, asset, recipe.scale_lookback)
        present &= np.isfinite(moving).all(axis=1)
    values[~present] = np.nan
    broken = faulty.to_numpy() & (policies["feature_not_finite"] == "drop")
    close = bars["close"].cast(pl.Float32).to_numpy(writable=True) if "close" in bars.columns else None
    label = (
        bars[LABEL].cast(pl.Int8).fill_null(0).to_numpy(writable=True) if LABEL in bars.columns else None
    )  # a hole has none
    rows = FeatureRows(values, present, broken, run, hole, bridged, asset, checked.moment, close, label, moving)
    return rows, findings


def spans_night(features: Sequence[Feature]) -> bool:
    """Test whether a feature compares a bar with the one before it, as returns do."""
    return any(feature.lookback == 2 or feature.name.startswith("normalised_return") for feature in features)


def _pivot(tables: Sequence[FeatureRows], assets: int, moments: int, min_assets: float) -> FeatureRows:
    """Make one row per moment: the features of all assets side by side, NaN for an asset without a bar then."""
    values = np.full((moments, assets, tables[0].values.shape[1]), np.nan)
    label = None if tables[0].label is None else np.zeros((moments, assets), dtype=np.int8)
    bridged = np.zeros(moments, dtype=bool)
    first = 0
    for rows in tables:
        values[rows.moment[rows.present], first + rows.asset[rows.present]] = rows.values[rows.present]
        bridged[rows.moment[rows.bridged]] = True
        if label is not None and rows.label is not None:
            label[rows.moment, first + rows.asset] = rows.label
        first += int(rows.asset.max(initial=-1)) + 1
    there = np.isfinite(values[:, :, 0]).sum(axis=1)
    present = there >= max(1, min_assets * assets - 1e-9)
    values[~present] = np.nan
    one = np.zeros(moments, dtype=np.int64)
    return FeatureRows(
        values=values.reshape(moments, -1),
        present=present,
        broken=np.zeros(moments, dtype=bool),
        run=one,
        hole=np.zeros(moments, dtype=bool),
        bridged=bridged,
        asset=one,
        moment=np.arange(moments),
        close=None,
        label=label,
    )


def _short_stretches(rows: FeatureRows, longest: int) -> np.ndarray:
    """Mark the absent rows (N,) in stretches of at most `longest`, with a present row of the same run on both sides."""
    number = np.arange(len(rows.present))
    before = np.maximum.accumulate(np.where(rows.present, number, -1))
    after = np.minimum.accumulate(np.where(rows.present, number, len(number))[::-1])[::-1]
    inside = ~rows.present & (before >= 0) & (after < len(number)) & (after - before - 1 <= longest)
    before, after = before[inside], after[inside]
    breaks = np.cumsum(rows.broken)
    short = inside.copy()
    short[inside] = (rows.run[before] == rows.run[after]) & (breaks[before] == breaks[after])
    return short
