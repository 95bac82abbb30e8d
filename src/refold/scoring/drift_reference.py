"""The validation part's scores and features of each asset, as a reference for the test of `refold.scoring.drift`.

Letters: N bars, M blocks of bars, A assets and the pool of all of them, F features, C = 1 + F values of a bar,
S = 1 + 2 F streams of ranks, Q quantiles, E edges between ranges.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from refold.scoring.scores.base_score import asset_rows
from refold.scoring.thresholds import FEWEST_OWN

BLOCK_BARS = 10
"""Usual bars of a block. Longer blocks find changes later, shorter ones depend more on each other."""

QUANTILES = 64
"""Q: a rank is counted on so many quantiles of validation, twice, so that a tie is a half."""

RANGES = 32
"""Ranges between the surprises of validation: E is one less."""

FEWEST_BLOCKS = 20
"""Blocks of validation from which on an asset is tested. With fewer, no block would be rare."""

SLOW = 0.2
"""Weight of the newest block in the slow mean, as of the last nine blocks."""

LONGEST_MEMORY = 0.9
"""Sum of the weights of both means beyond which a stream is not tested: it wanders, and any place of it is usual."""


@dataclass(frozen=True)
class Reference:
    """Ranks and blocks of the validation part.

    A stream is a sequence of whole numbers, one per bar: the rank of the score, the rank of each feature, and how far
    each feature's rank is from the middle. A block is a stretch of time. The surprise of a block is the mean of a
    stream over it, less what the blocks before let expect. The last row is of all assets together.

    Attributes:
        names: of the assets, A - 1 of them.
        features: names of the F features.
        grid: (A, C, Q) float64, quantiles of each value on validation; of all assets where an asset has few bars.
        span: length of a block, in microseconds.
        fewest: (A,) float64, bars that a block needs to be tested.
        weights: (2, S, 2) float64, of the last block's mean and of the slow mean in what is
            expected; of assets, of the pool.
        edges: (A, S, E) float64, sorted surprises that separate the ranges; infinite at the end where there are fewer.
        gaps: (A, S, E + 1) float64, gaps between neighbouring surprises in each range; all 0 where there is no test.
        bars_per_year: of an asset.
    """

    names: tuple[str, ...]
    features: tuple[str, ...]
    grid: np.ndarray
    span: int
    fewest: np.ndarray
    weights: np.ndarray
    edges: np.ndarray
    gaps: np.ndarray
    bars_per_year: float

    @property
    def streams(self) -> list[tuple[str, str, str]]:
        """Return of each stream what it is of, and the words for a high and a low mean."""
        shifts = [(name, "higher", "lower") for name in ("score", *self.features)]
        return shifts + [(name, "wider", "narrower") for name in self.features]

    @property
    def tested(self) -> np.ndarray:
        """Return which streams are tested: (A, S) bool."""
        return np.asarray(self.gaps.any(axis=2))

    def ranks(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Rank values among those of validation.

        Args:
            rows: (N,) int, row of each bar's asset.
            values: (N, C), without NaN.

        Returns:
            (N, S) int64, from 0 to 2 Q; whole numbers, so that their sums do not depend on their order.
        """
        grid = self.grid[rows]
        rank = (grid < values[:, :, None]).sum(axis=2) + (grid <= values[:, :, None]).sum(axis=2)
        return np.concatenate([rank, 2 * np.abs(rank[:, 1:] - QUANTILES)], axis=1)

    def state(self) -> dict[str, Any]:
        """Return all of it as plain values and tensors."""
        plain = {np.ndarray: torch.from_numpy, tuple: list}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: plain.get(type(value), lambda same: same)(value) for name, value in values.items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Reference":
        """Restore what `state` returned.

        Raises:
            ValueError: the shapes do not fit each other, or a value is none that validation gives.
        """
        read = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in state.items()}
        made = cls(**{**read, "names": tuple(read["names"]), "features": tuple(read["features"])})
        A, C, S = len(made.names) + 1, 1 + len(made.features), 1 + 2 * len(made.features)
        shapes = {"grid": (A, C, QUANTILES), "edges": (A, S, RANGES - 1), "gaps": (A, S, RANGES)}
        for name, shape in {**shapes, "fewest": (A,), "weights": (2, S, 2)}.items():
            if getattr(made, name).shape != shape:
                raise ValueError(f"its drift.{name} is of shape {getattr(made, name).shape}; it must be {shape}")
        if made.span < 1 or not made.bars_per_year > 0 or (made.gaps < 0).any() or np.isnan(made.edges).any():
            raise ValueError("its drift has a span, edges or counts that no validation gives")
        return made


