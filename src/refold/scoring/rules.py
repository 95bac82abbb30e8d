"""The rules that price feeds are usually cleaned with, each a scorer of bars: a model has to add something to them.

A rule's score is 1 or more where it would say "error". Like the windows that hold a bar, rules may look at the bars
after it.

Sources: Brownlees and Gallo 2006; Barndorff-Nielsen et al. 2009, rules of deviations from a neighbourhood.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Self

import numpy as np
import polars as pl

from refold.data.bars.market import SPLIT_RATIOS, UNIT_RATIOS, calm_trade, overnight_jump, quiet_peers, survey
from refold.scoring.guesses import LARGEST_REST
from refold.scoring.protocols import Scorer

_MANY_DEVIATIONS = 5.0  # Barndorff-Nielsen et al. take 10 from tick to tick; of daily returns that would miss most
_NEIGHBOURS = 50  # bars that a bar is compared with
_FEWEST_NEIGHBOURS = 10
_SPLIT_TOLERANCE = 0.03  # of a log ratio: a split and what else happened over night, as in data.checks.split_tolerance
_UNIT_TOLERANCE = 0.15  # of a decimal logarithm: a factor of 1.4, for the drift of prices among the neighbours
_RARE_RUN = 0.999  # quantile of the lengths of stale runs, over training bars, that is still usual
_SHORTEST_STALE = 3  # repetitions of a close that are reason enough, however rare
_MARGIN = 0.01  # by which `nothing_fires` asks for less than the rules do
_NORMAL = 1.4826  # standard deviation of a normal distribution over the median of its size
_CLOSE = pl.col("close")
_RETURN = (_CLOSE / _CLOSE.shift(1)).log()


class Rule(ABC):
    """Score bars with one expression over a table of them.

    Attributes:
        fires_at: the score from which on the rule says "error".
    """

    fires_at = 1.0

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Do nothing: most rules have nothing to learn."""
        return self

    @abstractmethod
    def expression(self, bars: pl.DataFrame, market: pl.DataFrame | None) -> pl.Expr:
        """Build the expression of the score.

        Args:
            bars: that it will be evaluated on.
            market: as for `score`.
        """

    def score(self, bars: pl.DataFrame, market: pl.DataFrame | None = None) -> np.ndarray:
        """Score each bar.

        Args:
            bars: N canonical bars, sorted by asset, then time.
            market: `checks.survey` of the table that the bars are a piece of; None: the bars are a table of their own.

        Returns:
            (N,) float64, NaN where the rule cannot tell.
        """
        scores = bars.select(self.expression(bars, market).cast(pl.Float64).alias("score")).to_series()
        return scores.fill_null(math.nan).to_numpy()


class _InDeviations(Rule):
    """Compare with the usual size of the returns before a bar."""

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Learn the smallest deviation to divide by, for bars after a long standstill: a tenth of the usual one."""
        self.floor = 0.1 * _NORMAL * max(train.select(_RETURN.over("asset").abs().median()).item() or 0.0, 1e-6)
        return self

    def in_deviations(self, size: pl.Expr) -> pl.Expr:
        """Divide a size by five robust standard deviations, 1.4826 x median size, of the returns before the bar."""
        median = _RETURN.abs().rolling_median(_NEIGHBOURS, min_samples=_FEWEST_NEIGHBOURS).shift(1)
        return (size / (_MANY_DEVIATIONS * (_NORMAL * median).clip(lower_bound=self.floor))).over("asset")


class RobustReturn(_InDeviations):
    """Score a bar by the robust z of its return. It finds moves, wrong or real."""

    def expression(self, bars: pl.DataFrame, market: pl.DataFrame | None) -> pl.Expr:
        """Return |r_t| in five deviations."""
        return self.in_deviations(_RETURN.abs())


class SpikeReversal(_InDeviations):
    """Bad tick: the next return takes back what this one did. The last bar of an asset has no score."""

    def expression(self, bars: pl.DataFrame, market: pl.DataFrame | None) -> pl.Expr:
        """Return min(|r_t|, |r_{t+1}|) in five deviations where the signs differ, else 0."""
        following = _RETURN.shift(-1)
        return self.in_deviations((_RETURN.abs() + following.abs() - (_RETURN + following).abs()) / 2)


class StaleRun(Rule):
    """Stale quote: more closes in a row equal the one before than is usual in the training part."""

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Learn how long runs are over all assets: those of one asset are too few for a quantile far out."""
        lengths = train.select(self._length()).to_series()
        self.usual = 1 + max(_SHORTEST_STALE - 1, lengths.quantile(_RARE_RUN) or 0.0)
        return self

    def _length(self) -> pl.Expr:
        """Return the repetitions in the run of each bar that repeats the close before; 0 for other bars."""
        run = pl.struct("asset", "close").rle_id()
        return pl.when(run == run.shift(1)).then(pl.len().over(run) - 1).otherwise(0)

    def expression(self, bars: pl.DataFrame, market: pl.DataFrame | None) -> pl.Expr:
        """Return repetitions / (usual number + 1), where the divisor is at least three."""
        return self._length() / self.usual


