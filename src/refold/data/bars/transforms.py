"""Transforms of one column of a table: `diff(yield_10y)`, `log(volume)`, `zscore_20(spread)`.

Each transform is a class: it gives the polars expression of a column and says how many bars a value depends on. A
number at the end of a name is a number of bars.
"""

from typing import Protocol

import polars as pl

LONGEST = 1_000_000
"""Most bars of a transform: 11 days of seconds, or 3,900 years of days."""


class Transform(Protocol):
    """Turn the values of a column into those of a feature.

    Attributes:
        lookback: bars that a value depends on, its own included, at least 1.
        unit: what a value is, for documentation and plots.
    """

    lookback: int
    unit: str

    def expression(self, value: pl.Expr) -> pl.Expr:
        """Return the expression of the feature over one asset's bars in order of time.

        Args:
            value: the column.
        """
        ...


class _Lagged:
    """Hold the look-back of a comparison with the value some bars before."""

    def __init__(self, bars: int = 1) -> None:
        self.bars, self.lookback = bars, bars + 1


class _Trailing:
    """Hold the look-back of a trailing statistic."""

    def __init__(self, bars: int) -> None:
        self.lookback = bars


class Log:
    """Take the natural logarithm; values must be above 0."""

    lookback = 1
    unit = "logarithm of the value"

    def expression(self, value: pl.Expr) -> pl.Expr:
        return value.log()


class Difference(_Lagged):
    """Subtract the value some bars before.

    Args:
        bars: how many, at least 1.
    """

    unit = "value less an earlier one"

    def expression(self, value: pl.Expr) -> pl.Expr:
        return value - value.shift(self.bars)


class LogDifference(_Lagged):
    """Take the logarithm of the ratio to the value some bars before; values must be above 0.

    Args:
        bars: how many, at least 1.
    """

    unit = "log ratio to an earlier value"

    def expression(self, value: pl.Expr) -> pl.Expr:
        return (value / value.shift(self.bars)).log()


class ZScore(_Trailing):
    """Measure the distance from the trailing mean in trailing standard deviations, 0 where nothing has moved.

    Args:
        bars: length of the trailing statistics, the bar's own value included, at least 2.
    """

    unit = "standard deviations from the trailing mean"

    def expression(self, value: pl.Expr) -> pl.Expr:
        bars = self.lookback
        # the trailing deviation of equal values may be rounding noise instead of 0
        still = value.rolling_max(bars) == value.rolling_min(bars)
        score = (value - value.rolling_mean(bars)) / value.rolling_std(bars)
        return pl.when(still).then(0.0).otherwise(score)


class LessMean(_Trailing):
    """Subtract the trailing mean.

    Args:
        bars: length of the mean, the bar's own value included, at least 2.
    """

    unit = "value less its trailing mean"

    def expression(self, value: pl.Expr) -> pl.Expr:
        return value - value.rolling_mean(self.lookback)


class Deviation(_Trailing):
    """Take the trailing standard deviation.

    Args:
        bars: its length, the bar's own value included, at least 2.
    """

    unit = "trailing standard deviation"

    def expression(self, value: pl.Expr) -> pl.Expr:
        still = value.rolling_max(self.lookback) == value.rolling_min(self.lookback)
        return pl.when(still).then(0.0).otherwise(value.rolling_std(self.lookback))


PLAIN: dict[str, type[Log | Difference | LogDifference]] = {"log": Log, "diff": Difference, "log_diff": LogDifference}
"""Name -> transform that needs no number."""

NUMBERED: dict[str, tuple[type[Difference | LogDifference | ZScore | LessMean | Deviation], int]] = {
    "diff": (Difference, 1),
    "log_diff": (LogDifference, 1),
    "zscore": (ZScore, 2),
    "less_mean": (LessMean, 2),
    "deviation": (Deviation, 2),
}
"""Name -> transform that takes a number of bars, and the smallest one."""

NAMES = ("log", "diff", "diff_5", "log_diff", "log_diff_5", "zscore_20", "less_mean_20", "deviation_20")
"""One example of each, for messages."""


def find_transform(name: str) -> Transform | str:
    """Find the transform of a name such as `diff` or `zscore_20`.

    Args:
        name: as before the parenthesis.

    Returns:
        The transform, or what is wrong with the name, in words that follow it.
    """
    if name in PLAIN:
        return PLAIN[name]()
    family, _, digits = name.rpartition("_")
    if family in NUMBERED and digits.isascii() and digits.isdigit():
        kind, least = NUMBERED[family]
        digits = digits.lstrip("0") or "0"
        if len(digits) > len(str(LONGEST)) or not least <= int(digits) <= LONGEST:
            return f"its number of bars must be in [{least}, {LONGEST}]"
        return kind(int(digits))
    return f"there are {', '.join(f'{example}(column)' for example in NAMES)}, where a number is one of bars"
