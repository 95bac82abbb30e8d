"""Adjust prices for splits and dividends by the adjusted close that comes with them."""

import polars as pl

from refold.errors import DataError


def adjust_prices(bars: pl.DataFrame, where: str) -> pl.DataFrame:
    """Scale open, high, low and close by adjusted close / close, and volume by the inverse: price x volume stays.

    Args:
        bars: table with the columns close and adjusted_close.
        where: what the table is, for messages.

    Returns:
        The table with other values.

    Raises:
        DataError: there is no close or no adjusted close.
    """
    if not {"close", "adjusted_close"} <= set(bars.columns):
        raise DataError(f"data.source.table.adjusted is true; {where} has no adjusted close beside a close")
    factor = pl.col("adjusted_close") / pl.col("close")
    prices = [pl.col(name) * factor for name in ("open", "high", "low", "close") if name in bars.columns]
    volume = [pl.col("volume") / factor] if "volume" in bars.columns else []
    return bars.with_columns(prices + volume)