def fit_reference(
    times: np.ndarray,
    asset: np.ndarray,
    values: np.ndarray,
    names: Sequence[str],
    features: Sequence[str],
    bars_per_year: float,
) -> Reference | None:
    """Fit what later bars are compared with to the validation part.

    Args:
        times: (N,) int64, microseconds.
        asset: (N,) int, number of each bar's asset; equal numbers are neighbours, in order of time.
        values: (N, C), score and features, NaN where a bar has no score.
        names: of the assets, by number.
        features: names of the F features.
        bars_per_year: of an asset; NaN if it is not known.

    Returns:
        The reference, or None if no stream has enough bars to be tested.
    """
    kept = np.isfinite(values).all(axis=1)
    times, asset, values = times[kept], asset[kept], values[kept]
    blocks, moments = asset_rows(asset), np.unique(times)
    if len(moments) < FEWEST_BLOCKS * BLOCK_BARS or not bars_per_year > 0:
        return None
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    pool = np.quantile(values, levels, axis=0).T
    own = [
        np.quantile(values[rows], levels, axis=0).T if rows.stop - rows.start >= FEWEST_OWN else pool for rows in blocks
    ]
    A, S = len(blocks) + 1, 1 + 2 * len(features)
    made = Reference(
        names=tuple(names[int(asset[rows.start])] for rows in blocks),
        features=tuple(features),
        grid=np.stack([*own, pool]).astype(np.float64),
        span=max(1, int(np.ceil(BLOCK_BARS * (moments[-1] - moments[0]) / (len(moments) - 1)))),
        fewest=np.full(A, BLOCK_BARS / 2),
        weights=np.zeros((2, S, 2)),
        edges=np.full((A, S, RANGES - 1), np.inf),
        gaps=np.zeros((A, S, RANGES)),
        bars_per_year=float(bars_per_year),
    )
    ranks = np.empty((len(times), S), dtype=np.int64)
    for number, rows in enumerate(blocks):
        for first in range(rows.start, rows.stop, 10_000):  # (N, C, Q) comparisons at a time
            here = slice(first, min(first + 10_000, rows.stop))
            ranks[here] = made.ranks(np.full(here.stop - here.start, number), values[here])
    _count_surprises(made, times, ranks, blocks)
    return made if made.tested.any() else None


def _count_surprises(made: Reference, times: np.ndarray, ranks: np.ndarray, blocks: list[slice]) -> None:
    """Fill in what is expected of a block, and how surprising the blocks of validation are."""
    together, counts = block_means(times, ranks, made.span)
    made.fewest[-1] = np.median(counts) / 2
    own = []
    for number, rows in enumerate(blocks):
        means, bars = block_means(times[rows], ranks[rows], made.span)
        own.append(means[bars >= made.fewest[number]])
    long = [(number, means) for number, means in enumerate(own) if len(means) >= FEWEST_BLOCKS]
    pool = together[counts >= made.fewest[-1]]
    for kind, series in enumerate([long, [(-1, pool)] if len(pool) >= FEWEST_BLOCKS else []]):
        if not series:
            continue
        made.weights[kind], steady = _fit_weights([means for _, means in series])
        for row, means in series:
            surprise = means - expected_means(made.weights[kind], *means_before(means))
            for s in np.flatnonzero(steady):
                _divide(made, row, int(s), np.sort(surprise[:, s]))


def block_means(times: np.ndarray, ranks: np.ndarray, span: int) -> tuple[np.ndarray, np.ndarray]:
    """Average ranks over stretches of time.

    Args:
        times: (N,) int64.
        ranks: (N, S) int.
        span: length of a stretch.

    Returns:
        Means (M, S), and the number of bars (M,) of each stretch that has any, in order of time.
    """
    _, place = np.unique(times // span, return_inverse=True)
    counts = np.bincount(place)
    totals = np.stack([np.bincount(place, weights=stream) for stream in ranks.T], axis=1)
    return totals / counts[:, None], counts


def means_before(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of the block before each of some blocks (M, S), and the slow mean of all before: each (M, S)."""
    last, slow = np.full_like(means, QUANTILES), np.full_like(means, QUANTILES)
    for block in range(1, len(means)):
        last[block] = means[block - 1]
        slow[block] = slow[block - 1] + SLOW * (means[block - 1] - slow[block - 1])
    return last, slow


def expected_means(weights: np.ndarray, last: np.ndarray, slow: np.ndarray) -> np.ndarray:
    """Predict the mean of a block.

    Args:
        weights: (..., S, 2), of both means before it.
        last: (..., S), mean of the last block.
        slow: (..., S), slow mean.
    """
    return QUANTILES + weights[..., 0] * (last - QUANTILES) + weights[..., 1] * (slow - QUANTILES)


def _fit_weights(series: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Fit how much of a block the blocks before it explain, by least squares over assets; no weight is below 0.

    Short series make memory look shorter than it is. The slow mean's weight is raised by Kendall's (1954) correction.

    Args:
        series: of each asset, means (M, S).

    Returns:
        Weights (S, 2), and (S,) True for the streams that do not wander.
    """
    parts = [np.stack([means, *means_before(means)])[:, 1:] - QUANTILES for means in series]
    target, last, slow = np.concatenate(parts, axis=1)  # 3 x (M, S)
    usual = float(np.mean([len(means) for means in series]))
    weights, steady = np.zeros((target.shape[1], 2)), np.zeros(target.shape[1], dtype=bool)
    for s in range(target.shape[1]):
        x, y = np.stack([last[:, s], slow[:, s]], axis=1), target[:, s]
        both = np.linalg.lstsq(x, y, rcond=None)[0]
        alone = np.maximum(0, x.T @ y / np.maximum((x * x).sum(axis=0), 1e-12))
        if both[1] < 0:
            both = np.array([alone[0], 0.0])
        elif both[0] < 0:
            both = np.array([0.0, alone[1]])
        if both.sum() > 0.05:
            both[1] += (1 + 3 * both.sum()) / usual
        weights[s] = both
        steady[s] = both.sum() <= LONGEST_MEMORY and bool(y.any())
    return weights, steady


def _divide(made: Reference, row: int, s: int, ordered: np.ndarray) -> None:
    """Divide the line into ranges that hold about as many gaps between surprises each.

    Args:
        made: whose edges and gaps are filled in.
        row: of the asset, -1 of the pool.
        s: number of the stream.
        ordered: (M,) surprises of validation, sorted.
    """
    count = min(RANGES - 1, len(ordered))
    chosen = np.linspace(0, len(ordered) - 1, count + 2).round().astype(np.int64)[1:-1]
    if count == len(ordered):
        chosen = np.arange(count)
    made.edges[row, s, :count] = ordered[chosen]
    made.gaps[row, s, : count + 1] = np.diff(np.concatenate([[-1], chosen, [len(ordered)]]))
