"""Scores of bars, and what their times say: how long they span, how often a bar comes, how often one is flagged.

Letters: N bars, F features, C values of a bar.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import polars as pl

from refold.scoring.thresholds import ValidationScores, count_alarms, per_asset_year

Times = TypeVar("Times", np.ndarray, np.float64)


@dataclass(frozen=True)
class Scores:
    """Scores of bars, asset after asset in order of time; NaN where there is no score.

    Attributes:
        score: (N,) float64.
        contributions: (N, C) float64, whose sum is the score.
        reconstruction: (N, F) float32, in the units of the features; the log price itself for a feature that is
            relative to the window's first bar.
        asset: (N,) int, numbers of the assets.
        times: (N,) int64, as in the series.
        origin: (N,) int, row of the table, -1 for none.
        names: of the assets, by number.
    """

    score: np.ndarray
    contributions: np.ndarray
    reconstruction: np.ndarray
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


def bar_seconds(times: np.ndarray, asset: np.ndarray, dtype: pl.DataType) -> float:
    """Measure the usual time from one bar of an asset to the next, in seconds; NaN if no asset has two.

    Args:
        times: (N,) int64, as in a series.
        asset: (N,) numbers.
        dtype: of the timestamps.
    """
    steps = np.diff(times)[np.diff(asset) == 0]
    return float(seconds(np.median(steps), dtype)) if len(steps) else float("nan")


def alarm_rate(flagged: np.ndarray, scored: Scores, dtype: pl.DataType) -> float:
    """Count the alarms, runs of flagged bars, per asset and year of scored bars.

    Args:
        flagged: (N,) bool.
        scored: the scores of the N bars.
        dtype: of the timestamps.
    """
    bars = int((~np.isnan(scored.score)).sum())
    return per_asset_year(count_alarms(flagged, scored.asset), bars, *extent(scored, dtype))


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
    return ValidationScores(scores, asset, moments, span, validation["asset_names"])
