"""Prices -> checked bars -> features -> chronological split -> scaler fitted on training rows -> windows as views."""

from refold.data.bars.prices import to_prices
from refold.data.datamodule import WindowDataModule
from refold.data.windows.loader import WindowLoader
from refold.data.windows.scaler import Scaler
from refold.data.windows.views import Batch, Series, Windows

__all__ = ["Batch", "Scaler", "Series", "WindowDataModule", "WindowLoader", "Windows", "to_prices"]
