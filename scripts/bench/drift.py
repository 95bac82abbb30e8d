"""The test of drift on made bars: how often it is wrong, and how soon it is right.

    python scripts/bench drift                       # five seeds, some two minutes of one core
    python scripts/bench drift --seeds 1

Twenty assets have 600 bars of validation and eight years of 252 bars after it, a score and a feature each. Without a
change, every asset that is told `retrain` is a false alarm: with drift.retrain_years=50 at most 8 in 50 of them, if the
surprises of blocks are exchangeable. Memory is what the test expects of a block from those before it; the row beside it
has the test without. A change multiplies the score from the first bar after validation on.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from refold.scoring.drift import ALL, DriftLimits, DriftTest
from refold.scoring.drift_reference import Reference, fit_reference

ASSETS, VALIDATION, YEARS, BARS_PER_YEAR = 20, 600, 8, 252
LIMITS = {"watch_years": 5.0, "retrain_years": 50.0}

Made = Callable[[np.random.Generator, int, int], np.ndarray]
"""(generator, assets, bars) -> (assets, bars)."""


def autoregression(memory: float) -> Made:
    """Return a maker of Gaussian AR(1) series whose neighbours correlate by `memory`."""

    def make(rng: np.random.Generator, assets: int, bars: int) -> np.ndarray:
        noise = rng.standard_normal((assets, bars))
        for bar in range(1, bars):
            noise[:, bar] = memory * noise[:, bar - 1] + np.sqrt(1 - memory**2) * noise[:, bar]
        return noise

    return make


def garch(alpha: float, beta: float) -> Made:
    """Return a maker of GARCH(1, 1) returns of variance 1."""

    def make(rng: np.random.Generator, assets: int, bars: int) -> np.ndarray:
        variance, returns = np.ones(assets), np.empty((assets, bars))
        for bar in range(bars):
            returns[:, bar] = np.sqrt(variance) * rng.standard_normal(assets)
            variance = (1 - alpha - beta) + alpha * returns[:, bar] ** 2 + beta * variance
        return returns

    return make


KINDS: dict[str, Made] = {
    "independent": autoregression(0.0),
    "AR(1), 0.5": autoregression(0.5),
    "AR(1), 0.9": autoregression(0.9),
    "AR(1), 0.98": autoregression(0.98),
    "GARCH, 0.08 + 0.90": garch(0.08, 0.90),
    "GARCH, 0.05 + 0.94": garch(0.05, 0.94),
}


def made_bars(kind: str, seed: int, change: float = 1.0) -> np.ndarray:
    """Make the bars of all assets: (A, N, 2), score and feature.

    The score of a GARCH bar is the size of its return, with noise.

    Args:
        kind: one of KINDS.
        seed: of all that is drawn.
        change: factor of the scores after validation.
    """
    rng = np.random.default_rng(seed)
    bars = VALIDATION + YEARS * BARS_PER_YEAR
    feature = KINDS[kind](rng, ASSETS, bars)
    if kind.startswith("GARCH"):
        score = np.abs(feature) + 0.5 * np.abs(rng.standard_normal(feature.shape))
    else:
        score = np.exp(KINDS[kind](rng, ASSETS, bars))
    score[:, VALIDATION:] *= change
    return np.stack([score, feature], axis=2)


def fitted(bars: np.ndarray) -> Reference:
    """Fit the reference to the validation bars."""
    times, asset = np.tile(np.arange(VALIDATION), ASSETS), np.repeat(np.arange(ASSETS), VALIDATION)
    values = bars[:, :VALIDATION].reshape(-1, 2)
    found = fit_reference(times, asset, values, [str(n) for n in range(ASSETS)], ["feature"], float(BARS_PER_YEAR))
    assert found is not None
    return found


def told(bars: np.ndarray, *, memory: bool = True) -> DriftTest:
    """Test all bars after validation.

    Args:
        bars: as `made_bars` makes them.
        memory: whether what is expected of a block depends on those before it.
    """
    reference = fitted(bars)
    if not memory:
        reference = replace(reference, weights=np.zeros_like(reference.weights))
    test = DriftTest(reference, DriftLimits(**LIMITS))
    for asset, own in enumerate(bars):
        test.add(str(asset), np.arange(VALIDATION, len(own)), own[VALIDATION:])
    test.finish()
    return test


def share_of_false(kind: str, seed: int, *, memory: bool = True) -> float:
    """Return the share of assets that are told `retrain` although nothing changes."""
    return float((told(made_bars(kind, seed), memory=memory).said[:-1] == 2).mean())


def bars_to_retrain(kind: str, seed: int, change: float) -> tuple[float, float]:
    """Return after how many bars `retrain` is told of the median asset and of all assets; infinite if it is not."""
    test = told(made_bars(kind, seed, change))
    waits = np.where(test.said == 2, test.since - VALIDATION, np.inf)
    return float(np.median(waits[:-1])), float(waits[test.rows.get(ALL, -1)])


def report(seeds: int) -> str:
    """Return both tables as Markdown."""
    bound = YEARS / LIMITS["retrain_years"]
    lines = [
        f"| bars | told retrain in {YEARS} years (promise: at most {bound:.0%}) | without memory |",
        "|---|---|---|",
    ]
    for kind in KINDS:
        with_memory, without = (
            [share_of_false(kind, seed, memory=memory) for seed in range(seeds)] for memory in (True, False)
        )
        lines.append(f"| {kind} | {_spread(with_memory)} | {_spread(without)} |")
    lines += ["", "| scores grow by | bars to retrain, median asset | all assets together |", "|---|---|---|"]
    for change in (1.3, 2.0, 5.0):
        own, pool = zip(*(bars_to_retrain("GARCH, 0.08 + 0.90", seed, change) for seed in range(seeds)), strict=True)
        lines.append(f"| x {change} | {statistics.median(own):,.0f} | {statistics.median(pool):,.0f} |")
    return "\n".join(lines)


def _spread(shares: list[float]) -> str:
    """Return mean and range of shares in percent."""
    return f"{statistics.mean(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})"