class SplitRatio(Rule):
    """Unadjusted split: the price opens at a split's ratio to the last close.

    The trade in money must be calm, most peers must not jump the same way, and neither the return before nor the one
    after may be of its size, as around a spike. The score is 1 where the log ratio is 0.03 off and 2 where it is exact.
    """

    def expression(self, bars: pl.DataFrame, market: pl.DataFrame | None) -> pl.Expr:
        """Return 2 - distance / tolerance, at least 0."""
        jump = overnight_jump(bars.columns)
        stays = pl.all_horizontal((_RETURN.shift(lag).abs() < jump.abs() / 2).fill_null(True) for lag in (1, -1))
        near = _nearness(jump.abs(), [math.log(ratio) for ratio in SPLIT_RATIOS], _SPLIT_TOLERANCE)
        alone = pl.when(calm_trade(bars.columns) & stays).then(near).otherwise(0.0).over("asset")
        return pl.when(quiet_peers(jump, survey(bars) if market is None else market)).then(alone).otherwise(0.0)


class UnitRatio(Rule):
    """Another unit: the close is about 100 or 1000 times, or a 100th or 1000th of, the median of the bars around it.

    The score is 1 at 1.4 times such a ratio and 2 where it is exact.
    """

    def expression(self, bars: pl.DataFrame, market: pl.DataFrame | None) -> pl.Expr:
        """Return 2 - distance / tolerance, at least 0."""
        median = _CLOSE.rolling_median(_NEIGHBOURS + 1, min_samples=1, center=True)
        ratio = (_CLOSE / median).log10().abs()
        return _nearness(ratio, [math.log10(ratio) for ratio in UNIT_RATIOS], _UNIT_TOLERANCE).over("asset")


def _nearness(value: pl.Expr, targets: list[float], tolerance: float) -> pl.Expr:
    """Return 2 on a target, 1 a tolerance off, and 0 from two tolerances on."""
    distance = pl.min_horizontal((value - target).abs() for target in targets)
    return (2 - distance / tolerance).clip(lower_bound=0)


RULES: dict[str, type[Rule]] = {
    "bad tick": SpikeReversal,
    "stale": StaleRun,
    "split": SplitRatio,
    "unit": UnitRatio,
}
"""Kind of error -> the rule that looks for it."""


def nothing_fires(opens: np.ndarray, closes: np.ndarray) -> bool:
    """Tell whether no rule and no second guess of `likely_looks` can speak at an asset's last bar or the one before.

    It asks for less than the rules do and needs no table, so that a bar that comes alone costs microseconds: where it
    is True none fires, where it is False the rules have to be asked.

    Args:
        opens: (N,) prices, the newest last.
        closes: (N,) prices.
    """
    if (
        len(closes) < 4
        or not np.isfinite(opens).all()
        or not np.isfinite(closes).all()
        or min(closes.min(), opens.min()) <= 0
    ):
        return False
    jumps = np.abs(np.log(opens[-2:] / closes[-3:-1]))
    returns = np.diff(np.log(closes))
    smallest = math.log(min(SPLIT_RATIOS))
    splits = jumps.max() >= smallest - _SPLIT_TOLERANCE - _MARGIN
    splits |= np.abs(returns[-2:]).max() >= (1 - LARGEST_REST) * smallest - _MARGIN
    units = math.log10(closes.max() / closes.min()) >= math.log10(min(UNIT_RATIOS)) - _UNIT_TOLERANCE - _MARGIN
    if splits or units or (returns[-3:] == 0).any():
        return False
    before, after = returns[-2:].tolist()
    usual = _NORMAL * float(np.median(np.abs(returns[-2 - _NEIGHBOURS : -2])))
    return before * after >= 0 or min(abs(before), abs(after)) < _MANY_DEVIATIONS * usual * (1 - _MARGIN)


