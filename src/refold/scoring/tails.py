"""The highest scores, and the level that follows from them: a generalised Pareto tail."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from refold.errors import ConfigError

FEWEST_PEAKS = 10
"""Scores above the initial level that a Pareto tail is fitted to, at least."""

TAIL_SHARE = 0.02
"""Share of the validation scores that the tail is fitted to, of at least FEWEST_PEAKS."""


@dataclass(frozen=True)
class Tail:
    """The highest scores, and the level that follows from them.

    Attributes:
        begin: the score at which the tail begins.
        peaks: (n,) by how much each score in the tail passes `begin`.
        count: number of all scores.
        risk: probability that a score passes `level`.
        level: see `tail_level`.
    """

    begin: float
    peaks: np.ndarray
    count: int
    risk: float
    level: float

    def with_peak(self, excess: float) -> "Tail":
        """Return the tail with one more score in it, which passes `begin` by `excess`."""
        peaks, count = np.append(self.peaks, excess), self.count + 1
        return replace(self, peaks=peaks, count=count, level=tail_level(self.begin, peaks, count, self.risk))


def fit_tail(scores: np.ndarray, risk: float, start: float) -> Tail:
    """Fit a Pareto tail to the highest scores.

    Args:
        scores: (N,) without NaN.
        risk: probability that a score passes the level.
        start: the share of scores below the tail.

    Raises:
        ConfigError: fewer than FEWEST_PEAKS scores lie above the start.
    """
    begin = float(np.quantile(scores, start))
    peaks = scores[scores > begin] - begin
    if len(peaks) < FEWEST_PEAKS:
        raise ConfigError(
            f"threshold.start is {start}; {len(peaks)} of the {len(scores)} validation scores lie above it, and a tail "
            f"needs at least {FEWEST_PEAKS}: lower it, bring more validation bars, or take threshold=quantile"
        )
    return Tail(begin, peaks, len(scores), risk, tail_level(begin, peaks, len(scores), risk))


def tail_level(begin: float, peaks: np.ndarray, count: int, risk: float) -> float:
    """Return the score that is passed with probability `risk`: z_q of Siffer et al. 2017, equation 1.

    Args:
        begin: the score at which the tail begins.
        peaks: (n,) by how much each score in the tail passes `begin`.
        count: number of all scores.
        risk: in (0, n / count).
    """
    return _level(begin, *fit_pareto(peaks), risk * count / len(peaks))


def _level(begin: float, gamma: float, sigma: float, share: float) -> float:
    """Return the score that a share of the tail lies above."""
    if abs(gamma) < 1e-8:
        return begin - sigma * np.log(share)
    return begin + sigma / gamma * (share**-gamma - 1)


def tail_levels(begin: Sequence[float], peaks: Sequence[np.ndarray], count: Sequence[int], risk: float) -> list[float]:
    """Return `tail_level` of each of P tails, fitted at once."""
    fits = zip(*(part.tolist() for part in fit_paretos(peaks)), strict=True)
    tails = zip(begin, peaks, count, strict=True)
    return [
        _level(first, gamma, sigma, risk * n / len(own))
        for (gamma, sigma), (first, own, n) in zip(fits, tails, strict=True)
    ]


def fit_pareto(peaks: np.ndarray) -> tuple[float, float]:
    """Fit a generalised Pareto distribution to peaks by maximum likelihood; see `fit_paretos`.

    Args:
        peaks: (n,) above 0.

    Returns:
        Shape gamma, at least -0.5, and scale sigma.
    """
    gammas, sigmas = fit_paretos([peaks])
    return float(gammas[0]), float(sigmas[0])


_BELOW = np.logspace(-4, 0, 24)[:-1] - 1
_ABOVE = np.concatenate([[0.0], np.logspace(-3, 2, 40)])
"""The grid of thetas: below 0 in units of the least theta that there may be, and from 0 on."""

_NUMBERS_AT_ONCE = 1 << 20
"""Logarithms that `fit_paretos` takes at once at most, 8 MiB."""


def fit_paretos(peaks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Fit a generalised Pareto distribution to each of P samples by maximum likelihood.

    With theta = gamma / sigma, the likeliest gamma is the mean of log(1 + theta y): one number is searched for, on a
    grid and then between its neighbours (Grimshaw 1993), by Newton's steps on the derivative of the loss, which are
    halved brackets where they would leave them. `scipy.stats.genpareto.fit` searches for two numbers from one start,
    takes thirty times as long, and now and then misses. Below -0.5 there is no regular maximum (Smith 1985).

    Args:
        peaks: P samples (n,) above 0.

    Returns:
        Shapes gamma (P,), at least -0.5, and scales sigma (P,).
    """
    longest = max(map(len, peaks))
    at_once = max(1, _NUMBERS_AT_ONCE // (longest * (len(_BELOW) + len(_ABOVE))))
    if len(peaks) > at_once:
        parts = [fit_paretos(peaks[start : start + at_once]) for start in range(0, len(peaks), at_once)]
        gammas, sigmas = (np.concatenate(both) for both in zip(*parts, strict=True))
        return gammas, sigmas
    means = np.array([one.mean() for one in peaks])
    y, count = np.zeros((len(peaks), longest)), np.array([[len(one)] for one in peaks])
    for row, one in enumerate(peaks):
        y[row, : len(one)] = one / means[row]  # what is left is 0, and adds nothing to a sum
    grid = np.concatenate([_BELOW / y.max(axis=1)[:, None], np.tile(_ABOVE, (len(peaks), 1))], axis=1)
    with np.errstate(all="ignore"):
        losses = _losses(grid, np.log1p(grid[:, :, None] * y[:, None]).sum(axis=2) / count)
        best = losses.argmin(axis=1)[:, None]
        ends = (np.take_along_axis(grid, np.clip(best + step, 0, grid.shape[1] - 1), axis=1) for step in (-1, 1))
        theta = _likeliest(y, count, np.take_along_axis(grid, best, axis=1), *ends)
        gamma = (np.log1p(theta * y).sum(axis=1, keepdims=True) / count)[:, 0]
        zero, theta = np.abs(theta[:, 0]) < 1e-9, theta[:, 0]
        return np.where(zero, 0.0, gamma), np.where(zero, means, gamma / theta * means)


def _losses(theta: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """Return what is minimised: infinite below a gamma of -0.5, 0 at a theta of 0."""
    losses = np.where(gamma < -0.5, np.inf, np.log(gamma / theta) + gamma)
    return np.where(np.abs(theta) < 1e-9, 0.0, np.where(np.isnan(losses), np.inf, losses))


def _likeliest(y: np.ndarray, count: np.ndarray, theta: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Find the theta (P, 1) of least loss between two others, from one between them.

    Args:
        y: (P, n) peaks over their mean, 0 where there is none.
        count: (P, 1) of the peaks.
        theta: (P, 1) where the search begins.
        low: (P, 1) below it.
        high: (P, 1) above it.
    """
    best, least = theta, np.full(theta.shape, np.inf)
    for _ in range(60):
        shares = y / (1 + theta * y)
        gamma = np.log1p(theta * y).sum(axis=1, keepdims=True) / count
        slope, bend = (part.sum(axis=1, keepdims=True) / count for part in (shares, -(shares * shares)))
        loss = _losses(theta, gamma)
        best, least = np.where(loss < least, theta, best), np.minimum(loss, least)
        near = np.abs(theta) < 1e-6  # there the differences below are rounding noise: their limits
        first = np.where(near, 1 + bend / 2, slope / gamma - 1 / theta + slope)
        second = bend / gamma - (slope / gamma) ** 2 + 1 / theta**2 + bend
        falls = (gamma < -0.5) | (first < 0)
        low, high = np.where(falls, theta, low), np.where(falls, high, theta)
        step = theta - first / second
        inside = ~near & (gamma >= -0.5) & (second > 0) & (low <= step) & (step <= high)
        following = np.where(inside, step, (low + high) / 2)
        if (np.abs(following - theta) <= 1e-9 * np.maximum(1.0, np.abs(theta))).all():
            break
        theta = following
    return best


@dataclass(frozen=True)
class ScoreTail:
    """The generalised Pareto tail of some validation scores, for what lies beyond the highest of them.

    Attributes:
        begin: the score at which the tail begins.
        gamma: its shape, at least 0, so that no score is impossible.
        sigma: its scale, above 0; 0 if the scores do not differ.
    """

    begin: float
    gamma: float
    sigma: float

    @classmethod
    def fit(cls, scores: np.ndarray) -> "ScoreTail":
        """Fit the tail to the highest scores.

        Args:
            scores: (V,) sorted, without NaN, at least one.
        """
        count = min(len(scores) - 1, max(FEWEST_PEAKS, math.ceil(TAIL_SHARE * len(scores))))
        begin = float(scores[len(scores) - 1 - count])
        peaks = scores[scores > begin] - begin
        if not len(peaks):
            return cls(begin, 0.0, 0.0)
        gamma, sigma = fit_pareto(peaks) if len(peaks) >= FEWEST_PEAKS else (0.0, float(peaks.mean()))
        if gamma <= 0:  # a tail with an end would call what lies beyond it impossible
            gamma, sigma = 0.0, float(peaks.mean())
        return cls(begin, gamma, sigma)

    def log_survival(self, scores: np.ndarray) -> np.ndarray:
        """Return the log of the share of the tail that lies above scores (N,)."""
        if self.sigma == 0:
            return np.zeros(len(scores))
        beyond = (scores - self.begin) / self.sigma
        return -beyond if self.gamma < 1e-8 else -np.log1p(self.gamma * beyond) / self.gamma

    def score_at(self, log_survival: float) -> float:
        """Return the score that a share of the tail lies above; of a tail without a scale, where it begins.

        Args:
            log_survival: log of the share, at most 0.
        """
        if self.gamma < 1e-8:
            return self.begin - self.sigma * log_survival
        return self.begin + self.sigma * math.expm1(-self.gamma * log_survival) / self.gamma
