"""Prices -> checked bars -> features -> chronological split -> scaler fitted on training rows -> windows as views."""

from refold.data.datamodule import WindowDataModule
from refold.data.loader import WindowLoader
from refold.data.prices import to_prices
from refold.data.scaler import Scaler
from refold.data.windows import Batch, Series, Windows

__all__ = ["Batch", "Scaler", "Series", "WindowDataModule", "WindowLoader", "Windows", "to_prices"]