class LargestRank:
    """Score bars with rules and a scorer beside them, by the largest of their ranks.

    A rank is the share of validation's scores below a score. Scores larger than all of them keep their order: those of
    the other scorer rank from 1 to below 2, and those of a rule that fires from 2 on, since it says what the error is.
    Near such a bar the other scorer does not count: its windows and features hold a known error, and it would blame the
    neighbours for that. A member that cannot tell is left out.

    Args:
        rules: name -> rule.
        other: the scorer beside them; None: rules alone.
        reach: bars before and after a bar that the other scorer's score depends on.
    """

    def __init__(self, rules: Mapping[str, Rule], other: Scorer | None, reach: int) -> None:
        self.rules = dict(rules)
        self.other = other
        self.reach = reach

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Fit rules and scorer, and learn their scores of validation."""
        for rule in self.rules.values():
            rule.fit(train, val)
        self.usual = {name: _sorted_scores(rule.score(val)) for name, rule in self.rules.items()}
        if self.other is not None:
            self.usual_other = _sorted_scores(self.other.fit(train, val).score(val))
        return self

    def score(self, bars: pl.DataFrame) -> np.ndarray:
        """Return the largest rank of each bar, (N,)."""
        scores = {name: rule.score(bars) for name, rule in self.rules.items()}
        ranks = []
        for name, rule in self.rules.items():
            share, excess = _rank(scores[name], self.usual[name], rule.fires_at)
            ranks.append(np.where(excess > 0, 2 + np.log1p(excess), share))
        if self.other is not None:
            fires = np.any([scores[name] >= rule.fires_at for name, rule in self.rules.items()], axis=0)
            near = _mark_neighbours(fires, bars["asset"].rle_id().to_numpy(), self.reach)
            share, excess = _rank(self.other.score(bars), self.usual_other, 0.0)
            ranks.append(np.where(near, np.nan, np.where(excess > 0, 1 + excess / (1 + excess), share)))
        return np.fmax.reduce(ranks, axis=0)


class OnOneScale:
    """Score bars with rules and a scorer of log-odds beside them, by the larger log-odds of an error.

    A rule that fires counts as the log-odds that it is right on copies of the training part with planted errors. So one
    that often fires in vain does not outrank the other scorer. What is planted, real moves too, is expected to be rarer
    than in the copies, and counts as much less there; a rule that fires on a bar as it came counts in full.

    Args:
        rules: name -> rule.
        other: fitted scorer, whose scores are log-odds.
        plant: training bars -> copies with errors, their labels (above 0 at an error, -1 where a bar does not count),
            and which bars were planted.
        prior: log-odds of an error that the other scorer expects, less those of the copies.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        other: Scorer,
        plant: Callable[[pl.DataFrame], Iterable[tuple[pl.DataFrame, np.ndarray, np.ndarray]]],
        prior: float,
    ) -> None:
        self.rules = dict(rules)
        self.other = other
        self.plant = plant
        self.prior = prior
        self.odds: dict[str, float] = {}

    def fit(self, train: pl.DataFrame, val: pl.DataFrame) -> Self:
        """Fit the rules, and learn how often each is right."""
        rarer = math.exp(self.prior)
        counts = {name: np.array([rarer, 1.0]) for name in self.rules}  # right, wrong: one of each before any is seen
        for rule in self.rules.values():
            rule.fit(train, val)
        for bars, labels, planted in self.plant(train):
            weight = np.where(planted, rarer, 1.0)
            for name, rule in self.rules.items():
                fires = rule.score(bars) >= rule.fires_at
                counts[name] += weight[fires & (labels > 0)].sum(), weight[fires & (labels == 0)].sum()
        self.odds = {name: math.log(right / wrong) for name, (right, wrong) in counts.items()}
        return self

    def score(self, bars: pl.DataFrame) -> np.ndarray:
        """Return the largest log-odds of each bar, (N,)."""
        odds = [self.other.score(bars)]
        for name, rule in self.rules.items():
            scores = rule.score(bars)
            order = 0.1 * np.log1p(np.maximum(scores - rule.fires_at, 0))  # of those that fire, by the rule itself
            odds.append(np.where(scores >= rule.fires_at, self.odds[name] + order, np.nan))
        return np.fmax.reduce(odds, axis=0)


def _sorted_scores(scores: np.ndarray) -> np.ndarray:
    """Return the scores without NaN, sorted."""
    return np.sort(scores[~np.isnan(scores)])


def _rank(scores: np.ndarray, usual: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of usual scores below each score, and each score's excess over the largest; NaN gives NaN.

    Args:
        scores: (N,).
        usual: sorted.
        least: lower bound of the largest usual score, whose multiples measure the excess.
    """
    largest = max(usual[-1] if len(usual) else 0.0, least)
    share = np.searchsorted(usual, scores, side="left") / max(1, len(usual))
    excess = np.maximum(scores - largest, 0) / (largest if largest > 0 else 1.0)
    return np.where(np.isnan(scores), np.nan, share), excess


def _mark_neighbours(fires: np.ndarray, asset: np.ndarray, reach: int) -> np.ndarray:
    """Mark the bars that fire or have a bar of the same asset that does at most `reach` away, (N,) bool."""
    number = np.arange(len(fires))
    first, end = np.searchsorted(asset, asset), np.searchsorted(asset, asset, side="right")
    count = np.concatenate([[0], np.cumsum(fires)])
    return count[np.minimum(number + reach + 1, end)] > count[np.maximum(number - reach, first)]
