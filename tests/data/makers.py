"""Small random markets for the tests of the data layer."""

from collections.abc import Collection, Sequence
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from refold.data import WindowDataModule
from refold.data.bars.checks import Checks
from refold.data.bars.findings import CHECKS
from refold.data.bars.table import Table, TableKind
from refold.data.windows.split import ByFraction


def random_bars(lengths: Sequence[int], *, seed: int = 0, start: date = date(2020, 1, 1)) -> pl.DataFrame:
    """OHLCV bars of assets A, B, ... of some lengths, all ending on the same day; prices follow a random walk."""
    generator = np.random.default_rng(seed)
    longest = max(lengths)
    days = pl.date_range(start, pl.lit(start) + pl.duration(days=longest - 1), eager=True)
    frames = []
    for number, length in enumerate(lengths):
        close = 50 * np.exp(np.cumsum(generator.normal(0, 0.02, length)))
        open_ = close * np.exp(generator.normal(0, 0.01, length))
        high = np.maximum(open_, close) * np.exp(generator.exponential(0.01, length))
        low = np.minimum(open_, close) * np.exp(-generator.exponential(0.01, length))
        volume = np.round(1e6 * np.exp(generator.normal(0, 0.3, length)))
        table = {"open": open_, "high": high, "low": low, "close": close, "volume": volume}
        frames.append(pl.DataFrame({"timestamp": days.tail(length), "asset": [chr(65 + number)] * length, **table}))
    return pl.concat(frames)


def with_value(bars: pl.DataFrame, rows: Collection[int], column: str, value: float | None) -> pl.DataFrame:
    """The bars with another value in a column of some rows."""
    chosen = pl.int_range(pl.len()).is_in(list(rows))
    return bars.with_columns(pl.when(chosen).then(pl.lit(value, pl.Float64)).otherwise(pl.col(column)).alias(column))


class Frame:
    """A source that holds its bars."""

    def __init__(self, bars: pl.DataFrame) -> None:
        self.bars = bars

    def load(self) -> pl.DataFrame:
        return self.bars

    def identity(self) -> Any:
        return ["frame", str(self.bars.hash_rows().sum())]

    def __str__(self) -> str:
        return "a frame"


def fractions(train: float = 0.6, val: float = 0.2, embargo: int = 0) -> ByFraction:
    return ByFraction(train_fraction=train, val_fraction=val, embargo=embargo)


def table(**others) -> Table:
    """How a table is read, with the defaults of conf/data/base/table.yaml."""
    settings = {"kind": "prices", "shape": "auto", "columns": {}, "timestamp_format": None, "price_scale": 1.0}
    settings |= {"adjusted": False, "assets": None, "start": None, "end": None, "values": None}
    return Table(**{**settings, **others})


SOFT = ("out_of_order", "stale_run", "split_like", "unit_like", "off_session", "off_grid", "gap")


def checks(
    *,
    calendar: str | None = "union",
    interval: str | None = None,
    stale_bars: int = 5,
    kind: TableKind = "prices",
    **policies,
) -> Checks:
    """Checks with the policies of conf/data/base/windows.yaml and some others."""
    usual = {name: "warn" if name in SOFT else "error" for name in CHECKS}
    scoring = {name: "mask" for name in CHECKS if name not in SOFT} | {"missing_timestamp": "drop", "duplicate": "drop"}
    return Checks(
        policies={**usual, **policies},
        scoring_policies={**scoring, "mixed_interval": "warn"},
        interval=interval,
        calendar=calendar,
        stale_bars=stale_bars,
        split_tolerance=0.03,
        kind=kind,
    )


def module(bars: pl.DataFrame, **others) -> WindowDataModule:
    """A small module over bars, not set up yet."""
    settings = {
        "source": Frame(bars),
        "features": ["log_return", "parkinson_range"],
        "layout": "per_asset",
        "min_assets": 1.0,
        "window_size": 8,
        "shortest_window": None,
        "shuffle_bars": False,
        "corruption": None,
        "stride": 1,
        "asset_weights": None,
        "max_masked": 0,
        "batch_size": 4,
        "batch_size_per_device": None,
        "split": fractions(),
        "fold": 0,
        "checks": checks(),
        "overnight": "keep",
        "scale": "pooled",
        "scale_lookback": 20,
        "cache": None,
        "device": "auto",
        "seed": 0,
    }
    return WindowDataModule(**{**settings, **others})


def ready(bars: pl.DataFrame, **others) -> WindowDataModule:
    """The same, set up."""
    made = module(bars, **others)
    made.setup()
    return made


ALL_FEATURES = [
    "log_return",
    "overnight_return",
    "intraday_return",
    "high_return",
    "low_return",
    "window_log_price",
    "volume_change",
    "parkinson_range",
    "garman_klass_range",
    "log_range",
    "upper_shadow",
    "lower_shadow",
    "trailing_volatility_5",
    "normalised_return_5",
    "relative_volume_5",
    "price_zscore_5",
]
