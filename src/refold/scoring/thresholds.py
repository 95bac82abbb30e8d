"""Thresholds that turn scores into verdicts: levels fitted to the scores of the validation part alone.

An alarm is a run of neighbouring bars above the level.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from refold.bounds import at_least, checked, within
from refold.errors import ConfigError
from refold.scoring.fitted import Fitted
from refold.scoring.scores.base_score import asset_rows
from refold.scoring.tails import Tail, fit_tail

log = logging.getLogger("refold.score")

Memory = Any
"""State of a threshold that learns from an asset's bars, None before the first: a dataclass of numbers and arrays."""

FEWEST_OWN = 250
"""Scored validation bars from which on an asset is judged by its own, about a year of days. With fewer, the highest of
them say little, and it is judged by those of all assets."""


class ValidationScores(NamedTuple):
    """Scores of the validation part, and the time that they cover.

    Attributes:
        scores: (N,) asset after asset in order of time, NaN where there is none.
        asset: (N,) int, number of each bar's asset; equal numbers are neighbours.
        moments: different timestamps of scored bars.
        span: seconds from the first of them to the last.
        days: different dates of scored bars.
        names: of the assets, by number; empty if they are not known.
        share: of what is allowed to all assets together, in (0, 1]; 1 / A for the scores of one of A assets.
    """

    scores: np.ndarray
    asset: np.ndarray
    moments: int
    span: float
    days: int
    names: Sequence[str] = ()
    share: float = 1.0

    @property
    def asset_years(self) -> float:
        """Scored bars, in years of bars of one asset; NaN if there are fewer than two moments."""
        return asset_years(int(np.isfinite(self.scores).sum()), self.moments, self.span)

    @property
    def asset_days(self) -> float:
        """Scored bars, in days of bars of one asset; NaN if there are fewer than two moments."""
        return asset_days(int(np.isfinite(self.scores).sum()), self.moments, self.days)

    def by_asset(self) -> "Iterator[tuple[str, ValidationScores]]":
        """Yield the name of each asset that has a score, and its scores alone."""
        blocks = [rows for rows in asset_rows(self.asset) if np.isfinite(self.scores[rows]).any()]
        for rows in blocks:
            name = self.names[int(self.asset[rows.start])]
            yield name, self._replace(scores=self.scores[rows], asset=self.asset[rows], share=1 / len(blocks))


