"""A second guess about a jump: a split, perhaps on a day that moved as well.

The rule of splits asks for a price that is within a few percent of a ratio. This guess asks how far the asset itself
moves on its days: what a jump leaves beside the nearest ratio is a move of that day, if the asset could make it.

Letters: N bars.
"""

import numpy as np
import polars as pl

from refold.data.bars.market import SPLIT_RATIOS, calm_trade, overnight_jump, quiet_peers, same_asset

_AROUND, _FEWEST = 50, 20  # bars before a jump whose moves are usual, at most and at least
_NORMAL = 1.4826  # standard deviation of a normal distribution over the median of its size
_LEAST = 1e-3  # smallest usual move, so that a price that stood still allows one
_QUIET, _MOST = 2.0, 6.0  # usual moves beside the ratio that say nothing, and that a split's day makes at most
_JUMP = 8.0  # usual moves that a split's jump makes at least
_BUSY = 2.5  # usual trade in money on the day: the rule's four times those of the day before let a crash pass
LARGEST_REST = 0.25
"""Share of a log ratio that the day may have moved besides: a larger move would be what the jump consists of."""


def split_guesses(bars: pl.DataFrame, market: pl.DataFrame) -> pl.Series:
    """Guess at which bars a split took effect, also where the day moved the price besides.

    Args:
        bars: N canonical bars, sorted by asset, then time.
        market: `refold.data.bars.market.survey` of the table that the bars are a piece of.

    Returns:
        (N,) "split?" or "split and a 3 % move?" at the bar and beside it, else null.
    """
    if "close" not in bars.columns:
        return pl.Series("guess", [None], dtype=pl.String).new_from_index(0, bars.height)
    move = pl.when(same_asset()).then((pl.col("close") / pl.col("close").shift(1)).log())
    jump = overnight_jump(bars.columns)
    traded = pl.col("close") * pl.col("volume") if "volume" in bars.columns else pl.lit(1.0)
    table = bars.select(
        pl.col("asset"),
        move.alias("move"),
        jump.alias("jump"),
        (calm_trade(bars.columns) & quiet_peers(jump, market)).alias("calm"),
        traded.alias("traded"),
    )
    size = pl.col("move").abs()
    money = pl.col("traded")

    def usual(values: pl.Expr) -> pl.Expr:
        return values.rolling_median(_AROUND, min_samples=_FEWEST).shift(1).over("asset")

    table = table.with_columns(
        (_NORMAL * usual(size)).clip(_LEAST).alias("usual"),
        pl.col("calm") & (money < _BUSY * usual(money)).fill_null(True),
        pl.max_horizontal(size.shift(1), size.shift(-1)).over("asset").alias("beside"),
    )
    return _beside(bars, _guess(table))


def _guess(table: pl.DataFrame) -> list[str | None]:
    """Guess for each row: move, jump, usual and beside (log returns), calm."""
    move, jump, usual, beside = (table[name].to_numpy() for name in ("move", "jump", "usual", "beside"))
    up = np.log(SPLIT_RATIOS)
    targets = np.concatenate([up, -up])
    guesses: list[str | None] = [None] * table.height
    large = table["calm"].fill_null(True).to_numpy() & (np.abs(move) > (1 - LARGEST_REST) * up.min())
    for row in np.flatnonzero(large & (np.abs(move) > _JUMP * usual)):
        target = targets[np.abs(move[row] - targets).argmin()]
        rest, night = move[row] - target, jump[row] - target
        allowed = min(_MOST * usual[row], LARGEST_REST * abs(target))
        stays = not beside[row] > abs(target) / 2
        if abs(rest) <= allowed and abs(night) <= allowed and stays:
            percent = abs(np.expm1(rest))
            guesses[row] = "split?" if abs(rest) <= _QUIET * usual[row] else f"split and a {100 * percent:.0f} % move?"
    return guesses


def _beside(bars: pl.DataFrame, guesses: list[str | None]) -> pl.Series:
    """Let the bars beside a guess have it too: any of them may be flagged."""
    own = pl.DataFrame({"asset": bars["asset"], "guess": pl.Series(guesses, dtype=pl.String)})
    near = pl.coalesce(pl.col("guess").shift(lag).over("asset") for lag in (0, -1, 1))
    return own.select(near.alias("guess")).to_series()
