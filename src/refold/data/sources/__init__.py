"""Where bars come from. Each source has `load(columns)`, which returns the canonical table of `refold.data.layout`."""

from refold.data.sources.csv import Csv
from refold.data.sources.stocks import Stocks

__all__ = ["Csv", "Stocks"]
