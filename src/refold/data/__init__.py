"""Prices -> checked bars -> features -> chronological split -> scaler fitted on training rows -> windows as views.

The names below are imported when they are first used: a table can be read and checked without torch, and a run can be
loaded and scored without Lightning, which the data module alone needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refold.data.bars.prices import to_prices
    from refold.data.datamodule import WindowDataModule
    from refold.data.windows.loader import WindowLoader
    from refold.data.windows.scaler import Scaler
    from refold.data.windows.views import Batch, Series, Windows

__all__ = ["Batch", "Scaler", "Series", "WindowDataModule", "WindowLoader", "Windows", "to_prices"]

_MODULES = {
    "Batch": "windows.views",
    "Scaler": "windows.scaler",
    "Series": "windows.views",
    "WindowDataModule": "datamodule",
    "WindowLoader": "windows.loader",
    "Windows": "windows.views",
    "to_prices": "bars.prices",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
