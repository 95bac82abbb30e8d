"""Tell by the values of bars which of them are faulty: missing, impossible or stale ones, splits, other units.

Each expression looks at a bar and at earlier ones of its asset alone; see `refold.data.bars.checks`.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from refold.data.bars.market import SPLIT_RATIOS, UNIT_RATIOS, calm_trade, overnight_jump, quiet_peers, same_asset
from refold.data.bars.table import PRICES, TableKind, value_columns


def faults_of_values(
    columns: Sequence[str], market: pl.DataFrame, kind: TableKind, stale_bars: int, split_tolerance: float
) -> dict[str, pl.Expr]:
    """Return the checks of the values of a sorted table, each with an expression that is true for its faulty bars.

    Args:
        columns: names of the columns of the bars.
        market: what all assets did at each moment; see `refold.data.bars.market.survey`.
        kind: of the table; the checks of prices are for "prices" alone.
        stale_bars: number of equal values in a row that is too many, at least 2.
        split_tolerance: how far the log of a price ratio may be from that of a split, above 0.

    Returns:
        Check -> boolean expression.
    """
    values = [pl.col(name) for name in value_columns(columns, kind)]
    common = {
        # a second bar of the same moment is at fault, not the first: drop keeps the one that came first
        "duplicate": same_asset() & (pl.col("timestamp") == pl.col("timestamp").shift(1)),
        "missing_value": pl.any_horizontal(value.is_null() for value in values),
        "not_finite": pl.any_horizontal(~value.is_finite() for value in values),
    }
    if kind == "series":
        # one value alone may stand still for good reasons, as a set point, a policy rate or a dry rain gauge do
        still = pl.all_horizontal(_equal_before(name) >= stale_bars - 1 for name in value_columns(columns, kind))
        return common | {"stale_run": still & pl.any_horizontal(value != 0 for value in values)}
    prices = [pl.col(name) for name in PRICES if name in columns]
    nothing = pl.lit(False)
    negative = pl.col("volume") < 0 if "volume" in columns else nothing
    body = [name for name in ("open", "close") if name in columns]
    broken = [pl.col("low") > pl.min_horizontal(*body, "high")] if "low" in columns and "high" in columns else []
    broken += [pl.col("high") < pl.max_horizontal(*body, "low")] if broken else []
    jump = overnight_jump(columns)
    return common | {
        "non_positive": pl.any_horizontal(*(price <= 0 for price in prices), negative),
        "broken_bar": pl.any_horizontal(broken) if broken else nothing,
        "stale_run": _equal_before("close") >= stale_bars - 1 if "close" in columns else nothing,
        "split_like": _near_ratio(jump, SPLIT_RATIOS, split_tolerance)
        & calm_trade(columns)
        & quiet_peers(jump, market),
        "unit_like": _near_ratio(jump, UNIT_RATIOS, split_tolerance),
    }


def _near_ratio(log_ratio: pl.Expr, ratios: tuple[float, ...], tolerance: float) -> pl.Expr:
    logs = np.log(ratios)

    def near(values: pl.Series) -> pl.Series:
        apart = values.abs().to_numpy()  # null becomes NaN, which is near nothing
        marks = np.zeros(len(apart), dtype=bool)
        rows = np.flatnonzero(apart > logs.min() - tolerance)  # few bars jump: no other is compared with each ratio
        marks[rows] = (np.abs(apart[rows, None] - logs) < tolerance).any(axis=1)
        return pl.Series(values.name, marks)

    return log_ratio.map_batches(near, return_dtype=pl.Boolean, is_elementwise=True)


def _equal_before(column: str) -> pl.Expr:
    """Count the bars right before each one, of the same asset, that have the same value."""
    row = pl.int_range(pl.len())
    moved = (~same_asset() | (pl.col(column) != pl.col(column).shift(1))).fill_null(True)
    return row - pl.when(moved).then(row).forward_fill()
