"""What is wrong with bars, found before anything is computed from them."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from refold.data.layout import OHLCV
from refold.errors import DataError


def sort_and_check(bars: pl.DataFrame) -> pl.DataFrame:
    """Bars sorted by asset, then time.

    Raises: DataError: there are fewer than two bars, a bar comes twice, a value is missing, NaN or infinite, a price is
    not above 0 or a volume is below 0. The message names the first such bar.
    """
    if bars.height < 2:
        raise DataError(f"the data has {bars.height} row; a window needs at least data.window_size bars of one asset")
    bars = bars.sort("asset", "timestamp", maintain_order=True)
    _refuse(bars, pl.struct("asset", "timestamp").is_duplicated(), "timestamp", "comes more than once")
    for name in (name for name in OHLCV if name in bars.columns):
        value = pl.col(name)
        _refuse(bars, value.is_null(), name, "is missing")
        _refuse(bars, ~value.is_finite(), name, "must be a finite number")
        if name != "volume":
            _refuse(bars, value <= 0, name, "must be above 0")
        else:
            _refuse(bars, value < 0, name, "must be at least 0")
    return bars


def _refuse(bars: pl.DataFrame, wrong: pl.Expr, column: str, complaint: str) -> None:
    found = bars.filter(wrong)
    if found.height:
        asset, timestamp, value = found.row(0, named=True)["asset"], found["timestamp"][0], found[column][0]
        more = f" ({found.height} such bars)" if found.height > 1 else ""
        what = "" if column == "timestamp" else f", {column} is {value}"
        raise DataError(f"{asset} {timestamp}{what}: it {complaint}{more}")


def unbroken(bars: pl.DataFrame, moment: np.ndarray) -> np.ndarray:
    """Number of the unbroken run that each bar is in: an asset's run ends where a moment of the calendar is missing.

    Args: bars: sorted by asset, then time. moment: (N,) position on the calendar. Returns: (N,) int64, rising.
    """
    new_asset = (bars["asset"] != bars["asset"].shift(1)).fill_null(True).to_numpy()
    return np.cumsum(new_asset | (np.diff(moment, prepend=moment[:1] - 1) != 1))


def finite_features(rows: pl.DataFrame, names: Sequence[str], filled: np.ndarray) -> None:
    """Refuse features that are not finite where their look-back is filled.

    Args: filled: (N,) bool. Raises: DataError.
    """
    for name in names:
        wrong = rows.filter(pl.Series(filled) & ~pl.col(name).is_finite().fill_null(False))
        if wrong.height:
            asset, timestamp, value = wrong["asset"][0], wrong["timestamp"][0], wrong[name][0]
            raise DataError(
                f"data.features has {name}, which is {value} for {asset} {timestamp} and {wrong.height - 1} other "
                f"bars; it must be finite. Is there no volume, or no movement, in its look-back?"
            )
