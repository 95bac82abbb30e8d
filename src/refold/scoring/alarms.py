"""Numbers of alarms that each threshold would give, side by side, so that a user can choose one.

An alarm is a run of neighbouring flagged bars. All levels are fitted to the scores of validation.
"""

import math
from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
import polars as pl

from refold.data.long.ordered import stretches
from refold.errors import ConfigError
from refold.scoring.scored import alarm_unit, count_rates, known_scores, seconds
from refold.scoring.thresholds import Memory, Threshold, running_levels

MOST_LEARNT = 100_000
"""Bars on which alarms of a threshold that learns are counted. Of a longer table, the first bars of each piece count:
the threshold fits its tail again at each high score, which takes some milliseconds."""

MOMENTS = 2_000_000
"""About so many different moments are counted in one query."""


class Alarms:
    """Count the alarms of a fitted threshold in tables that come one after the other, such as the pieces of a long one.

    Args:
        threshold: fitted.
        rows: about how many rows all tables will have.
    """

    def __init__(self, threshold: Threshold, rows: int) -> None:
        self.threshold = threshold
        self.share = min(1.0, MOST_LEARNT / rows) if threshold.learns and rows else 1.0
        self.alarms, self.bars = 0, 0
        self._tails: dict[str, Memory] = {}
        self._last: pl.DataFrame | None = None

    def anew(self) -> "Alarms":
        """Return the same threshold, with nothing counted."""
        fresh = copy(self)
        fresh.alarms, fresh.bars, fresh._tails, fresh._last = 0, 0, {}, None
        return fresh

    def add(self, table: pl.DataFrame) -> None:
        """Count the next rows.

        Args:
            table: asset, score (null or NaN where there is none) and place, as `scan` gives them.
        """
        table = table.select("asset", "score", "place").head(math.ceil(self.share * table.height))
        scores = table["score"].to_numpy()
        self.bars += int(np.isfinite(scores).sum())
        with np.errstate(invalid="ignore"):
            flagged = table.filter(
                pl.Series(scores > running_levels(self.threshold, scores, table["asset"], self._tails))
            )
        known = 0 if self._last is None else self._last.height
        rows = flagged if self._last is None else pl.concat([self._last, flagged])
        same = (pl.col("asset") == pl.col("asset").shift(1)) & (pl.col("place") == pl.col("place").shift(1) + 1)
        self.alarms += rows.select((~same.fill_null(False)).slice(known).sum()).item()
        self._last = rows.tail(1)


class AlarmRates:
    """Fit several thresholds to the scores of validation, and count their alarms there and on other bars.

    A threshold is left out if validation has too few scores for it. `unit` is the time over which alarms of an asset
    are counted: a year, or a day for bars within the day.

    Args:
        thresholds: name -> threshold, not fitted.
        validation: of a fitted detector.
        rows: about how many bars will be added.
    """

    def __init__(self, thresholds: Mapping[str, Threshold], validation: Mapping[str, Any], rows: int) -> None:
        known = known_scores(validation)
        scores, moments, span = known.scores, known.moments, known.span
        self.unit = alarm_unit(validation["bar_seconds"])
        assets = pl.Series(known.names, dtype=pl.String).gather(known.asset)
        own = pl.DataFrame({"asset": assets, "score": scores}).with_row_index("place")
        self.validation: dict[str, float] = {}
        self.counts: dict[str, Alarms] = {}
        for name, threshold in thresholds.items():
            try:
                threshold.fit_assets(known)
            except ConfigError:
                continue
            seen = Alarms(threshold, len(scores))
            seen.add(own)
            self.validation[name] = self._rate(seen, moments, validation["days"], span)
            self.counts[name] = Alarms(threshold, rows)

    def anew(self) -> "AlarmRates":
        """Return the same thresholds, with no other bars counted."""
        fresh = copy(self)
        fresh.counts = {name: count.anew() for name, count in self.counts.items()}
        return fresh

    def counted(self) -> dict[str, tuple[int, int]]:
        """Return threshold -> alarms and bars among the other bars so far."""
        return {name: (count.alarms, count.bars) for name, count in self.counts.items()}

    def merge(self, counted: Mapping[str, tuple[int, int]]) -> None:
        """Add what was counted on the bars of other assets; see `counted`."""
        for name, (alarms, bars) in counted.items():
            self.counts[name].alarms += alarms
            self.counts[name].bars += bars

    def add(self, table: pl.DataFrame) -> None:
        """Count the next rows of the other bars.

        Args:
            table: as in `Alarms.add`.
        """
        for count in self.counts.values():
            count.add(table)

    def _rate(self, count: Alarms, moments: int, days: int, span: float) -> float:
        """Return the alarms per asset and year, or of bars within the day per asset and day."""
        rates = count_rates(count.alarms, 0, count.bars, moments, days, span)
        return rates.per_asset_day if self.unit == "day" else rates.per_asset_year

    def rates(self, moments: int, days: int, span: float, name: str) -> dict[str, dict[str, float]]:
        """Return the level and the alarms per asset and `unit` of each threshold.

        Args:
            moments: different moments of the other bars, as `covered` counts them.
            days: different days of the other bars, as `covered_days` counts them.
            span: seconds from the first of them to the last.
            name: of the other bars.

        Returns:
            threshold -> "level", "validation" (alarms there) and `name` (alarms on the other bars).
        """
        return {
            threshold: {
                "level": float(count.threshold.level),
                "validation": self.validation[threshold],
                name: self._rate(count, moments, days, span),
            }
            for threshold, count in self.counts.items()
        }


def covered_days(scores: pl.LazyFrame) -> int:
    """Count the days that have scored bars.

    Args:
        scores: as for `covered`.
    """
    day = scores.filter(pl.col("score").is_not_null()).select(pl.col("timestamp").cast(pl.Date).n_unique())
    return day.collect(engine="streaming").item()


def covered(scores: pl.LazyFrame) -> tuple[int, int, float]:
    """Count the scored bars and their different moments, and measure the seconds from the first to the last.

    Moments are counted in one stretch of time after the other, so that memory does not grow with their number. How many
    stretches that takes is estimated first: of many assets a table has more bars than moments.

    Args:
        scores: timestamp and score, null where a bar has none.

    Returns:
        bars, moments and seconds.
    """
    time = pl.col("timestamp").to_physical()
    known = scores.filter(pl.col("score").is_not_null()).select("timestamp")
    about = pl.col("timestamp").approx_n_unique().alias("about")
    extent = known.select(pl.len(), time.min().alias("first"), time.max().alias("last"), about)
    bars, first, last, about = extent.collect(engine="streaming").row(0)
    if not bars:
        return 0, 0, 0.0
    moments = 0
    for low, high in stretches(first, last, about // MOMENTS + 1):
        found = known.filter(time >= low, time < high).select(pl.col("timestamp").n_unique())
        moments += found.collect(engine="streaming").item()
    return bars, moments, float(seconds(np.array(last - first), scores.collect_schema()["timestamp"]))
