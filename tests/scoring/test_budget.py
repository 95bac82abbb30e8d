"""The budget's level follows each asset's alarms, so that their number is kept to also where scores change."""

import math

import numpy as np
import pytest

from refold.scoring.budget import AlarmBudget, Pace
from refold.scoring.thresholds import ValidationScores, count_alarms


def fitted(adapt: float = 1.0, alarms: float = 2.0) -> AlarmBudget:
    """A budget of ten years of daily scores of one asset."""
    scores = np.random.default_rng(0).chisquare(5, 2500)
    threshold = AlarmBudget(alarms=alarms, per="asset_year", adapt=adapt, per_asset=False)
    threshold.fit_validation(ValidationScores(scores, np.zeros(2500, dtype=int), 2500, 10 * 365.25 * 86400, 2500))
    return threshold


def crisis(bars: int = 1500) -> np.ndarray:
    """Scores that are four times as high in the middle, with gaps and runs of strange bars."""
    scores = np.random.default_rng(1).chisquare(5, bars)
    scores[500:750] *= 4
    scores[900:903] += 100
    scores[[3, 501, 901, 1200]] = np.nan
    return scores


def plain(threshold: AlarmBudget, scores: np.ndarray) -> np.ndarray:
    """Bar by bar, as the docstring says it."""
    middle, pace = float(threshold.middle), float(threshold.pace)
    height, flagged, levels = 0.0, False, []
    for score in scores:
        levels.append(middle + (float(threshold.level) - middle) * math.exp(height))
        above = bool(score > levels[-1])
        if np.isfinite(score):
            height += threshold.adapt * ((above and not flagged) - pace)
        flagged = above
    return np.array(levels)


@pytest.mark.parametrize("adapt", [0.0, 0.3, 1.0, 3.0])
def test_levels_are_those_of_the_plain_loop(adapt):
    threshold = fitted(adapt)
    levels, _ = threshold.levels(crisis(), None)
    assert levels == pytest.approx(plain(threshold, crisis()), rel=1e-12)


def test_pieces_and_single_bars_give_the_same_levels_to_the_last_digit():
    threshold, scores = fitted(), crisis(1300)
    whole, last = threshold.levels(scores, None)
    for cuts in ([1, 2, 501, 640, 901, 902], range(1, len(scores))):
        memory, parts = None, []
        for piece in np.split(scores, list(cuts)):
            levels, memory = threshold.levels(piece, memory)
            parts.append(levels)
        assert np.concatenate(parts).tolist() == whole.tolist()
        assert memory == last


def test_the_number_of_alarms_is_the_budget_and_what_the_level_has_risen():
    threshold, scores = fitted(), crisis()
    levels, memory = threshold.levels(scores, None)
    with np.errstate(invalid="ignore"):
        alarms = count_alarms(scores > levels, np.zeros(len(scores)))
    assert isinstance(memory, Pace)
    assert (memory.alarms, memory.bars) == (alarms, np.isfinite(scores).sum())
    following, _ = threshold.levels(np.array([0.0]), memory)
    middle = float(threshold.middle)
    risen = math.log((following[0] - middle) / (float(threshold.level) - middle))
    assert alarms == pytest.approx(float(threshold.pace) * memory.bars + risen)


def test_a_crisis_costs_a_fixed_level_many_alarms_and_one_that_adapts_few():
    scores = crisis()
    counted = {}
    for adapt in (0.0, 1.0):
        with np.errstate(invalid="ignore"):
            counted[adapt] = count_alarms((scores > fitted(adapt).levels(scores, None)[0])[500:750], np.zeros(250))
    assert counted[0.0] > 40
    assert counted[1.0] <= 5


def test_the_pace_is_the_budget_per_scored_bar():
    assert float(fitted(alarms=2.0).pace) == pytest.approx(2 * 10 / 2500, rel=1e-3)
    assert float(fitted().middle) == pytest.approx(np.median(np.random.default_rng(0).chisquare(5, 2500)))
