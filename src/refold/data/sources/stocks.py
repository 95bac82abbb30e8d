"""The daily stocks that come with the package."""

from collections.abc import Collection
from importlib.resources import as_file, files

import polars as pl

from refold.bounds import checked
from refold.data.layout import adjust, canonical, project
from refold.data.sources.csv import read_texts


class Stocks:
    """AAPL, FB, GOOG, IBM and MSFT, daily, 2000-03-01 to 2013-03-01, open to volume; see embedded/README.md.

    Args: adjusted: True scales prices by adjusted close / close, so that splits and dividends leave no jump; False
        keeps the prices as they were quoted, with three splits in them.
    """

    @checked("data.source")
    def __init__(self, *, adjusted: bool) -> None:
        self.adjusted = adjusted

    def load(self, columns: Collection[str] | None = None) -> pl.DataFrame:
        """The canonical table. Args: columns: those wanted; None is all."""
        with as_file(files("refold.data") / "embedded" / "stocks.csv.gz") as path:
            table = read_texts(path, ",")
        bars = canonical(
            table, columns={}, shape="long", timestamp_format=None, single_asset="", where="the embedded stocks"
        )
        if self.adjusted:
            bars = adjust(bars, "the embedded stocks")
        return project(bars, columns)

    def __str__(self) -> str:
        return f"embedded daily stocks, {'adjusted' if self.adjusted else 'as quoted'}"
