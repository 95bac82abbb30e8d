"""Count the windows that holes and masked bars cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refold.data.feature_table import FeatureRows, FeatureTable
from refold.data.windows.split import Interval
from refold.errors import DataError


def count_lost(
    table: FeatureTable, usable: np.ndarray, intervals: Sequence[Interval], gap: int, window_size: int
) -> dict[str, int]:
    """Count the windows that there would be without holes, and without masked bars.

    Args:
        table: features of some assets.
        usable: (N,) bool, the rows that windows may hold.
        intervals: of the parts.
        gap: bars that are dropped between parts.
        window_size: T.

    Returns:
        Windows at stride 1 lost to "holes", with those of the look-back after them, and to "masked" bars.
    """
    rows, after_hole = table.rows, table.run_lookback - 1
    number = np.arange(len(usable))
    begun = number - np.maximum.accumulate(np.where(np.diff(rows.asset, prepend=-1) != 0, number, 0))
    warm = begun >= table.lookback - 1
    if not rows.hole.any() and (rows.present | ~warm).all():  # the usual table: nothing is cut twice
        return {"holes": 0, "masked": 0}
    begins = np.diff(rows.run, prepend=rows.run[:1] - 1) != 0
    joined = replace(rows, run=np.cumsum(begins & ~rows.hole))
    since_hole = number - np.maximum.accumulate(np.where(rows.hole, number, -len(number) - after_hole))
    without_holes = usable | (since_hole < after_hole)

    def windows(of: FeatureRows, there: np.ndarray) -> int:
        parts = of.segments(there, intervals, gap)
        return sum(int(np.maximum(0, runs[:, 1] - window_size + 1).sum()) for runs in parts.values())

    now, bridged = windows(rows, usable), windows(joined, without_holes & (usable | warm))
    whole = windows(joined, warm)
    return {"holes": bridged - now, "masked": max(0, whole - bridged)}


def lost_in_words(lost: Mapping[str, Any]) -> str:
    """Describe lost windows, as in `to holes: 31 (gap warn), to masked bars: 0`.

    Args:
        lost: as in `refold.data.pipeline.Prepared.windows_lost`.
    """
    policies = ", ".join(f"{check} {policy}" for check, policy in lost["policies"].items())
    return f"to holes: {lost['holes']:,}, to masked bars: {lost['masked']:,}" + (f" ({policies})" if policies else "")


def refuse_few(bars: int) -> None:
    """Refuse a table that has fewer than two usable bars.

    Args:
        bars: number of usable bars.

    Raises:
        DataError: there are less than two.
    """
    if bars < 2:
        raise DataError(f"the data has {bars} usable row{'s' * (bars != 1)}; a window needs data.window_size bars")
