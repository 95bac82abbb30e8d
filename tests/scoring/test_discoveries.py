"""The threshold by false discoveries flags what scipy's Benjamini and Hochberg rejects in each block, in any pieces."""

import numpy as np
import pytest
from conftest import slow_but
from scipy.stats import false_discovery_control

from refold.errors import ConfigError
from refold.scoring.discoveries import FalseDiscoveries


def fitted(known: np.ndarray, share: float = 0.2, block: int = 40) -> FalseDiscoveries:
    threshold = FalseDiscoveries(share=share, block=block, per_asset=False)
    threshold.fit(known)
    return threshold


def bars(count: int = 600) -> np.ndarray:
    """Scores with a cluster of strange ones, single ones and gaps."""
    rng = np.random.default_rng(3)
    scores = rng.chisquare(5, count)
    scores[200:215] += 8
    scores[[50, 400]] += 30
    scores[[10, 207, 208, 399]] = np.nan
    return scores


def p_values(scores: np.ndarray, known: np.ndarray) -> np.ndarray:
    return (1 + (known[:, None] >= scores).sum(axis=0)) / (len(known) + 1)


@pytest.mark.parametrize(("share", "block"), slow_but([(0.4, 5)], [(0.2, 40), (0.05, 40), (0.4, 5), (0.1, 1000)]))
def test_a_bar_is_flagged_if_the_procedure_rejects_it_among_the_bars_before(share, block):
    known = np.random.default_rng(0).chisquare(5, 20_000)  # enough that no cut lies beyond the highest
    scores = bars()
    levels, _ = fitted(known, share, block).levels(scores, None)
    there = np.flatnonzero(np.isfinite(scores))
    expected = np.zeros(len(scores), dtype=bool)
    for place, bar in enumerate(there):
        own = p_values(scores[there[max(0, place - block + 1) : place + 1]], known)
        padded = np.append(np.ones(block - len(own)), own)  # the first block is not yet full
        expected[bar] = false_discovery_control(padded)[-1] <= share * (1 + 1e-12)
    with np.errstate(invalid="ignore"):
        flagged = scores > levels
    assert flagged.tolist() == expected.tolist()
    assert 2 <= flagged.sum() < len(scores) / 2


def test_pieces_and_single_bars_give_the_same_levels():
    threshold, scores = fitted(np.random.default_rng(0).chisquare(5, 500)), bars()
    whole, last = threshold.levels(scores, None)
    for cuts in ([1, 2, 210, 211, 500], range(1, len(scores))):
        memory, parts = None, []
        for piece in np.split(scores, list(cuts)):
            levels, memory = threshold.levels(piece, memory)
            parts.append(levels)
        assert np.concatenate(parts).tolist() == whole.tolist()
        assert memory is not None
        assert (memory.scores.tolist(), memory.numbers.tolist()) == (last.scores.tolist(), last.numbers.tolist())


def test_the_level_looks_at_no_later_bar_and_falls_where_strange_bars_are_many():
    threshold, scores = fitted(np.random.default_rng(0).chisquare(5, 500)), bars()
    levels, _ = threshold.levels(scores, None)
    changed = scores.copy()
    changed[300:] = 1e6
    assert threshold.levels(changed, None)[0][:301].tolist() == levels[:301].tolist()
    assert levels[0] == float(threshold.level) == levels.max()
    assert levels[214] < levels[199]
    assert levels[214 + 40 + 5] > levels[214]


def test_beyond_the_highest_validation_score_the_tail_goes_on():
    known = np.random.default_rng(0).exponential(size=200)
    threshold = fitted(known, share=0.1, block=1000)  # p 1e-4, of which 200 scores know nothing
    assert float(threshold.level) > known.max()
    assert float(threshold.level) == pytest.approx(-np.log(1e-4), rel=0.5)
    assert (np.diff(threshold.cuts.numpy()) <= 0).all()


def test_the_share_of_false_flags_is_about_the_promised_one():
    """Of scores that are independent and alike to validation; each twentieth bar is strange."""
    rng = np.random.default_rng(1)
    threshold = fitted(rng.chisquare(5, 5000), share=0.2, block=250)
    strange = rng.random(20_000) < 0.05
    scores = rng.chisquare(5, 20_000) + 40 * strange
    flagged = scores > threshold.levels(scores, None)[0]
    assert (flagged & ~strange).sum() / flagged.sum() == pytest.approx(0.2 * 0.95, abs=0.04)
    assert flagged[strange].mean() > 0.99


def test_too_few_scores_are_refused():
    with pytest.raises(ConfigError, match=r"threshold=fdr needs more than 10 validation scores.* there are 10"):
        fitted(np.arange(10.0))


def test_scores_that_do_not_differ_have_a_level():
    assert float(fitted(np.ones(50)).level) == 1.0
