"""Refold: LSTM autoencoders of financial time series.

    run = refold.train(bars, decoder="autoregressive", trainer={"max_epochs": 5})
    verdicts = run.score(new_bars)

The names below are imported when they are first used: `import refold` alone loads neither torch nor polars.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refold import models
    from refold.api import compose, retrain, train
    from refold.errors import ConfigError, DataError, RefoldError
    from refold.library.run import Run, load_run
    from refold.live.live_detector import LiveDetector

__version__ = version("refold")
__all__ = [
    "ConfigError",
    "DataError",
    "LiveDetector",
    "RefoldError",
    "Run",
    "compose",
    "load_run",
    "models",
    "retrain",
    "train",
]

_MODULES = {
    "compose": "api",
    "retrain": "api",
    "train": "api",
    "ConfigError": "errors",
    "DataError": "errors",
    "LiveDetector": "live.live_detector",
    "RefoldError": "errors",
    "Run": "library.run",
    "load_run": "library.run",
}


def __getattr__(name: str) -> Any:
    if name == "models":
        return import_module("refold.models")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
