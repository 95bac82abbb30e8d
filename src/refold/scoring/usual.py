"""Usual moves and shadows around each bar, and the prices that they propose for a bar that is partly wrong.

Letters: N bars. All prices are logs.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from refold.data.bars.table import PRICES

_AROUND = 61  # bars whose moves are usual for the one in their midst
_FEWEST = 5  # of them with a value
_NORMAL = 1.4826  # standard deviation of a normal distribution over the median of its size
_FEWEST_PEERS = 3
_MOST_OF_A_PEER = 3.0  # deviations of one asset that count: one that jumps alone moves no expectation of others
_LEAST = 1e-5  # smallest usual move: a tenth of a basis point
_CLOSE_ENOUGH = 1e-9  # of two log prices that are the same number

_FEWEST_ROWS = 50
_ROUNDS = 10
_FREEDOM = 4.0  # degrees of freedom of Student errors

Proposal = tuple[str, dict[str, float], dict[str, float], float | None]
"""Explanation, column -> log price, column -> standard deviation, factor."""


def _predictors(other: Any, beside: Any, prices: Mapping[str, Any], known: tuple[str, ...], scale: Any) -> np.ndarray:
    """Return what tells of the open or close of bars, in usual moves from the other of the two: (P,) or (P, N).

    Args:
        other: log of the close or open of the bar, a number or (N,).
        beside: what the bar on the other side says, such as the next open.
        prices: log prices of the bar.
        known: which of high and low are sound.
        scale: usual move within the bar.
    """
    return np.stack(
        [np.ones_like(other), *((one - other) / scale for one in (beside, *(prices[name] for name in known)))]
    )


@dataclass(frozen=True)
class _Line:
    """A linear prediction with Student errors.

    Attributes:
        weights: (P,) of the predictors.
        deviation: robust standard deviation of its error.
    """

    weights: np.ndarray
    deviation: float

    @classmethod
    def fit(cls, rows: np.ndarray, target: np.ndarray) -> "_Line":
        """Fit predictors (P, N) to a target (N,); rows with NaN are left out."""
        there = np.isfinite(rows).all(axis=0) & np.isfinite(target)
        x, y = rows[:, there].T, target[there]
        if len(y) < _FEWEST_ROWS:
            return cls(np.r_[0.0, np.full(len(rows) - 1, 1 / len(rows))], 1.0)
        weight, weights, deviation = np.ones(len(y)), np.zeros(len(rows)), 1.0
        for _ in range(_ROUNDS):
            root = np.sqrt(weight)
            weights = np.linalg.lstsq(x * root[:, None], y * root, rcond=None)[0]
            off = y - x @ weights
            deviation = max(_NORMAL * float(np.median(np.abs(off))), 1e-6)
            weight = 1 / (1 + np.square(off / deviation) / _FREEDOM)
        return cls(weights, deviation)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Predict from predictors (P,) or (P, N)."""
        return self.weights @ rows


