"""How many alarms each threshold would give, side by side, so that one can be chosen.

An alarm is a run of neighbouring flagged bars. All levels are fitted to the scores of validation.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from refold.data.long.ordered import stretches
from refold.errors import ConfigError
from refold.scoring.detector import per_asset_year, seconds
from refold.scoring.thresholds import Tail, Threshold, running_levels

MOST_LEARNT = 100_000
"""Bars that a threshold which learns is counted on. Of more, the first ones of each piece: it fits its tail anew at
each high score, some milliseconds each time."""

AT_ONCE = 2_000_000
"""Scored bars among which different moments are counted together."""


class Alarms:
    """Alarms of a fitted threshold in tables that come one after the other, such as the pieces of a long one.

    Args: rows: of all tables together, about.
    """

    def __init__(self, threshold: Threshold, rows: int) -> None:
        self.threshold = threshold
        self.share = min(1.0, MOST_LEARNT / rows) if threshold.learns and rows else 1.0
        self.alarms, self.bars = 0, 0
        self._tails: dict[str, Tail | None] = {}
        self._last: pl.DataFrame | None = None

    def add(self, table: pl.DataFrame) -> None:
        """The next rows. Args: table: asset, score (null or NaN where there is none) and place, as `scan` gives it."""
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


class Comparison:
    """Thresholds on the same scores: those of validation, which they are fitted to, and those of other bars.

    A threshold that validation has too few scores for is left out.

    Args: thresholds: name -> not fitted. validation: of a detector. rows: how many bars will be added, about.
    """

    def __init__(self, thresholds: Mapping[str, Threshold], validation: Mapping[str, Any], rows: int) -> None:
        scores = validation["scores"].numpy()
        own = pl.DataFrame({"asset": validation["asset"].numpy(), "score": scores}).with_row_index("place")
        self.validation: dict[str, float] = {}
        self.counts: dict[str, Alarms] = {}
        for name, threshold in thresholds.items():
            try:
                threshold.fit(scores[np.isfinite(scores)])
            except ConfigError:
                continue
            seen = Alarms(threshold, len(scores))
            seen.add(own.with_columns(pl.col("asset").cast(pl.String)))
            moments, span = validation["moments"], validation["span_seconds"]
            self.validation[name] = per_asset_year(seen.alarms, seen.bars, moments, span)
            self.counts[name] = Alarms(threshold, rows)

    def add(self, table: pl.DataFrame) -> None:
        """The next rows of the other bars. Args: as of `Alarms.add`."""
        for count in self.counts.values():
            count.add(table)

    def rates(self, moments: int, span: float, name: str) -> dict[str, dict[str, float]]:
        """Threshold -> level on validation, alarms per asset and year on validation and on the other bars.

        Args: moments, span: of the other bars; see `covered`. name: theirs.
        """
        return {
            threshold: {
                "level": float(count.threshold.level),
                "validation": self.validation[threshold],
                name: per_asset_year(count.alarms, count.bars, moments, span),
            }
            for threshold, count in self.counts.items()
        }


def covered(scores: pl.LazyFrame) -> tuple[int, int, float]:
    """Scored bars, their different moments, and the seconds from the first to the last.

    Moments are counted in one stretch of time after the other, so that memory does not grow with them.
    """
    time = pl.col("timestamp").to_physical()
    known = scores.filter(pl.col("score").is_not_null()).select("timestamp")
    extent = known.select(pl.len(), time.min().alias("first"), time.max().alias("last")).collect(engine="streaming")
    bars, first, last = extent.row(0)
    if not bars:
        return 0, 0, 0.0
    moments = 0
    for low, high in stretches(first, last, bars // AT_ONCE + 1):
        here = known.filter(time >= low, time < high).select(pl.col("timestamp").n_unique())
        moments += here.collect(engine="streaming").item()
    return bars, moments, float(seconds(np.float64(last - first), scores.collect_schema()["timestamp"]))
