"""A threshold that keeps to a number of alarms."""

import math
from typing import Annotated, Literal

import numpy as np

from refold.bounds import checked, more_than
from refold.errors import ConfigError
from refold.scoring.thresholds import Threshold, ValidationScores, as_tensor


class AlarmBudget(Threshold):
    """Set the lowest level that gives at most a number of alarms on validation, as every higher level does.

    The level lies half-way between two scores that occur. Of n alarms on validation, the rate on other bars that are
    alike differs by about 1 / sqrt(n); nothing is promised for bars that are unlike.

    Args:
        alarms: above 0, per `per`.
        per: "asset_year", a year of bars of one asset, or "day", a calendar day of all assets together.
        per_asset: as for Quantile; of the alarms of a day, each asset may give an equal share.
    """

    @checked("threshold")
    def __init__(
        self, *, alarms: Annotated[float, more_than(0)], per: Literal["asset_year", "day"], per_asset: bool
    ) -> None:
        self.alarms = alarms
        self.per = per
        self.per_asset = per_asset

    def fit(self, scores: np.ndarray) -> None:
        raise TypeError("a budget of alarms needs the bars' assets and times: call fit_validation")

    def fit_validation(self, validation: ValidationScores) -> None:
        covered = validation.asset_years if self.per == "asset_year" else validation.span / 86400 * validation.share
        allowed = math.floor(self.alarms * covered + 1e-9) if covered > 0 else 0  # 0.1 a year in 10 years is one alarm
        if allowed < 1:
            least = f"; it must be at least {1 / covered:.3g}, which is one alarm there" if covered > 0 else ""
            raise ConfigError(
                f"threshold.alarms is {self.alarms:g} per {self.per}; validation covers {covered:.3g} "
                f"{self.per.replace('_', '-')}s{least}: raise it, bring more validation bars, or take threshold=pot"
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
