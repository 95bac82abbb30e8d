"""Read the daily stocks that come with the package."""

from importlib.resources import as_file, files
from typing import Any

import polars as pl

from refold.bounds import checked
from refold.data.bars.table import Table
from refold.data.sources.csv import read_texts


class Stocks:
    """Read AAPL, FB, GOOG, IBM and MSFT, daily, 2000-03-01 to 2013-03-01, open to volume; see embedded/README.md.

    Args:
        table: how the table is read. With `adjusted`, splits and dividends leave no jump; without, the prices are as
            they were quoted, with three splits in them.
    """

    @checked("data.source")
    def __init__(self, *, table: Table) -> None:
        self.table = table

    def load(self) -> pl.DataFrame:
        """Read the canonical table."""
        with as_file(files("refold.data") / "embedded" / "stocks.csv.gz") as path:
            texts = read_texts(path, ",")
        return self.table.canonical(texts, where="the embedded stocks", single_asset="stock")

    def identity(self) -> Any:
        """Return plain values that change when the way the file is read does."""
        return ["stocks", vars(self.table)]

    def __str__(self) -> str:
        return f"embedded daily stocks, {'adjusted' if self.table.adjusted else 'as quoted'}"
