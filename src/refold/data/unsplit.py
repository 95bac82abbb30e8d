"""A table as one series on a given scale: nothing is split into parts, nothing is fitted."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch

from refold.data.bars.findings import EVERY_ROW, ROW
from refold.data.feature_table import FeatureRows, feature_table, panel_table, rows_of, series_of
from refold.data.lost import refuse_few
from refold.data.recipe import Recipe
from refold.data.unscored import codes_of_bars, reasons, without_enough_assets
from refold.data.windows.scaler import Scaler
from refold.data.windows.split import Interval
from refold.data.windows.views import Series
from refold.errors import DataError


@dataclass(frozen=True)
class ShortRuns:
    """Windows that run on over masked bars, for the bars that lie in no other window.

    Attributes:
        series: the R rows, with those that are present.
        segments: (S, 2) int64, first row and number of rows of each stretch that such windows are cut from.
        short: (R,) bool, True at the present rows that are in too short a run for a window without masked bars.
    """

    series: Series
    segments: np.ndarray
    short: np.ndarray


@dataclass(frozen=True)
class UnsplitSeries:
    """A table as one series, without parts.

    Attributes:
        series: R rows on the given scale.
        segments: (S, 2) int64, first row and number of rows of each unbroken run.
        origin: (R, K) int64, row of the table that each row of the series was made from, -1 for none; K is 1, or the
            assets of a panel.
        columns: names of the columns of the series.
        findings: what the checks found: check, policy, asset, bars, first.
        runs: tables of the runs of faulty bars, with their rows of the table.
        short_runs: for the rows that too many masked bars leave in runs shorter than a window; None if there are none.
        codes: (N,) int8, why each of the N rows of the table has no features; see `refold.data.unscored`.
    """

    series: Series
    segments: np.ndarray
    origin: np.ndarray
    columns: tuple[str, ...]
    findings: pl.DataFrame
    runs: list[pl.DataFrame]
    codes: np.ndarray
    short_runs: ShortRuns | None

    def reasons(self, window_size: int, *, predicted: bool = False) -> pl.Series:
        """Say of each row of the table why it would have no score.

        Args:
            window_size: bars of a window.
            predicted: whether scores need a window that ends before the bar.

        Returns:
            (N,) names of `refold.data.unscored.REASONS`.
        """
        return reasons(self.codes, self.origin, self.segments, window_size, predicted=predicted)


def unsplit_series(
    bars: pl.DataFrame,
    recipe: Recipe,
    scaler: Scaler,
    market: pl.DataFrame | None = None,
    kept: slice | None = None,
) -> UnsplitSeries:
    """Check bars, compute their features, and return them as one series on a given scale.

    Args:
        bars: canonical.
        recipe: the features, the checks and the layout. Its split is not used.
        scaler: the scale of the columns of the series.
        market: `refold.data.bars.market.survey` of the table that the bars are a part of; None means that they are
            all of it.
        kept: rows that the findings are about; None means all.

    Returns:
        The series, and which rows of the bars its rows were made from.

    Raises:
        DataError: a check refuses the bars, they lack a column that the features or the scale need, or a table that is
            not part of another has fewer than two bars.
    """
    counted = EVERY_ROW if kept is None else pl.col(ROW).is_between(kept.start, kept.stop, closed="left")
    single = feature_table(bars.with_row_index(ROW), recipe, market, counted)
    if market is None:
        refuse_few(single.checked.bars.height)
    table = panel_table([single], recipe) if recipe.layout == "panel" else single
    rows, columns = table.rows, table.columns
    if len(columns) != len(scaler.mean):
        raise DataError(f"the data has {len(columns)} columns of features; the scale was fitted to {len(scaler.mean)}")
    everything = [Interval("test", 0, int(rows.moment.max(initial=0)) + 1)]
    segments = rows.segments(rows.usable(recipe.max_masked), everything, gap=0)
    number = table.checked.bars[ROW].cast(pl.Int64).fill_null(-1).to_numpy()  # bars that fill a hole have none
    origin, codes = number[:, None], codes_of_bars(single, bars.height)
    if recipe.layout == "panel":
        origin = np.full((len(rows.moment), table.checked.bars["asset"].n_unique()), -1)
        origin[table.checked.moment, table.checked.bars["asset"].rle_id().to_numpy()] = number
        without_enough_assets(codes, origin, rows.present)
    series = series_of(table, scaler, masked=not rows.present[rows_of(segments)].all())
    return UnsplitSeries(
        series=series,
        segments=segments["test"],
        origin=origin,
        columns=columns,
        findings=table.findings,
        runs=single.runs,
        codes=codes,
        short_runs=_short_runs(series, rows, segments["test"], everything, recipe.window_size),
    )


def _short_runs(
    series: Series, rows: FeatureRows, segments: np.ndarray, everything: list[Interval], window_size: int
) -> ShortRuns | None:
    """Find the bars that lie in no window because masked bars are near, and the stretches around them.

    A hole of the calendar, or one that a dropped bar leaves, ends a stretch as it ends a run.

    Args:
        series: scaled.
        rows: its features.
        segments: (S, 2) first row and number of rows of each run.
        everything: all moments as one part.
        window_size: T.
    """
    T = window_size
    held = _inside(segments, T, len(rows.present))
    if (rows.present <= held).all():  # the usual case
        return None
    wide = rows.segments(rows.usable(T - 1), everything, gap=0)["test"]
    short = rows.present & ~held & _inside(wide, T, len(held))
    if not short.any():
        return None
    near = np.flatnonzero(short)
    number = np.searchsorted(wide[:, 0], near, side="right") - 1
    first, count = wide[number].T
    edges = np.zeros(len(held) + 1, dtype=np.int64)
    np.add.at(edges, np.maximum(first, near - (T - 1)), 1)
    np.add.at(edges, np.minimum(first + count, near + T), -1)
    covered = np.cumsum(edges[:-1]) > 0
    begins = covered & ~np.concatenate([[False], covered[:-1]])
    begins[wide[:, 0]] |= covered[wide[:, 0]]  # neighbouring stretches stay apart
    starts = np.flatnonzero(begins)
    lengths = np.add.reduceat(covered.astype(np.int64), starts)
    present = torch.from_numpy(rows.present)
    return ShortRuns(replace(series, present=present), np.stack([starts, lengths], axis=1), short)


def _inside(segments: np.ndarray, window_size: int, count: int) -> np.ndarray:
    """Mark the rows (count,) of the runs that are as long as a window."""
    held = np.zeros(count, dtype=bool)
    held[rows_of({"test": segments[segments[:, 1] >= window_size]})] = True
    return held
