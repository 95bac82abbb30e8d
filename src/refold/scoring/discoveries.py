"""A threshold that promises a share of false alarms instead of a number of alarms.

Letters: n validation scores, m bars of a block, N bars.
"""

import bisect
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch

from refold.bounds import at_least, checked, within
from refold.errors import ConfigError
from refold.scoring.tails import FEWEST_PEAKS, ScoreTail
from refold.scoring.thresholds import Threshold


@dataclass(frozen=True)
class Block:
    """The last bars of an asset, as far as they can move its level.

    Attributes:
        scores: (n,) of the bars that are high enough, in order of time.
        numbers: (n,) int, how many scored bars of the asset came before each.
        count: scored bars so far.
    """

    scores: np.ndarray
    numbers: np.ndarray
    count: int


class FalseDiscoveries(Threshold):
    """Flag bars so that about a chosen share of the flags is false: Benjamini and Hochberg over an asset's last bars.

    The p-value of a bar is the share of validation bars that score as high, the bar itself among them (a conformal
    p-value). Beyond the highest validation score a Pareto tail goes on. A bar is flagged if the procedure of Benjamini
    and Hochberg rejects it among the last `block` scored bars of its asset, itself included. The cut of that procedure
    depends on the other bars alone, so it is a level that is known before the bar comes: where strange bars are many,
    the level falls; where there are none, it is the score with the p-value share / block.

    The share holds for independent bars that are alike to validation. Neither is true of markets, so it is measured and
    not proved.

    Args:
        share: of the flags that may be false, in (0, 1).
        block: scored bars of an asset that are judged together, at least 2.
        per_asset: whether each asset with enough scores gets p-values from its own.

    Source: Benjamini and Hochberg 1995; conformal p-values: Bates et al. 2023, section 2; blocks of a stream: Kroenert
    et al. 2023.
    """

    tensors = ("level", "cuts")

    @checked("threshold")
    def __init__(
        self,
        *,
        share: Annotated[float, within(0, 1, open_start=True, open_end=True)],
        block: Annotated[int, at_least(2)],
        per_asset: bool,
    ) -> None:
        self.share = share
        self.block = block
        self.per_asset = per_asset

    def fit(self, scores: np.ndarray) -> None:
        if len(scores) <= FEWEST_PEAKS:
            raise ConfigError(
                f"threshold=fdr needs more than {FEWEST_PEAKS} validation scores for its tail; there are "
                f"{len(scores)}: bring more validation bars"
            )
        known = np.sort(scores)
        tail = ScoreTail.fit(known)
        p_values = self.share * np.arange(1, self.block + 1) / self.block
        # cuts[k - 1]: a bar above it has at most the k-th p-value
        self.cuts = torch.tensor([_score_at(p, known, tail) for p in p_values], dtype=torch.float64)
        self.level = self.cuts[0].clone()

    def levels(self, scores: np.ndarray, tail: Block | None) -> tuple[np.ndarray, Block]:
        """Return the level that holds at each bar of one asset, from what came before it.

        Args:
            scores: (N,) in order of time, NaN where there is none.
            tail: the Block that was returned for the asset's bars before; None: there are none.

        Returns:
            (N,) levels, and the Block to pass with the bars that come next.
        """
        before = tail or Block(np.empty(0), np.empty(0, dtype=np.int64), 0)
        cuts = self.cuts.numpy()
        there = np.isfinite(scores)
        number = before.count + np.cumsum(there) - there  # scored bars before each bar
        count = before.count + int(there.sum())
        with np.errstate(invalid="ignore"):
            high = np.flatnonzero(scores > cuts[-1])
        own = np.append(before.scores, scores[high])
        numbers = np.append(before.numbers, number[high])
        # A high bar lowers the level of the block - 1 scored bars after it.
        enters = np.searchsorted(number, numbers, side="right")
        enters[len(before.scores) :] = high + 1
        leaves = np.searchsorted(number, numbers + self.block, side="left")
        levels = _between(own, enters, leaves, cuts, len(scores))
        kept = numbers > count - self.block
        return levels, Block(own[kept], numbers[kept], count)


def _score_at(p_value: float, known: np.ndarray, tail: ScoreTail) -> float:
    """Return the score above which the p-value is at most a number.

    Args:
        p_value: in (0, 1).
        known: (n,) validation scores, rising.
        tail: of them.
    """
    rank = p_value * (len(known) + 1)
    if rank >= 1:  # (1 + as many as score as high) / (n + 1) is at most p_value
        return float(known[max(len(known) - 1 - math.floor(rank - 1 + 1e-9), 0)])
    return tail.score_at(math.log(rank) + float(tail.log_survival(known[-1:])[0]))


def _between(own: np.ndarray, enters: np.ndarray, leaves: np.ndarray, cuts: np.ndarray, bars: int) -> np.ndarray:
    """Return the level of each bar, which changes where a high bar enters the block or leaves it.

    Args:
        own: (n,) scores of high bars.
        enters: (n,) int, first bar whose block holds the high bar.
        leaves: (n,) int, first bar whose block holds it no longer.
        cuts: (m,) falling.
        bars: number of bars.
    """
    changes: dict[int, list[tuple[float, bool]]] = {}
    for score, first, end in zip(own.tolist(), enters.tolist(), leaves.tolist(), strict=True):
        if first < end:
            changes.setdefault(first, []).append((-score, True))
            changes.setdefault(end, []).append((-score, False))
    levels = np.full(bars, cuts[0])
    held: list[float] = []  # of the block's high bars, the highest first, with their sign turned
    places = sorted(changes)
    for place, following in pairwise([*places, bars]):
        for score, comes in changes[place]:
            if comes:
                bisect.insort(held, score)
            else:
                del held[bisect.bisect_left(held, score)]
        above = np.flatnonzero(-np.array(held[: len(cuts) - 1]) > cuts[1 : len(held) + 1])
        levels[place:following] = cuts[above[-1] + 1] if len(above) else cuts[0]
    return levels
