"""Say why bars have no score: what a check did to them, or what is lacking before or around them.

Letters: N rows of a table, R rows of a series, K assets of a panel (1 otherwise), S runs.
"""

from collections.abc import Iterable

import numpy as np
import polars as pl

from refold.data.bars.findings import CHECKS, ROW
from refold.data.feature_table import FeatureTable, rows_of

WARMING, HOLE, MASKED = "warming", "hole", "masked"
FEW_ASSETS, SHORT_RUN, NO_WINDOW_BEFORE, NO_SCORE = "few_assets", "short_run", "no_window_before", "no_score"

REASONS = ("", *CHECKS, WARMING, HOLE, MASKED, FEW_ASSETS, SHORT_RUN, NO_WINDOW_BEFORE, NO_SCORE)
"""Reasons by their codes; "" is none.

The name of a check: it found the bar, which was masked or dropped, or has no value.
warming: a feature, or a trailing scale, looks back beyond the first bar of the asset.
hole: it looks back beyond a hole.
masked: it looks back on a bar without values.
few_assets: too few assets of a panel have a bar at that moment.
short_run: fewer than data.window_size bars lie between two holes or masked bars.
no_window_before: fewer than data.window_size bars lie before it since the last hole, so that no window predicts it.
no_score: none of these, such as a score that is no finite number."""

_CODE = {name: code for code, name in enumerate(REASONS)}

_VALUELESS = ("missing_value", "not_finite")
"""Checks whose bars lack a value under every policy."""


def codes_of_bars(table: FeatureTable, height: int) -> np.ndarray:
    """Find the bars without features, and why.

    Args:
        table: features of bars that came with the column `ROW`; not yet of a panel.
        height: N, rows of the table that was checked.

    Returns:
        (N,) int8, codes of `REASONS`; 0 for a bar with features.
    """
    codes = np.zeros(height, dtype=np.int8)
    rows, number = table.rows, table.checked.bars[ROW].cast(pl.Int64).fill_null(-1).to_numpy()
    place = np.arange(len(number))
    starts = np.maximum.accumulate(np.where(np.diff(rows.run, prepend=-1) != 0, place, 0))
    opens = np.diff(rows.asset, prepend=-1) != 0  # the first bar of an asset
    begun = np.maximum.accumulate(np.where(opens, place, 0))
    cut = (starts > begun) & (place - starts < table.run_lookback - 1)
    early = np.where(place - begun < table.lookback - 1, _CODE[WARMING], _CODE[MASKED])
    why = np.where(cut, _CODE[HOLE], early)
    absent = ~rows.present & (number >= 0)
    codes[number[absent]] = why[absent]
    without = np.ones(height, dtype=bool)  # those that were dropped too
    without[number[rows.present & (number >= 0)]] = False
    _name_checks(codes, without, table.runs)
    return codes


def _name_checks(codes: np.ndarray, without: np.ndarray, runs: Iterable[pl.DataFrame]) -> None:
    """Name the check that masked or dropped a bar; the first one, if there were several."""
    for found in reversed(list(runs)):
        for check, policy, first, last in found.select("check", "policy", "first", "last").iter_rows():
            if check != "gap" and (policy in ("mask", "drop") or check in _VALUELESS):
                part = slice(first, last + 1)
                codes[part] = np.where(without[part], _CODE[check], codes[part])


def without_enough_assets(codes: np.ndarray, origin: np.ndarray, present: np.ndarray) -> None:
    """Give the bars of a panel's moments that have too few assets their reason, in place.

    Args:
        codes: (N,) as `codes_of_bars` gives them.
        origin: (R, K) row of the table that each moment was made from, -1 for none.
        present: (R,) bool, whether enough assets have a bar at the moment.
    """
    rows = origin[~present]
    rows = rows[rows >= 0]
    codes[rows[codes[rows] == 0]] = _CODE[FEW_ASSETS]


def reasons(
    codes: np.ndarray, origin: np.ndarray, segments: np.ndarray, window_size: int, *, predicted: bool = False
) -> pl.Series:
    """Say of each bar of a table why it would have no score.

    Args:
        codes: (N,) as `codes_of_bars` gives them.
        origin: (R, K) row of the table that each row of a series was made from, -1 for none.
        segments: (S, 2) first row and number of rows of each run that windows are cut from.
        window_size: bars of a window.
        predicted: whether scores need a window that ends before the bar.

    Returns:
        (N,) names of `REASONS`, named reason; of bars that lie in a window too, which have a score as a rule.
    """
    held = np.zeros(len(origin), dtype=bool)
    runs = segments[segments[:, 1] >= window_size]
    held[rows_of({"test": runs})] = True
    own = np.where(held, _CODE[NO_SCORE], _CODE[SHORT_RUN])
    if predicted:
        own[(runs[:, :1] + np.arange(window_size)).ravel()] = _CODE[NO_WINDOW_BEFORE]
    whole = codes.copy()
    for number in origin.T:
        there = number >= 0
        known = number[there]
        whole[known] = np.where(codes[known] == 0, own[there], codes[known])
    return pl.Series("reason", np.array(REASONS)[whole])
