"""Neighbour preservation on cases whose answer is known."""

import numpy as np
import pytest

from refold.scoring.neighbours import neighbour_preservation


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 6))


def test_codes_that_keep_distances_keep_all_neighbours(points):
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert neighbour_preservation(points, 3 * points @ turned + 1) == 1


def test_codes_that_say_nothing_keep_as_many_as_chance(points):
    codes = np.random.default_rng(1).normal(size=(300, 4))
    assert neighbour_preservation(points, codes) == pytest.approx(10 / 299, abs=0.02)


def test_the_share_counted_by_hand():
    """Ten far-apart pairs of clusters of 11: a code that tells one member apart loses it from all, and all from it."""
    clusters = np.repeat(1000.0 * np.arange(10), 11)[:, None] + np.random.default_rng(0).normal(size=(110, 1))
    codes = clusters.copy()
    codes[0] = 1e6  # its code is far from all; of its own 10 neighbours, those of the last cluster are none
    kept = 1 - (10 + 10) / 1100  # it misses its 10, and each of its 10 mates misses it
    assert neighbour_preservation(clusters, codes) == pytest.approx(kept)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_windows_have_no_answer(count, points):
    assert np.isnan(neighbour_preservation(points[:count], points[:count]))
