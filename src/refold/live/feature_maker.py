"""Features of the newest bar, from the bars before it, without a table: the twins of the expressions in data.bars.

Letters: n assets, K bars, F features.
"""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from refold.data.bars.entries import Entry, find_feature
from refold.data.bars.features import LEAST_RANGE, PLAIN, Feature
from refold.data.bars.transforms import NUMBERED

log = logging.getLogger("refold.live")

_RUN = "refold/run"


class Bars(NamedTuple):
    """The newest bars of n assets, the newest last.

    Attributes:
        values: column -> (n, K) float64, anything where absent.
        absent: column -> (n, K) bool, True where there is no value or no bar of the same run.
        times: (n, K) int64 microseconds.
        frame: times (N,) -> a column of a table, for expressions.
    """

    values: Mapping[str, np.ndarray]
    absent: Mapping[str, np.ndarray]
    times: np.ndarray
    frame: Callable[[np.ndarray], pl.Series]


Made = tuple[np.ndarray, np.ndarray]
"""(n,) values, and (n,) bool, True where there is none."""

Maker = Callable[[Bars], Made]


def _lag(column: str, bars: Bars, lag: int = 0) -> Made:
    return bars.values[column][:, -1 - lag], bars.absent[column][:, -1 - lag]


def _tail(column: str, bars: Bars, count: int, lag: int = 0) -> Made:
    """Return the values (n, count) that end `lag` bars ago, and where one of them lacks (n,)."""
    part = slice(-count - lag, -lag or None)
    return bars.values[column][:, part], np.asarray(bars.absent[column][:, part].any(axis=1))


def _ratio(price: str, reference: str, lag: int) -> Maker:
    def make(bars: Bars) -> Made:
        (one, lacks), (other, lacking) = _lag(price, bars), _lag(reference, bars, lag)
        return np.log(one / other), lacks | lacking

    return make


def _parkinson(bars: Bars) -> Made:
    value, lacks = _ratio("high", "low", 0)(bars)
    return value / math.sqrt(4 * math.log(2)), lacks


def _garman_klass(bars: Bars) -> Made:
    (wide, lacks), (body, lacking) = _ratio("high", "low", 0)(bars), _ratio("close", "open", 0)(bars)
    square = wide**2 / 2 - (2 * math.log(2) - 1) * body**2
    return np.sqrt(np.where(square < 0, 0.0, square)), lacks | lacking


def _log(column: str) -> Maker:
    def make(bars: Bars) -> Made:
        value, lacks = _lag(column, bars)
        return np.log(value), lacks

    return make


def _log_range(bars: Bars) -> Made:
    value, lacks = _ratio("high", "low", 0)(bars)
    return np.log(value + LEAST_RANGE), lacks


