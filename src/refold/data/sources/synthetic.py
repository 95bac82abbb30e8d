"""Simulate stocks whose anomalies are known."""

from datetime import date, timedelta
from typing import Annotated, Any

import numpy as np
import polars as pl

from refold.bounds import at_least, checked, more_than, within

KINDS = ("bad_tick", "stale_quote", "volatility_burst")
_STALE_BARS = 6
_BURST_BARS = 10
# GARCH(1, 1) of daily returns, as commonly estimated: shocks decay with a half-life of 34 bars
_ALPHA, _BETA = 0.08, 0.90
_DEGREES_OF_FREEDOM = 5.0  # of the shocks: fat tails
_OVERNIGHT_SHARE = 0.3  # of a bar's variance
_MARKET_SHARE = 0.3  # of a shock's variance that all assets have in common


class Synthetic:
    """Simulate daily OHLCV with clustered volatility, fat tails, a common market and labelled anomalies.

    Returns follow a GARCH(1, 1) with Student t shocks; log volume follows an AR(1) that rises with the size of returns.
    Source: Bollerslev 1986 and 1987.

    Args:
        assets: number of assets, at least 1.
        bars: bars of each asset, at least 2.
        seed: seed of all random numbers, at least 0.
        volatility: standard deviation of a log return, per bar, above 0.
        anomalies: expected number per asset and 1,000 bars, in [0, 100], of the kinds bad_tick (one bar's prices off by
            3 to 20 %), stale_quote (6 equal bars) and volatility_burst (10 bars with four times the volatility).
        clean_fraction: first share of the bars, in [0, 1], that has no anomalies, so that it can be trained on.
    """

    @checked("data.source")
    def __init__(
        self,
        *,
        assets: Annotated[int, at_least(1)],
        bars: Annotated[int, at_least(2)],
        seed: Annotated[int, at_least(0)],
        volatility: Annotated[float, more_than(0)],
        anomalies: Annotated[float, within(0, 100)],
        clean_fraction: Annotated[float, within(0, 1)],
    ) -> None:
        self.assets = assets
        self.bars = bars
        self.seed = seed
        self.volatility = volatility
        self.anomalies = anomalies
        self.clean_fraction = clean_fraction

    def load(self) -> pl.DataFrame:
        """Simulate the canonical table."""
        return self._simulate()[0]

    def labels(self) -> pl.DataFrame:
        """List the anomalous bars: timestamp, asset, kind."""
        return self._simulate()[1]

    def identity(self) -> Any:
        """Return plain values that change with every setting."""
        return ["synthetic", vars(self)]

    def _simulate(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        generator = np.random.default_rng(self.seed)
        kinds = self._place(generator)
        sigma = np.where(kinds == KINDS.index("volatility_burst"), 4.0, 1.0)
        returns, deviation = self._returns(generator, sigma)
        shape = returns.shape
        overnight = np.sqrt(_OVERNIGHT_SHARE) * deviation * generator.standard_normal(shape) * sigma
        close = 100 * np.exp(np.cumsum(returns, axis=0))
        open_ = np.vstack([np.full((1, self.assets), 100.0), close[:-1]]) * np.exp(overnight)
        reach = 0.5 * deviation * sigma
        high = np.maximum(open_, close) * np.exp(reach * np.abs(generator.standard_normal(shape)))
        low = np.minimum(open_, close) * np.exp(-reach * np.abs(generator.standard_normal(shape)))
        volume = self._volume(generator, np.abs(returns) / self.volatility)
        table = {"open": open_, "high": high, "low": low, "close": close, "volume": volume}
        self._spoil(generator, table, kinds)
        return self._frame(table), self._label_frame(kinds)

    def _place(self, generator: np.random.Generator) -> np.ndarray:
        """Draw the kind of anomaly of each bar, (bars, assets), -1 for none. Episodes do not touch each other."""
        kinds = np.full((self.bars, self.assets), -1)
        lengths = (1, _STALE_BARS, _BURST_BARS)
        first = max(1, round(self.bars * self.clean_fraction))
        for asset in range(self.assets):
            starts = first + np.flatnonzero(generator.random(self.bars - first) < self.anomalies / 1000)
            free = first
            for start in starts:
                kind = generator.integers(len(KINDS))
                end = start + lengths[kind]
                if start >= free and end <= self.bars:
                    kinds[start:end, asset] = kind
                    free = end + 1
        return kinds

    def _returns(self, generator: np.random.Generator, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Simulate log returns and their conditional standard deviations, (bars, assets) each."""
        freedom = _DEGREES_OF_FREEDOM
        unit = np.sqrt((freedom - 2) / freedom)  # a Student t has variance freedom / (freedom - 2)
        own = generator.standard_t(freedom, (self.bars, self.assets)) * unit
        market = generator.standard_t(freedom, (self.bars, 1)) * unit
        shocks = np.sqrt(_MARKET_SHARE) * market + np.sqrt(1 - _MARKET_SHARE) * own
        variance = np.full(self.assets, self.volatility**2)
        returns, deviation = np.empty_like(shocks), np.empty_like(shocks)
        for bar in range(self.bars):
            deviation[bar] = np.sqrt(variance)
            calm = deviation[bar] * shocks[bar]  # a burst does not feed back, so that it ends when its label does
            returns[bar] = calm * sigma[bar]
            variance = (1 - _ALPHA - _BETA) * self.volatility**2 + _ALPHA * calm**2 + _BETA * variance
        return returns, deviation

    def _volume(self, generator: np.random.Generator, size: np.ndarray) -> np.ndarray:
        level, levels = np.zeros(self.assets), np.empty_like(size)
        noise = generator.standard_normal(size.shape)
        for bar in range(self.bars):
            level = 0.8 * level + 0.2 * noise[bar]
            levels[bar] = level
        return np.round(1e6 * np.exp(levels + 0.2 * np.minimum(size, 5)))

    def _spoil(self, generator: np.random.Generator, table: dict[str, np.ndarray], kinds: np.ndarray) -> None:
        """Put bad ticks and stale quotes into the prices, in place."""
        ticks = kinds == KINDS.index("bad_tick")
        factor = 1 + generator.choice([-1, 1], kinds.shape) * generator.uniform(0.03, 0.2, kinds.shape)
        for name in ("open", "high", "low", "close"):
            table[name][ticks] *= factor[ticks]
        for bar, asset in np.argwhere(kinds == KINDS.index("stale_quote")):
            for name in ("open", "high", "low", "close"):
                table[name][bar, asset] = table["close"][bar - 1, asset]

    def _days(self) -> pl.Series:
        first = date(2000, 1, 3)
        days = pl.date_range(first, first + timedelta(days=2 * self.bars + 7), eager=True)
        return days.filter(days.dt.weekday() <= 5).head(self.bars)

    def _frame(self, table: dict[str, np.ndarray]) -> pl.DataFrame:
        days = self._days()
        return pl.concat(
            pl.DataFrame(
                {"timestamp": days, **{name: values[:, asset] for name, values in table.items()}}
            ).insert_column(1, pl.Series("asset", [f"S{asset:03}"] * self.bars))
            for asset in range(self.assets)
        )

    def _label_frame(self, kinds: np.ndarray) -> pl.DataFrame:
        bar, asset = np.nonzero(kinds >= 0)
        return pl.DataFrame(
            {
                "timestamp": self._days().gather(bar),
                "asset": [f"S{number:03}" for number in asset],
                "kind": [KINDS[kind] for kind in kinds[bar, asset]],
            }
        ).sort("asset", "timestamp")

    def __str__(self) -> str:
        return f"{self.assets} simulated stocks, seed {self.seed}"
