"""Read twenty US stocks, 1990 to 2022, from the data in the `skfolio` package."""

import importlib.metadata
from pathlib import Path
from typing import Any

import polars as pl

from refold.bounds import checked
from refold.data.bars.table import Table
from refold.data.sources.csv import read_texts
from refold.errors import DataError


class SkfolioPanel:
    """Read adjusted closes of 20 stocks, 8,313 days from 1990-01-02 to 2022-12-28, without holes (BSD-3).

    The file is read where the package is installed; the package itself is not imported. RRC falls by exactly 3x on
    1990-04-10 and stands still for 68 days, which are flaws. AAPL -0.73 on 2000-09-29 and PG -0.36 on 2000-03-07 are
    real.

    Args:
        table: how the table is read.
    """

    @checked("data.source")
    def __init__(self, *, table: Table) -> None:
        self.table = table

    def load(self) -> pl.DataFrame:
        """Read the canonical table.

        Raises:
            DataError: skfolio is not installed.
        """
        try:
            package = importlib.metadata.distribution("skfolio")
        except importlib.metadata.PackageNotFoundError:
            raise DataError(
                "data=panel reads a file of the skfolio package, which is not installed; the file alone, without the "
                "packages that skfolio needs, comes with: pip install --no-deps skfolio"
            ) from None
        path = Path(str(package.locate_file("skfolio/datasets/data/sp500_dataset.csv.gz")))
        return self.table.canonical(read_texts(path, ","), where="skfolio's sp500_dataset", single_asset="stock")

    def identity(self) -> Any:
        """Return plain values that change when the way the file is read does."""
        return ["skfolio sp500_dataset", vars(self.table)]

    def __str__(self) -> str:
        return "20 US stocks 1990-2022 of skfolio"