class Threshold(Fitted, ABC):
    """Set a level from the scores of validation, above which a bar is flagged.

    Attributes:
        learns: the level goes on learning from the bars that it judges, which takes time.
        per_asset: whether each asset with enough scores gets a level of its own.
        level: (), float64, as fitted to the scores of all assets.
        own: asset -> this threshold as fitted to the asset's own scores; empty unless per_asset.
    """

    role = "threshold"
    learns: ClassVar[bool] = False
    tensors = ("level",)
    per_asset: bool = False
    level: Tensor
    own: Mapping[str, "Threshold"] = {}

    @abstractmethod
    def fit(self, scores: np.ndarray) -> None:
        """Set `level` from the scores of validation.

        Args:
            scores: (N,) without NaN.

        Raises:
            ConfigError: there are too few.
        """

    def fit_validation(self, validation: ValidationScores) -> None:
        """Set `level` from the scores of validation and their times; by default from the scores alone.

        Raises:
            ConfigError: there are too few.
        """
        self.fit(validation.scores[np.isfinite(validation.scores)])

    def fit_assets(self, validation: ValidationScores) -> list[str]:
        """Set `level` from the scores of all assets, and with `per_asset` one more from those of each asset.

        Args:
            validation: with the names of the assets, if `per_asset`.

        Returns:
            Assets with too few scores for a level of their own, which `level` judges.

        Raises:
            ConfigError: all assets together have too few.
        """
        self.fit_validation(validation)
        self.own, pooled = {}, []
        if not self.per_asset:
            return pooled
        own = {}
        for name, scores in validation.by_asset():
            alone = copy(self)
            try:
                if np.isfinite(scores.scores).sum() < FEWEST_OWN:
                    raise ConfigError(f"{name} has fewer than {FEWEST_OWN} validation bars")
                alone.fit_validation(scores)
            except ConfigError:  # such as a tail of too few peaks
                pooled.append(name)
            else:
                own[name] = alone
        self.own = own
        return pooled

    def of(self, asset: str) -> "Threshold":
        """Return the threshold that judges an asset: its own, or that of all assets."""
        return self.own.get(asset, self)

    def state_dict(self) -> dict[str, Any]:
        """Return the fitted tensors by name, and those of each asset under "own"."""
        own = {name: {key: getattr(alone, key) for key in alone.tensors} for name, alone in self.own.items()}
        return {**super().state_dict(), **({"own": own} if own else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returns.

        Raises:
            ConfigError: it is the state of another class.
        """
        super().load_state_dict({key: value for key, value in state.items() if key != "own"})
        own = {}
        for name, tensors in state.get("own", {}).items():
            own[name] = copy(self)
            own[name].own = {}
            Fitted.load_state_dict(own[name], tensors)
        self.own = own

    def levels(self, scores: np.ndarray, tail: Memory) -> tuple[np.ndarray, Memory]:
        """Return the level that holds at each bar of one asset, from what came before it.

        Args:
            scores: (n,) in order of time, NaN where there is none.
            tail: as returned for the asset's bars before; None: there are none, or the threshold does not learn.

        Returns:
            (n,) levels, and the tail to pass with the bars that come next.
        """
        return np.full(len(scores), float(self.level)), None


def as_tensor(value: float | np.floating) -> Tensor:
    """Return a fitted number as a tensor () of float64."""
    return torch.tensor(float(value), dtype=torch.float64)


class Quantile(Threshold):
    """Set the level that a share of the validation scores stays below.

    Args:
        share: in (0, 1); 0.999 flags about one bar in a thousand on validation.
        per_asset: whether each asset with enough scores gets a level of its own.
    """

    @checked("threshold")
    def __init__(
        self, *, share: Annotated[float, within(0, 1, open_start=True, open_end=True)], per_asset: bool
    ) -> None:
        self.share = share
        self.per_asset = per_asset

    def fit(self, scores: np.ndarray) -> None:
        self.level = as_tensor(np.quantile(scores, self.share))


class MeanStd(Threshold):
    """Set the level at the mean of the validation scores plus a number of their standard deviations.

    Args:
        deviations: at least 0. Scores have long tails: 3 flags far more than a normal distribution would.
        per_asset: as for Quantile.
    """

    @checked("threshold")
    def __init__(self, *, deviations: Annotated[float, at_least(0)], per_asset: bool) -> None:
        self.deviations = deviations
        self.per_asset = per_asset

    def fit(self, scores: np.ndarray) -> None:
        self.level = as_tensor(scores.mean() + self.deviations * scores.std())


class PeaksOverThreshold(Threshold):
    """POT: set the level that is passed with probability `risk`, from a Pareto tail fitted to the highest scores.

    Args:
        risk: probability that a usual bar is flagged, above 0 and below 1 - start.
        start: the share of scores below the tail, in (0, 1).
        per_asset: as for Quantile.

    Source: Siffer et al. 2017, "Anomaly detection in streams with extreme value theory", section 3.
    """

    @checked("threshold")
    def __init__(
        self,
        *,
        risk: Annotated[float, within(0, 1, open_start=True, open_end=True)],
        start: Annotated[float, within(0, 1, open_start=True, open_end=True)],
        per_asset: bool,
    ) -> None:
        if risk >= 1 - start:
            raise ValueError(
                f"threshold.risk is {risk}; it must be below 1 - threshold.start = {1 - start:g}: the level lies in "
                "the tail that begins there"
            )
        self.risk = risk
        self.start = start
        self.per_asset = per_asset

    def fit(self, scores: np.ndarray) -> None:
        self.level = as_tensor(fit_tail(scores, self.risk, self.start).level)


class StreamingPeaks(Threshold):
    """SPOT: start from the level of POT, and go on learning from each asset's bars, one after the other.

    A bar above the level is flagged and is not learnt. A bar between the start of the tail and the level joins the
    tail, which is fitted again. So the level at a bar depends on earlier bars alone.

    Args:
        risk: as for POT.
        start: as for POT.
        per_asset: as for Quantile.

    Source: Siffer et al. 2017, section 4.
    """

    learns = True
    tensors = ("level", "begin", "peaks", "count")

    @checked("threshold")
    def __init__(
        self,
        *,
        risk: Annotated[float, within(0, 1, open_start=True, open_end=True)],
        start: Annotated[float, within(0, 1, open_start=True, open_end=True)],
        per_asset: bool,
    ) -> None:
        PeaksOverThreshold(risk=risk, start=start, per_asset=per_asset)  # its rule between the two
        self.risk = risk
        self.start = start
        self.per_asset = per_asset

    def fit(self, scores: np.ndarray) -> None:
        tail = fit_tail(scores, self.risk, self.start)
        self.level, self.begin = as_tensor(tail.level), as_tensor(tail.begin)
        self.peaks, self.count = torch.from_numpy(tail.peaks), torch.tensor(tail.count)

    def levels(self, scores: np.ndarray, tail: Tail | None) -> tuple[np.ndarray, Tail]:
        if tail is None:
            tail = Tail(float(self.begin), self.peaks.numpy(), int(self.count), self.risk, float(self.level))
        levels = np.empty(len(scores))
        done = 0
        with np.errstate(invalid="ignore"):
            high = np.flatnonzero(scores > tail.begin)
        for place in high:
            levels[done : place + 1] = tail.level
            seen = int(np.isfinite(scores[done:place]).sum())
            tail = replace(tail, count=tail.count + seen)
            if scores[place] <= tail.level:
                tail = tail.with_peak(scores[place] - tail.begin)
            done = place + 1
        levels[done:] = tail.level
        return levels, replace(tail, count=tail.count + int(np.isfinite(scores[done:]).sum()))


def running_levels(threshold: Threshold, scores: np.ndarray, assets: pl.Series, tails: dict[str, Memory]) -> np.ndarray:
    """Return the levels that hold at the next bars of a table that comes in pieces, asset after asset.

    Args:
        threshold: fitted.
        scores: (N,), NaN where there is none.
        assets: (N,) names.
        tails: asset -> the tail that its bars before have left. It is updated, and keeps the last asset alone.

    Returns:
        (N,) levels.
    """
    levels = np.empty(len(scores))
    for block in asset_rows(assets.rle_id().to_numpy()):
        asset = assets[block.start]
        before = tails.get(asset)
        tails.clear()
        levels[block], tails[asset] = threshold.of(asset).levels(scores[block], before)
    return levels


# ---- how many alarms -------------------------------------------------------------------------------------------------

_SECONDS_PER_YEAR = 365.25 * 86400


def asset_years(bars: int, moments: int, span: float) -> float:
    """Convert a number of scored bars to years of bars of one asset; NaN if there are fewer than two moments.

    Args:
        bars: of all assets.
        moments: their different timestamps.
        span: seconds from the first to the last; with the moments it says how many bars a year has.
    """
    return bars * span / _SECONDS_PER_YEAR / (moments - 1) if moments > 1 else float("nan")


def asset_days(bars: int, moments: int, days: int) -> float:
    """Convert a number of scored bars to days of bars of one asset; NaN if there are fewer than two moments.

    Args:
        bars: of all assets.
        moments: their different timestamps.
        days: their different dates.
    """
    return bars * days / moments if moments > 1 else float("nan")


def per_asset_year(alarms: int, bars: int, moments: int, span: float) -> float:
    """Convert a number of alarms to a rate per asset and year; NaN if there are fewer than two moments.

    Args:
        alarms: among the bars.
        bars: as for `asset_years`.
        moments: as for `asset_years`.
        span: as for `asset_years`.
    """
    years = asset_years(bars, moments, span)
    return alarms / years if years else float("nan")


def count_alarms(flagged: np.ndarray, asset: np.ndarray) -> int:
    """Count the runs of neighbouring flagged bars.

    Args:
        flagged: (N,) bool.
        asset: (N,) int, number of each bar's asset; equal numbers are neighbours.
    """
    before = np.zeros(len(flagged), dtype=bool)
    before[1:] = flagged[:-1] & (asset[1:] == asset[:-1])
    return int((flagged & ~before).sum())
