"""Measure how rare a score is: the share of its asset's validation bars that score as high.

Letters: N bars, V validation scores.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from refold.scoring.scores.base_score import asset_rows
from refold.scoring.tails import ScoreTail
from refold.scoring.thresholds import FEWEST_OWN, ValidationScores, asset_years

SMALLEST = float(np.finfo(np.float64).tiny)
"""Least rarity, so that it is never 0: some 2e-308."""

LONGEST = 10_000
"""Years, or days, beyond which a period is written as "more than"."""

POOL = ""
"""Key of the tail of all assets together; no asset is named so."""

MOST_NAMED = 10
"""Assets that a message names."""

log = logging.getLogger("refold.score")


class Rarity:
    """Rank scores by how many of the validation bars of their asset score as high.

    Up to the highest score of validation it is counted. Beyond, the Pareto tail of the highest scores goes on from
    there. Assets with fewer than FEWEST_OWN validation bars, and those that validation does not know, are ranked among
    the bars of all assets.

    Args:
        validation: the scores of validation, with the names of the assets.
        tails: asset, or POOL -> its tail; None fits them.
    """

    def __init__(self, validation: ValidationScores, tails: Mapping[str, Sequence[float]] | None = None) -> None:
        self.validation = validation
        self._scores = {POOL: np.sort(validation.scores[np.isfinite(validation.scores)])}
        for name, own in validation.by_asset():
            there = np.sort(own.scores[np.isfinite(own.scores)])
            if len(there) >= FEWEST_OWN:
                self._scores[name] = there
        self.tails = (
            {name: ScoreTail.fit(scores) for name, scores in self._scores.items()}
            if tails is None
            else {name: ScoreTail(*tail) for name, tail in tails.items()}
        )

    @property
    def pooled(self) -> set[str]:
        """Names of assets of validation that are ranked among the bars of all."""
        return {name for name, _ in self.validation.by_asset()} - set(self._scores)

    def state(self) -> dict[str, list[float]]:
        """Return the tails as plain numbers, for `tails`."""
        return {name: [tail.begin, tail.gamma, tail.sigma] for name, tail in self.tails.items()}

    def check(self) -> None:
        """Refuse tails that `state` never returns.

        Raises:
            ValueError: one lacks, or is no tail.
        """
        for name in self._scores:
            tail = self.tails.get(name)
            numbers = () if tail is None else (tail.begin, tail.gamma, tail.sigma)
            if not numbers or not all(math.isfinite(number) for number in numbers) or min(numbers[1:]) < 0:
                raise ValueError(f"the tail of {name or 'all assets'!r} is {tail}")
            if not len(self._scores[name]):
                raise ValueError("no validation bar has a score")

    def of(self, scores: np.ndarray, asset: str) -> np.ndarray:
        """Return the rarity of an asset's scores.

        Args:
            scores: (N,) NaN where there is none.
            asset: name.

        Returns:
            (N,) in (0, 1]: it falls, or stays, as the score rises; NaN where there is no score.
        """
        own = asset if asset in self._scores else POOL
        known, tail = self._scores[own], self.tails[own]
        highest, count = known[-1], len(known)
        as_high = (count - np.searchsorted(known, scores, side="left")) / count
        with np.errstate(invalid="ignore"):
            there = np.isfinite(scores)
            beyond = np.flatnonzero(there & (scores > highest))
        if len(beyond):
            last = tail.log_survival(np.array([highest]))[0]
            as_high[beyond] = np.exp(tail.log_survival(scores[beyond]) - last) / count
        as_high = np.maximum(as_high, SMALLEST)
        as_high[np.isnan(scores)] = np.nan
        return as_high

    def of_table(self, scores: np.ndarray, assets: pl.Series) -> np.ndarray:
        """Return the rarity of the scores of several assets.

        Args:
            scores: (N,) NaN where there is none.
            assets: (N,) names; equal ones are neighbours.
        """
        result = np.full(len(scores), np.nan)
        for rows in asset_rows(assets.rle_id().to_numpy()):
            result[rows] = self.of(scores[rows], assets[rows.start])
        return result

    def ranks_alone(self, asset: str) -> bool:
        """Tell whether an asset's scores are ranked among those of its own bars."""
        return asset != POOL and asset in self._scores

    def bars_per_year(self) -> float:
        """Return how many bars of an asset validation has in a year; NaN if it has fewer than two moments."""
        years = asset_years(1, self.validation.moments, self.validation.span)
        return 1 / years if years else float("nan")


def once_in(rarity: float | None, bars_per_year: float, *, intraday: bool) -> str | None:
    """Say how often an asset has a bar that is as rare.

    Args:
        rarity: in (0, 1], or None.
        bars_per_year: of an asset.
        intraday: whether to count in days instead of years.

    Returns:
        Such as "once in 3.2 years", "5 times a year" or "once in 12 days"; None if it is not known.
    """
    if rarity is None or not bars_per_year > 0:
        return None
    unit, units = ("day", 365.25) if intraday else ("year", 1.0)
    period = units / (rarity * bars_per_year)
    if period > LONGEST:
        return f"once in more than {LONGEST:,} {unit}s"
    if period < 1:
        return f"{1 / period:.0f} times a {unit}" if 1 / period >= 1.5 else f"once a {unit}"
    return f"once in {period:.0f} {unit}s" if period >= 10 else f"once in {period:.1f} {unit}s"


def with_periods(events: pl.DataFrame, validation: Mapping[str, Any]) -> pl.DataFrame:
    """Add a column once_in to events: how often an asset has a bar as rare as the peak.

    Args:
        events: with a column rarity.
        validation: of a fitted detector.
    """
    years = asset_years(1, validation["moments"], validation["span_seconds"])
    per_year = 1 / years if years > 0 else float("nan")
    intraday = 0 < validation["bar_seconds"] < 86400
    told = [once_in(rarity, per_year, intraday=intraday) for rarity in events["rarity"]]
    place = events.columns.index("rarity") + 1
    return events.clone().insert_column(place, pl.Series("once_in", told, dtype=pl.String))


def listed(names: Iterable[str]) -> str:
    """Return sorted names in a line, at most MOST_NAMED of them.

    Args:
        names: of assets.
    """
    found = sorted(names)
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return ", ".join(found[:MOST_NAMED]) + more


def tell_pooled(pooled: list[str], rarity: Rarity, threshold: str) -> None:
    """Log which assets are judged by the scores of all assets, and why.

    Args:
        pooled: assets without a level of their own.
        rarity: fitted to validation.
        threshold: name of the threshold's class.
    """
    if pooled:
        log.warning(
            "threshold.per_asset: %s: too few validation bars for a level of its own by %s (at least %d, and what the "
            "threshold itself needs); the level of all assets judges them",
            listed(pooled), threshold, FEWEST_OWN,
        )  # fmt: skip
    if other := rarity.pooled - set(pooled):
        log.info(
            "rarity: %s: fewer than %d validation bars; ranked among the bars of all assets", listed(other), FEWEST_OWN
        )