class Usual:
    """Robust sizes of moves and shadows around each bar of a table.

    Args:
        bars: canonical bars with open, high, low and close, sorted by asset, then time.

    Attributes:
        log: column -> (N,) log prices, NaN where there is none.
        first: (N,) first row of each row's asset; last: (N,) its last row.
        night_mean: (N,) move from the last close to the open that the other assets lead to expect; night: (N,) standard
            deviation from it; day_mean, day: of the move from open to close.
        shadow: "high" and "low" -> (N,) median shadow; spread: its standard deviation.
        level: (N,) median log close around.
        heavy: (N,) log volume above its median, in standard deviations; 0 where there is no volume;
            busy_money: the same of close times volume.
    """

    def __init__(self, bars: pl.DataFrame) -> None:
        asset = bars["asset"].rle_id().to_numpy()
        number = np.arange(len(asset))
        self.first = np.searchsorted(asset, asset)
        self.last = np.searchsorted(asset, asset, side="right") - 1
        self.asset = asset
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = {name: np.log(bars[name].cast(pl.Float64).to_numpy()) for name in PRICES}
        self.log = {name: np.where(np.isfinite(values), values, np.nan) for name, values in logs.items()}
        opened, high, low, close = (self.log[name] for name in PRICES)
        before = np.where(number > self.first, np.roll(close, 1), np.nan)
        moment = bars["timestamp"].rank("dense").fill_null(0).to_numpy().astype(np.int64)
        self.night_mean, self.night = self._beside_peers(opened - before, moment)
        self.day_mean, self.day = self._beside_peers(close - opened, moment)
        self.level = self._median(close)
        shadows = {"high": high - np.maximum(opened, close), "low": np.minimum(opened, close) - low}
        self.shadow = {name: self._median(values) for name, values in shadows.items()}
        self.spread = {name: self._deviation(values - self.shadow[name]) for name, values in shadows.items()}
        volume = np.zeros(len(asset))
        if "volume" in bars.columns:
            with np.errstate(invalid="ignore", divide="ignore"):
                volume = np.log(bars["volume"].cast(pl.Float64).to_numpy())
        self.heavy = self._above(volume)
        self.busy_money = self._above(volume + close) if "volume" in bars.columns else self.heavy
        self._fit_lines()

    def _beside_peers(self, moves: np.ndarray, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the moves (N,) that those of the other assets lead to expect, and the deviation from them, (N,).

        With fewer than _FEWEST_PEERS others at a moment nothing is expected.
        """
        deviation = self._deviation(moves)
        units = np.clip(moves / deviation, -_MOST_OF_A_PEER, _MOST_OF_A_PEER)
        known = np.isfinite(units)
        units = np.where(known, units, 0.0)
        total, count = np.bincount(moment, units), np.bincount(moment, known)
        others = count[moment] - known
        peers = np.where(others >= _FEWEST_PEERS, (total[moment] - units) / np.maximum(others, 1), 0.0)
        square = float(np.square(peers[known]).sum())
        slope = float((units * peers)[known].sum()) / square if square else 0.0
        expected = slope * peers * deviation
        return expected, self._deviation(moves - expected)

    def _above(self, values: np.ndarray) -> np.ndarray:
        """Return by how many deviations values (N,) are above their median around; 0 where there is none."""
        above = np.where(np.isfinite(values), values, np.nan)
        above = above - self._median(above)
        return np.nan_to_num(above / self._deviation(above))

    def _median(self, values: np.ndarray) -> np.ndarray:
        """Return the median of the bars around each bar of the same asset, (N,); of all its bars if those are few."""
        table = pl.DataFrame({"asset": self.asset, "x": pl.Series(values).fill_nan(None)})
        around = pl.col("x").rolling_median(_AROUND, min_samples=_FEWEST, center=True)
        return table.select(pl.coalesce(around, pl.col("x").median()).over("asset")).to_series().to_numpy()

    def _deviation(self, values: np.ndarray) -> np.ndarray:
        """Return a robust standard deviation of values around each bar, (N,): at least a quarter of the asset's own."""
        size = _NORMAL * self._median(np.abs(values))
        table = pl.DataFrame({"asset": self.asset, "x": pl.Series(np.abs(values)).fill_nan(None)})
        own = _NORMAL * table.select(pl.col("x").median().over("asset")).to_series().to_numpy()
        return np.maximum(np.nan_to_num(np.maximum(size, own / 4), nan=_LEAST), _LEAST)

    def proposals(self, row: int, here: dict[str, float], before: float, after: float) -> Iterator[Proposal]:
        """Yield what a bar could have been, by what of it is taken for wrong.

        Args:
            row: of the bar.
            here: its log prices.
            before: log of the close before.
            after: log of the next open.
        """
        before, after = before + float(self.night_mean[row]), after - float(self.night_mean[row + 1])
        yield self._with_reach(row, here, "tick", "close", after)
        yield self._with_reach(row, here, "open", "open", before)
        top, bottom = max(here["open"], here["close"]), min(here["open"], here["close"])
        for name, price in (("high", top + self.shadow["high"][row]), ("low", bottom - self.shadow["low"][row])):
            yield "wick", {name: float(price)}, {name: float(self.spread[name][row])}, None
        off = ((here["open"] - before) - (after - here["close"])) / 2
        deviation = float(self.night[row]) / math.sqrt(2)
        yield "whole bar", {name: here[name] - off for name in PRICES}, dict.fromkeys(PRICES, deviation), math.exp(off)

    def _with_reach(self, row: int, here: dict[str, float], explanation: str, column: str, beside: float) -> Proposal:
        """Replace the open or the close, and the high or low that it made; a sound high and low bound it.

        Args:
            row: of the bar.
            here: its log prices.
            explanation: "tick" or "open".
            column: to replace.
            beside: what the bar on that side says of it.
        """
        other = here["open" if column == "close" else "close"]
        made = {
            "high": here["high"] - here[column] < _CLOSE_ENOUGH and here[column] > other,
            "low": here[column] - here["low"] < _CLOSE_ENOUGH and here[column] < other,
        }
        known = tuple(name for name in ("high", "low") if not made[name])
        line, scale = self.lines[explanation, known], float(self.day[row])
        price = other + scale * float(line.at(_predictors(other, beside, here, known, scale)))
        price = min(price, here["high"]) if "high" in known else price
        price = max(price, here["low"]) if "low" in known else price
        deviation = line.deviation * scale
        prices, deviations = {column: float(price)}, {column: deviation}
        for name, reach in (
            ("high", max(price, other) + self.shadow["high"][row]),
            ("low", min(price, other) - self.shadow["low"][row]),
        ):
            if made[name]:
                prices[name] = float(reach)
                deviations[name] = math.hypot(deviation, float(self.spread[name][row]))
        return explanation, prices, deviations, None

    def _fit_lines(self) -> None:
        """Fit what the other prices of a bar and of the bar beside it say of its close, and of its open."""
        opened, close = self.log["open"], self.log["close"]
        before = np.where(np.arange(len(close)) > self.first, np.roll(close, 1) + self.night_mean, np.nan)
        after = np.where(np.arange(len(close)) < self.last, np.roll(opened - self.night_mean, -1), np.nan)
        self.lines: dict[tuple[str, tuple[str, ...]], _Line] = {}
        self.missed: dict[str, list[np.ndarray]] = {"tick": [], "open": []}
        for explanation, target, other, beside in (("tick", close, opened, after), ("open", opened, close, before)):
            for known in (("high",), ("low",), ("high", "low")):
                rows = _predictors(other, beside, self.log, known, self.day)
                line = _Line.fit(rows, (target - other) / self.day)
                self.lines[explanation, known] = line
                self.missed[explanation].append((line.at(rows) - (target - other) / self.day) / line.deviation)

    def widths(self, sound: np.ndarray, coverage: float) -> dict[str, float]:
        """Measure how many standard deviations hold a share of the sound prices.

        Args:
            sound: (N,) bool, bars to measure on.
            coverage: the share.

        Returns:
            Explanation, or "high" and "low" of a wick -> width.
        """
        opened, high, low, close = (self.log[name] for name in PRICES)
        number = np.arange(len(close))
        inner = (number > self.first) & (number < self.last)
        before, after = np.roll(close, 1), np.roll(opened - self.night_mean, -1)
        away = {
            **{name: np.concatenate([one[inner & sound] for one in parts]) for name, parts in self.missed.items()},
            "whole bar": ((opened - before - self.night_mean) - (after - close)) / self.night / math.sqrt(2),
            "high": (high - np.maximum(opened, close) - self.shadow["high"]) / self.spread["high"],
            "low": (np.minimum(opened, close) - low - self.shadow["low"]) / self.spread["low"],
            "stale": self._line(5, 3),
        }
        wide = {"unit": 0.0, "split": 0.0}
        for name, values in away.items():
            chosen = np.abs(values if name in self.missed else values[inner & sound])
            chosen = chosen[np.isfinite(chosen)]
            wide[name] = float(np.quantile(chosen, coverage)) if len(chosen) else math.nan
        return wide

    def _line(self, count: int, step: int) -> np.ndarray:
        """Return how far closes are from the line over `count` bars of which they are number `step`, (N,)."""
        c, o = self.log["close"], self.log["open"]
        start, goal = np.roll(c, step), np.roll(o, -(count + 1 - step))
        number = np.arange(len(c))
        there = (number - step >= self.first) & (number + count + 1 - step <= self.last)
        variance = self.night**2 + self.day**2
        total = count * variance + self.night**2
        share = step * variance / total
        off = (start + share * (goal - start) - c) / np.sqrt(total * share * (1 - share))
        return np.where(there, off, np.nan)