def _shadow(end: str, pick: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Maker:
    """Return what computes the log ratio of high or low to the body, which is one price where the other lacks."""
    sign = 1.0 if end == "high" else -1.0

    def make(bars: Bars) -> Made:
        far, lacks = _lag(end, bars)
        (opened, none), (closed, neither) = _lag("open", bars), _lag("close", bars)
        body = pick(np.where(none, np.nan, opened), np.where(neither, np.nan, closed))
        return sign * np.log(far / body), lacks | (none & neither)

    return make


_OF_A_BAR: dict[str, Maker] = {
    "log_return": _ratio("close", "close", 1),
    "overnight_return": _ratio("open", "close", 1),
    "intraday_return": _ratio("close", "open", 0),
    "high_return": _ratio("high", "close", 1),
    "low_return": _ratio("low", "close", 1),
    "window_log_price": _log("close"),
    "volume_change": _ratio("volume", "volume", 1),
    "parkinson_range": _parkinson,
    "garman_klass_range": _garman_klass,
    "log_range": _log_range,
    "upper_shadow": _shadow("high", np.fmax),
    "lower_shadow": _shadow("low", np.fmin),
}


def _returns(bars: Bars, count: int, lag: int) -> Made:
    """Return the log returns (n, count) that end `lag` bars ago, and where one of them lacks."""
    closes, lacks = _tail("close", bars, count + 1, lag)
    return np.log(closes[:, 1:] / closes[:, :-1]), lacks


def _std(values: np.ndarray) -> np.ndarray:
    """Return the standard deviation of rows (n, K), with K - 1 in the divisor."""
    centred = values - values.mean(axis=1, keepdims=True)
    return np.sqrt((centred * centred).sum(axis=1) / (values.shape[1] - 1))


def _trailing_volatility(count: int) -> Maker:
    def make(bars: Bars) -> Made:
        returns, lacks = _returns(bars, count, 0)
        return _still(returns, _std(returns)), lacks

    return make


def _normalised_return(count: int) -> Maker:
    def make(bars: Bars) -> Made:
        (before, lacks), (own, _) = _returns(bars, count, 1), _returns(bars, 1, 0)
        unit = _still(before, _std(before))
        still = (own[:, 0] == 0) & (unit == 0)
        return np.where(still, 0.0, own[:, 0] / unit), lacks | bars.absent["close"][:, -1]

    return make


def _relative_volume(count: int) -> Maker:
    def make(bars: Bars) -> Made:
        volumes, lacks = _tail("volume", bars, count)
        logs = np.log(volumes)
        return logs[:, -1] - logs.mean(axis=1), lacks

    return make


def _price_zscore(count: int) -> Maker:
    def make(bars: Bars) -> Made:
        closes, lacks = _tail("close", bars, count)
        logs = np.log(closes)
        return _still(logs, (logs[:, -1] - logs.mean(axis=1)) / _std(logs)), lacks

    return make


_TRAILING = {
    "trailing_volatility": _trailing_volatility,
    "normalised_return": _normalised_return,
    "relative_volume": _relative_volume,
    "price_zscore": _price_zscore,
}


def _value(column: str, count: int) -> Maker:
    return lambda bars: _lag(column, bars)


def _diff(column: str, count: int) -> Maker:
    def make(bars: Bars) -> Made:
        (now, lacks), (before, lacking) = _lag(column, bars), _lag(column, bars, count)
        return now - before, lacks | lacking

    return make


def _over_tail(reduce: Callable[[np.ndarray], np.ndarray]) -> Callable[[str, int], Maker]:
    def maker(column: str, count: int) -> Maker:
        def make(bars: Bars) -> Made:
            values, lacks = _tail(column, bars, count)
            return reduce(values), lacks

        return make

    return maker


def _still(values: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    return np.where(values.max(axis=1) == values.min(axis=1), 0.0, otherwise)


_TRANSFORMS: dict[str, Callable[[str, int], Maker]] = {
    "log": lambda column, count: _log(column),
    "diff": _diff,
    "log_diff": lambda column, count: _ratio(column, column, count),
    "zscore": _over_tail(lambda rows: _still(rows, (rows[:, -1] - rows.mean(axis=1)) / _std(rows))),
    "less_mean": _over_tail(lambda rows: rows[:, -1] - rows.mean(axis=1)),
    "deviation": _over_tail(lambda rows: _still(rows, _std(rows))),
}


def find_maker(entry: Entry) -> Maker | None:
    """Find what computes a feature at the newest bar, or None: then its expression is evaluated.

    Args:
        entry: of a feature that was found before (`Feature.saved`).
    """
    if not isinstance(entry, str):
        return _value(str(entry["column"]), 0) if "column" in entry else None
    if entry in PLAIN:
        return _OF_A_BAR.get(entry)
    if transform := re.fullmatch(r"\s*(\w+?)(?:_(\d+))?\(\s*(.+?)\s*\)\s*", entry, re.ASCII):
        family, digits, column = transform.groups()
        known = family in _TRANSFORMS and (digits is None or family in NUMBERED)
        return _TRANSFORMS[family](column, int(digits or 1)) if known else None
    trailing = re.fullmatch(r"(\w+)_(\d+)", entry, re.ASCII)
    return _TRAILING[trailing[1]](int(trailing[2])) if trailing and trailing[1] in _TRAILING else None


class FeatureMaker:
    """Compute the features of the newest bar of some assets.

    Args:
        entries: of features that were found before.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.features = [find_feature(entry) for entry in entries]
        self.makers = [find_maker(entry) for entry in entries]
        slow = [feature for feature, maker in zip(self.features, self.makers, strict=True) if maker is None]
        if slow:
            log.info(
                "%s: computed by the expression at each bar, which takes milliseconds",
                ", ".join(feature.name for feature in slow),
            )
        self.slow: list[Feature] = slow
        self.columns = tuple(dict.fromkeys(column for feature in self.features for column in feature.columns))
        self.lookback = max(feature.lookback for feature in self.features)

    def make(self, bars: Bars) -> Made:
        """Compute all features.

        Args:
            bars: the newest of n assets, `lookback` of them each.

        Returns:
            (n, F) float64, and (n, F) bool, True where a feature has no value.
        """
        n = len(bars.times)
        values, lacks = np.empty((n, len(self.makers))), np.empty((n, len(self.makers)), dtype=bool)
        evaluated = iter(self._evaluated(bars)) if self.slow else iter(())
        for number, maker in enumerate(self.makers):
            values[:, number], lacks[:, number] = next(evaluated) if maker is None else maker(bars)
        return values, lacks

    def _evaluated(self, bars: Bars) -> list[Made]:
        """Evaluate the expressions that have no twin here over the bars of each asset's run."""
        n, K = bars.times.shape
        asset = np.repeat(np.arange(n), K)
        parts = {}
        for name in dict.fromkeys(column for feature in self.slow for column in feature.columns):
            gone = pl.Series(bars.absent[name].reshape(-1))
            parts[name] = pl.select(pl.when(~gone).then(pl.Series(bars.values[name].reshape(-1)))).to_series()
        table = pl.DataFrame({_RUN: asset, **parts}).with_columns(bars.frame(bars.times.reshape(-1)))
        made = table.select(pl.col(_RUN), *(one.expression.over(_RUN).alias(one.name) for one in self.slow))
        newest = made.group_by(_RUN, maintain_order=True).last()
        return [
            (newest[one.name].fill_null(math.nan).to_numpy(), newest[one.name].is_null().to_numpy())
            for one in self.slow
        ]
