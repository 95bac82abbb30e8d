"""Features of a bar, computed from the open, high, low, close and volume of it and of the bars before it.

A feature is a polars expression over one asset's bars in order of time. It looks back only: `lookback` is the number of
bars, its own included, that a value depends on, and the first `lookback - 1` values of a run of bars are null. Names
that end in a number are trailing statistics over that many bars: `relative_volume_20`, `relative_volume_60`.
"""

import difflib
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import polars as pl

from refold.errors import DataError

OPEN, HIGH, LOW, CLOSE, VOLUME = (pl.col(name) for name in ("open", "high", "low", "close", "volume"))


@dataclass(frozen=True)
class Feature:
    """One column of a window. `unit` and `origin` (where the formula is from) are for documentation and plots.

    relative: the value of the window's first present bar is taken off when the window is gathered.
    """

    name: str
    expression: pl.Expr
    columns: tuple[str, ...]
    lookback: int
    unit: str
    origin: str
    relative: bool = False


def _log_ratio(price: pl.Expr, reference: pl.Expr) -> pl.Expr:
    return (price / reference).log()


# Of a bar and the one before it --------------------------------------------------------------------------------------

_PLAIN = (
    Feature(
        "log_return", _log_ratio(CLOSE, CLOSE.shift(1)), ("close",), 2, "log ratio to the last close", "definition"
    ),
    Feature(
        "overnight_return",
        _log_ratio(OPEN, CLOSE.shift(1)),
        ("open", "close"),
        2,
        "log ratio of the open to the last close",
        "definition",
    ),
    Feature(
        "intraday_return", _log_ratio(CLOSE, OPEN), ("open", "close"), 1, "log ratio of close to open", "definition"
    ),
    Feature(
        "high_return",
        _log_ratio(HIGH, CLOSE.shift(1)),
        ("high", "close"),
        2,
        "log ratio to the last close",
        "definition",
    ),
    Feature(
        "low_return", _log_ratio(LOW, CLOSE.shift(1)), ("low", "close"), 2, "log ratio to the last close", "definition"
    ),
    Feature(
        "window_log_price",
        CLOSE.log(),
        ("close",),
        1,
        "log ratio of the close to that of the window's first present bar",
        "definition",
        relative=True,
    ),
    Feature(
        "volume_change",
        _log_ratio(VOLUME, VOLUME.shift(1)),
        ("volume",),
        2,
        "log ratio to the last bar's volume",
        "definition",
    ),
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

# Trailing statistics, each with its own number of bars ----------------------------------------------------------------


def _trailing_volatility(bars: int) -> pl.Expr:
    return _log_ratio(CLOSE, CLOSE.shift(1)).rolling_std(bars)


def _normalised_return(bars: int) -> pl.Expr:
    # volatility of the bars before this one: a bar that normalised itself could not stand out
    return _log_ratio(CLOSE, CLOSE.shift(1)) / _trailing_volatility(bars).shift(1)


def _relative_volume(bars: int) -> pl.Expr:
    return VOLUME.log() - VOLUME.log().rolling_mean(bars)


def _price_zscore(bars: int) -> pl.Expr:
    return (CLOSE.log() - CLOSE.log().rolling_mean(bars)) / CLOSE.log().rolling_std(bars)


@dataclass(frozen=True)
class Trailing:
    """A family of features, one for each number of bars >= 2. Look-back = bars + `extra` bars."""

    expression: Callable[[int], pl.Expr]
    columns: tuple[str, ...]
    extra: int
    unit: str
    origin: str


PLAIN = {feature.name: feature for feature in _PLAIN}
TRAILING = {
    "trailing_volatility": Trailing(
        _trailing_volatility, ("close",), 1, "standard deviation of log returns over the last N bars", "definition"
    ),
    "normalised_return": Trailing(
        _normalised_return, ("close",), 2, "log return in standard deviations of the N before it", "definition"
    ),
    "relative_volume": Trailing(
        _relative_volume, ("volume",), 0, "log volume less its mean over the last N bars", "definition"
    ),
    "price_zscore": Trailing(
        _price_zscore,
        ("close",),
        0,
        "log close in standard deviations from its mean over the last N bars",
        "definition",
    ),
}


def find(name: str) -> Feature:
    """The feature of a name such as `log_return` or `relative_volume_20`.

    Raises: DataError: there is no such feature; the message names the nearest.
    """
    if name in PLAIN:
        return PLAIN[name]
    match = re.fullmatch(r"(\w+)_(\d+)", name)
    if match and match[1] in TRAILING and int(match[2]) >= 2:
        family, bars = TRAILING[match[1]], int(match[2])
        return Feature(
            name,
            family.expression(bars),
            family.columns,
            bars + family.extra,
            family.unit.replace(" N ", f" {bars} "),
            family.origin,
        )
    names = [*PLAIN, *(f"{family}_20" for family in TRAILING)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DataError(
        f"data.features has {name!r}; {hint}There are {', '.join(names)}, where 20 can be any number of bars from 2"
    )


def find_all(names: Sequence[str], available: Collection[str]) -> tuple[Feature, ...]:
    """The features of some names, in their order, all computable from the columns that are available.

    Raises: DataError: a name is unknown, given twice, or needs a column that the source lacks; or there are no names.
    """
    if not names:
        raise DataError("data.features is empty; name at least one, such as [log_return]")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise DataError(f"data.features has {', '.join(twice)} more than once")
    features = tuple(find(name) for name in names)
    for feature in features:
        lacking = [column for column in feature.columns if column not in available]
        if lacking:
            raise DataError(
                f"data.features has {feature.name}, which needs {', '.join(lacking)}; the source has only "
                f"{', '.join(column for column in available if column not in ('timestamp', 'asset'))}"
            )
    return features


def longest_lookback(features: Sequence[Feature]) -> int:
    """Bars that a row of features depends on, its own included."""
    return max(feature.lookback for feature in features)
