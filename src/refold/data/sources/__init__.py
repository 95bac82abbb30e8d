"""The sources of bars: `load()` returns the canonical table, `identity()` changes when the data may have changed."""

from refold.data.sources.any_table import AnyTable
from refold.data.sources.csv import Csv
from refold.data.sources.excel import Excel
from refold.data.sources.panel import SkfolioPanel
from refold.data.sources.parquet import Parquet
from refold.data.sources.sql import Sql
from refold.data.sources.stocks import Stocks
from refold.data.sources.synthetic import Synthetic

__all__ = ["AnyTable", "Csv", "Excel", "Parquet", "SkfolioPanel", "Sql", "Stocks", "Synthetic"]
