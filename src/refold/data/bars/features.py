"""Features of a bar, computed from the open, high, low, close and volume of the bar and of those before it.

A feature is a polars expression over one asset's bars in order of time. It looks back only: the first `lookback - 1`
values of a run of bars are null. Names that end in a number are trailing statistics over that many bars:
`relative_volume_20`, `relative_volume_60`.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from refold.data.bars.transforms import Deviation, ZScore
from refold.errors import DataError

OPEN, HIGH, LOW, CLOSE, VOLUME = (pl.col(name) for name in ("open", "high", "low", "close", "volume"))


@dataclass(frozen=True)
class Feature:
    """Describe one column of a window.

    Args:
        name: as in data.features, such as `relative_volume_20`.
        expression: polars expression over one asset's bars in order of time.
        columns: columns of the bars that the expression reads.
        lookback: bars that a value depends on, its own included, at least 1.
        unit: for documentation and plots.
        origin: where the formula is from, for documentation.
        relative: True if the value of the window's first present bar is subtracted when the window is gathered.
        entry: of data.features, which makes the feature again without the columns of the bars; None: its name.
    """

    name: str
    expression: pl.Expr
    columns: tuple[str, ...]
    lookback: int
    unit: str
    origin: str = "definition"
    relative: bool = False
    entry: Mapping[str, Any] | None = None

    @property
    def tested(self) -> bool:
        """True if what it looks at is a user's word, which is tested on the training rows."""
        return self.entry is not None and "expression" in self.entry

    @property
    def saved(self) -> str | dict[str, Any]:
        """Return the entry of data.features that makes this feature whatever the columns of a table are."""
        return self.name if self.entry is None else dict(self.entry)


def _log_ratio(price: pl.Expr, reference: pl.Expr) -> pl.Expr:
    return (price / reference).log()


_LAST_CLOSE = CLOSE.shift(1)
_LOG_RETURN = _log_ratio(CLOSE, _LAST_CLOSE)
_TO_LAST_CLOSE = "log ratio to the last close"

# Of a bar and the one before it --------------------------------------------------------------------------------------

_PLAIN = (
    Feature("log_return", _LOG_RETURN, ("close",), 2, _TO_LAST_CLOSE),
    Feature(
        "overnight_return",
        _log_ratio(OPEN, _LAST_CLOSE),
        ("open", "close"),
        2,
        "log ratio of the open to the last close",
    ),
    Feature("intraday_return", _log_ratio(CLOSE, OPEN), ("open", "close"), 1, "log ratio of close to open"),
    Feature("high_return", _log_ratio(HIGH, _LAST_CLOSE), ("high", "close"), 2, _TO_LAST_CLOSE),
    Feature("low_return", _log_ratio(LOW, _LAST_CLOSE), ("low", "close"), 2, _TO_LAST_CLOSE),
    Feature(
        "window_log_price",
        CLOSE.log(),
        ("close",),
        1,
        "log ratio of the close to that of the window's first present bar",
        relative=True,
    ),
    Feature("volume_change", _log_ratio(VOLUME, VOLUME.shift(1)), ("volume",), 2, "log ratio to the last bar's volume"),
    Feature(
        "parkinson_range",
        _log_ratio(HIGH, LOW) / math.sqrt(4 * math.log(2)),
        ("high", "low"),
        1,
        "standard deviation of the bar's log return, from its range",
        "Parkinson 1980",
    ),
    Feature(
        "garman_klass_range",
        # the difference is below zero only for bars whose close or open lies outside [low, high]
        (_log_ratio(HIGH, LOW).pow(2) / 2 - (2 * math.log(2) - 1) * _log_ratio(CLOSE, OPEN).pow(2)).clip(0).sqrt(),
        ("open", "high", "low", "close"),
        1,
        "standard deviation of the bar's log return, from its range and body",
        "Garman and Klass 1980, equation 20",
    ),
)

# What feeds do to a bar: it collapses to a point, or a trade inside it is far off ------------------------------------

LEAST_RANGE = 1e-6
"""A bar that is one price is far from any other, of days and of minutes, and not infinitely far."""

