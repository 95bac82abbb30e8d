"""A threshold that keeps to a number of alarms, also where the market changes."""

import math
from dataclasses import astuple, dataclass
from typing import Annotated, Literal

import numpy as np

from refold.bounds import at_least, checked, more_than
from refold.errors import ConfigError
from refold.scoring.thresholds import Threshold, ValidationScores, as_tensor

STRETCH = 1024
"""Bars whose levels are computed at once."""


@dataclass(frozen=True)
class Pace:
    """Count what moves the level of an asset: its alarms and its bars so far.

    Attributes:
        alarms: runs of flagged bars.
        bars: scored bars.
        flagged: whether the last bar was flagged.
    """

    alarms: int = 0
    bars: int = 0
    flagged: bool = False


class AlarmBudget(Threshold):
    """Start from the lowest level that gives at most a number of alarms on validation, and keep to that pace.

    The first level lies half-way between two scores that occur; every higher one keeps to the budget too. From there on
    each asset's level follows its alarms: an alarm multiplies its distance from the median validation score by
    exp(adapt), and each bar divides it by exp(adapt r), where r is the budget per bar. With n bars there are then
    r n + log(last distance / first distance) / adapt alarms, whatever the bars are: where scores become k times as
    high, log(k) / adapt alarms come once beyond the budget. The level at a bar depends on earlier bars alone.

    Args:
        alarms: above 0, per `per`.
        per: "asset_year", a year of bars of one asset; "asset_day", a day that has bars of it; "day", a calendar day of
            all assets together.
        adapt: how far an alarm raises the level, at least 0; 0 keeps the level as it was fitted.
        per_asset: as for Quantile; of the alarms of a day, each asset may give an equal share.

    Source: Gibbs and Candes 2021, section 2; Angelopoulos et al. 2023, section 2.1 (quantile tracking), here on a log
    scale and with alarms in place of misses.
    """

    tensors = ("level", "middle", "pace")

    @checked("threshold")
    def __init__(
        self,
        *,
        alarms: Annotated[float, more_than(0)],
        per: Literal["asset_year", "asset_day", "day"],
        adapt: Annotated[float, at_least(0)],
        per_asset: bool,
    ) -> None:
        self.alarms = alarms
        self.per = per
        self.adapt = adapt
        self.per_asset = per_asset

    def fit(self, scores: np.ndarray) -> None:
        raise TypeError("a budget of alarms needs the bars' assets and times: call fit_validation")

    def fit_validation(self, validation: ValidationScores) -> None:
        covered = {
            "asset_year": validation.asset_years,
            "asset_day": validation.asset_days,
            "day": validation.span / 86400 * validation.share,
        }[self.per]
        allowed = math.floor(self.alarms * covered + 1e-9) if covered > 0 else 0  # 0.1 a year in 10 years is one alarm
        if allowed < 1:
            least = f"; it must be at least {1 / covered:.3g}, which is one alarm there" if covered > 0 else ""
            within_days = self.per == "asset_year" and validation.moments > 1.1 * validation.days
            hint = ", count them by the day (threshold.per=asset_day)" if within_days else ""
            raise ConfigError(
                f"threshold.alarms is {self.alarms:g} per {self.per}; validation covers {covered:.3g} "
                f"{self.per.replace('_', '-')}s{least}: raise it{hint}, bring more "
                "validation bars, or take threshold=pot"
            )
        scores = np.nan_to_num(validation.scores, nan=-np.inf)
        before = np.append(-np.inf, scores[:-1])
        before[1:][np.diff(validation.asset) != 0] = -np.inf
        rises = scores > before  # a bar begins an alarm of each level from the score before it up to its own
        levels = np.unique(scores[np.isfinite(scores)])
        begun, earlier = np.sort(scores[rises]), np.sort(before[rises])
        alarms = np.searchsorted(earlier, levels, side="right") - np.searchsorted(begun, levels, side="right")
        lowest = int(np.flatnonzero(np.append(True, alarms > allowed))[-1])  # from here on all levels keep to it
        self.level = as_tensor(levels[lowest : lowest + 2].mean())
        there = validation.scores[np.isfinite(validation.scores)]
        self.middle = as_tensor(np.median(there))
        self.pace = as_tensor(self.alarms * covered / len(there))

    def levels(self, scores: np.ndarray, tail: Pace | None) -> tuple[np.ndarray, Pace]:
        """Return the level that holds at each bar of one asset, from what came before it.

        Args:
            scores: (N,) in order of time, NaN where there is none.
            tail: the Pace that was returned for the asset's bars before; None: there are none.

        Returns:
            (N,) levels, and the Pace to pass with the bars that come next.
        """
        alarms, bars, flagged = astuple(tail or Pace())
        middle, fall = float(self.middle), self.adapt * float(self.pace)
        distance = float(self.level) - middle
        levels = np.empty(len(scores))
        there = np.isfinite(scores)
        done = 0
        while done < len(scores):  # from one flagged bar to the next
            stretch = slice(done, done + STRETCH)
            before = bars + np.cumsum(there[stretch]) - there[stretch]  # scored bars before each
            levels[stretch] = middle + distance * np.exp(self.adapt * alarms - fall * before)
            with np.errstate(invalid="ignore"):
                above = scores[stretch] > levels[stretch]
            first = int(above.argmax())
            if not above[first]:
                bars = int(before[-1]) + int(there[stretch][-1])
                flagged = False
                done += len(above)
                continue
            alarms += first > 0 or not flagged  # a run of flagged bars is one alarm
            bars = int(before[first]) + 1
            flagged = True
            done += first + 1
        return levels, Pace(int(alarms), bars, flagged)
