"""Scores of bars, and what their times say: how long they span, how often a bar comes, how often one is flagged.

Letters: N bars, F features, C values of a bar.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import polars as pl

from refold.scoring.scores.base_score import NamedBars
from refold.scoring.thresholds import ValidationScores, asset_days, count_alarms, per_asset_year

Times = TypeVar("Times", np.ndarray, np.float64)


@dataclass(frozen=True)
class Scores:
    """Scores of bars, asset after asset in order of time; NaN where there is no score.

    Attributes:
        score: (N,) float64.
        contributions: (N, C) float64, whose sum is the score.
        reconstruction: (N, F) float32, in the units of the features; the log price itself for a feature that is
            relative to the window's first bar.
        named: what kinds of errors the bars look like; None if the score knows no names.
        asset: (N,) int, numbers of the assets.
        times: (N,) int64, as in the series.
        origin: (N,) int, row of the table, -1 for none.
        names: of the assets, by number.
    """

    score: np.ndarray
    contributions: np.ndarray
    reconstruction: np.ndarray
    named: NamedBars | None
    asset: np.ndarray
    times: np.ndarray
    origin: np.ndarray
    names: Sequence[str]


def seconds(times: Times, dtype: pl.DataType) -> Times:
    """Convert differences or moments to seconds.

    Args:
        times: in the units of a series' times.
        dtype: of the timestamps: dates, or datetimes with their unit.
    """
    per_second = {"ms": 1e3, "us": 1e6, "ns": 1e9}
    return times / per_second[dtype.time_unit] if isinstance(dtype, pl.Datetime) else times * 86400.0


def microseconds(times: np.ndarray, dtype: pl.DataType) -> np.ndarray:
    """Return moments as whole microseconds since 1970.

    Args:
        times: (N,) int64, in the units of a series' times.
        dtype: of the timestamps.
    """
    if not isinstance(dtype, pl.Datetime):
        return times * 86_400_000_000
    return times // 1000 if dtype.time_unit == "ns" else times * {"ms": 1000, "us": 1}[dtype.time_unit]


def bar_seconds(times: np.ndarray, asset: np.ndarray, dtype: pl.DataType) -> float:
    """Measure the usual time from one bar of an asset to the next, in seconds; NaN if no asset has two.

    Args:
        times: (N,) int64, as in a series.
        asset: (N,) numbers.
        dtype: of the timestamps.
    """
    steps = np.diff(times)[np.diff(asset) == 0]
    return float(seconds(np.median(steps), dtype)) if len(steps) else float("nan")


class AlarmCounts(NamedTuple):
    """The number of alarms: runs of neighbouring flagged bars.

    Attributes:
        per_asset_year: per asset and year of scored bars; NaN if there are fewer than two moments.
        per_asset_day: per asset and day that has scored bars; NaN likewise.
        flagged_share: share of the scored bars that are flagged; NaN if there are none.
    """

    per_asset_year: float
    per_asset_day: float
    flagged_share: float

    def named(self, prefix: str = "") -> dict[str, float]:
        """Return the numbers by the names that they have in result.json and scoring.json.

        Args:
            prefix: before each name, such as "val/".
        """
        year, day, share = self
        return {
            f"{prefix}alarms_per_asset_year": year,
            f"{prefix}alarms_per_asset_day": day,
            f"{prefix}flagged_share": share,
        }


def validation_rates(validation: Mapping[str, Any]) -> dict[str, float]:
    """Return the alarms of a fitted detector on validation by the names that they have in result.json.

    Args:
        validation: of the detector.
    """
    names = ("alarms_per_asset_year", "alarms_per_asset_day", "flagged_share")
    return {f"val/{name}": validation[name] for name in names}


def count_rates(alarms: int, flagged: int, bars: int, moments: int, days: int, span: float) -> AlarmCounts:
    """Convert numbers of alarms and flagged bars to rates.

    Args:
        alarms: runs of neighbouring flagged bars.
        flagged: flagged bars.
        bars: scored ones, of all assets.
        moments: their different timestamps.
        days: their different dates.
        span: seconds from the first to the last moment.
    """
    share = flagged / bars if bars else float("nan")
    covered = asset_days(bars, moments, days)
    per_day = alarms / covered if covered else float("nan")
    return AlarmCounts(per_asset_year(alarms, bars, moments, span), per_day, share)


def alarm_unit(seconds_per_bar: float) -> Literal["day", "year"]:
    """Return the time over which alarms of an asset are counted: a day for bars within a day, else a year.

    Args:
        seconds_per_bar: usual time from one bar to the next.
    """
    return "day" if seconds_per_bar < 0.9 * 86400 else "year"


def alarm_words(facts: Mapping[str, Any], seconds_per_bar: float, prefix: str = "") -> str:
    """Describe alarms per asset and year of daily bars, per asset and day of those within a day, and as a share.

    Args:
        facts: with the names of `AlarmCounts.named`.
        seconds_per_bar: usual time from one bar to the next.
        prefix: of the names.

    Returns:
        Words such as `2.1 alarms per asset and year (0.40 % of bars flagged)`.
    """
    unit = alarm_unit(seconds_per_bar)
    return (
        f"{facts[f'{prefix}alarms_per_asset_{unit}']:.{2 if unit == 'day' else 1}f} alarms per asset and {unit} "
        f"({facts[f'{prefix}flagged_share']:.2%} of bars flagged)".replace("%", " %")
    )


def alarm_rate(flagged: np.ndarray, scored: Scores, dtype: pl.DataType) -> AlarmCounts:
    """Count the alarms, runs of flagged bars, per asset and year, per asset and day, and as a share of scored bars.

    Args:
        flagged: (N,) bool.
        scored: the scores of the N bars.
        dtype: of the timestamps.
    """
    bars = int((~np.isnan(scored.score)).sum())
    moments, span = extent(scored, dtype)
    days = scored_days(scored, dtype)
    return count_rates(count_alarms(flagged, scored.asset), int(flagged.sum()), bars, moments, days, span)


def scored_days(scored: Scores, dtype: pl.DataType) -> int:
    """Count the days that have scored bars.

    Args:
        scored: the scores of bars.
        dtype: of the timestamps.
    """
    a_day = round(86400 / float(seconds(np.float64(1), dtype)))
    return len(np.unique(scored.times[~np.isnan(scored.score)] // a_day))


def extent(scored: Scores, dtype: pl.DataType) -> tuple[int, float]:
    """Count the different moments of scored bars, and measure the seconds from the first to the last.

    Args:
        scored: the scores of bars.
        dtype: of the timestamps.
    """
    moments = np.unique(scored.times[~np.isnan(scored.score)])
    return len(moments), float(seconds(moments[-1] - moments[0], dtype)) if len(moments) else 0.0


def known_scores(validation: Mapping[str, Any]) -> ValidationScores:
    """Return the scores of validation that a fitted detector keeps.

    Args:
        validation: of the detector.
    """
    moments, span = validation["moments"], validation["span_seconds"]
    scores, asset = validation["scores"].numpy(), validation["asset"].numpy()
    return ValidationScores(scores, asset, moments, span, validation["days"], validation["asset_names"])


def timed_scores(scored: Scores, dtype: pl.DataType) -> ValidationScores:
    """Return the scores of validation as thresholds are fitted to them.

    Args:
        scored: the scores of the validation part.
        dtype: of the timestamps.
    """
    moments, span = extent(scored, dtype)
    return ValidationScores(scored.score, scored.asset, moments, span, scored_days(scored, dtype), scored.names)