_OF_A_BAR = (
    Feature(
        "log_range",
        (_log_ratio(HIGH, LOW) + LEAST_RANGE).log(),
        ("high", "low"),
        1,
        "log of the log ratio of high to low, plus 1e-6",
    ),
    Feature(
        "upper_shadow",
        _log_ratio(HIGH, pl.max_horizontal(OPEN, CLOSE)),
        ("open", "high", "close"),
        1,
        "log ratio of the high to the higher of open and close",
    ),
    Feature(
        "lower_shadow",
        _log_ratio(pl.min_horizontal(OPEN, CLOSE), LOW),
        ("open", "low", "close"),
        1,
        "log ratio of the lower of open and close to the low",
    ),
)

# Trailing statistics, each with its own number of bars ----------------------------------------------------------------


@dataclass(frozen=True)
class Trailing:
    """Describe a family of features, one for each number of bars N from 2 to `LONGEST_TRAILING`.

    Args:
        expression: function from N to the polars expression.
        columns: columns of the bars that the expression reads.
        extra: bars of look-back beyond N.
        unit: with ` N ` in the place of the number.
        origin: where the formula is from.
    """

    expression: Callable[[int], pl.Expr]
    columns: tuple[str, ...]
    extra: int
    unit: str
    origin: str = "definition"


LONGEST_TRAILING = 1_000_000
"""Most bars of a trailing statistic: 11 days of seconds, or 3,900 years of days."""


def _in_units(value: pl.Expr, unit: pl.Expr) -> pl.Expr:
    """Divide, and take 0 of 0 as 0: a price that stands still does not move by any unit."""
    return pl.when((value == 0) & (unit == 0)).then(0.0).otherwise(value / unit)


PLAIN = {feature.name: feature for feature in (*_PLAIN, *_OF_A_BAR)}
TRAILING = {
    "trailing_volatility": Trailing(
        lambda bars: Deviation(bars).expression(_LOG_RETURN),
        ("close",),
        1,
        "standard deviation of log returns over the last N bars",
    ),
    "normalised_return": Trailing(
        # volatility of the bars before this one: a bar that normalised itself could not stand out
        lambda bars: _in_units(_LOG_RETURN, Deviation(bars).expression(_LOG_RETURN).shift(1)),
        ("close",),
        2,
        "log return in standard deviations of the N before it",
    ),
    "relative_volume": Trailing(
        lambda bars: VOLUME.log() - VOLUME.log().rolling_mean(bars),
        ("volume",),
        0,
        "log volume less its mean over the last N bars",
    ),
    "price_zscore": Trailing(
        lambda bars: ZScore(bars).expression(CLOSE.log()),
        ("close",),
        0,
        "log close in standard deviations from its mean over the last N bars",
    ),
}


def is_built_in(name: str) -> bool:
    """Test whether a name is one of a built-in feature, whatever the number at its end.

    Args:
        name: as in data.features.
    """
    match = re.fullmatch(r"(\w+)_(\d+)", name, re.ASCII)
    return name in PLAIN or (match is not None and match[1] in TRAILING)


def find(name: str) -> Feature:
    """Find the feature of a name such as `log_return` or `relative_volume_20`.

    Args:
        name: as in data.features.

    Returns:
        The feature.

    Raises:
        DataError: there is no such feature (the message names the nearest), or the number at its end is out of bounds.
    """
    if name in PLAIN:
        return PLAIN[name]
    match = re.fullmatch(r"(\w+)_(\d+)", name, re.ASCII)
    if match and match[1] in TRAILING:
        family, digits = TRAILING[match[1]], match[2].lstrip("0")
        if len(digits) > len(str(LONGEST_TRAILING)) or int(digits or 0) > LONGEST_TRAILING:
            raise DataError(f"data.features has {name!r}; its number of bars must be in [2, {LONGEST_TRAILING}]")
        if (bars := int(digits or 0)) >= 2:
            unit = family.unit.replace(" N ", f" {bars} ")
            return Feature(name, family.expression(bars), family.columns, bars + family.extra, unit, family.origin)
    names = [*PLAIN, *(f"{family}_20" for family in TRAILING)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DataError(
        f"data.features has {name!r}; {hint}There are {', '.join(names)}, where 20 can be any number of bars from 2"
    )


def longest_lookback(features: Sequence[Feature]) -> int:
    """Return the number of bars that a row of features depends on, its own included.

    Args:
        features: at least one.
    """
    return max(feature.lookback for feature in features)
