import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.data.windows.permutation import permute


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**32), epoch=st.integers(0, 100))
def test_every_number_comes_once(size, seed, epoch):
    order = permute(np.arange(size), size, seed=seed, epoch=epoch)
    assert np.array_equal(np.sort(order), np.arange(size))


def test_a_part_of_the_order_is_the_order_of_the_part():
    whole = permute(np.arange(1000), 1000, seed=3, epoch=4)
    assert np.array_equal(permute(np.arange(300, 417), 1000, seed=3, epoch=4), whole[300:417])


@pytest.mark.parametrize("other", [{"seed": 1, "epoch": 0}, {"seed": 0, "epoch": 1}])
def test_seed_and_epoch_change_the_order(other):
    order = permute(np.arange(1000), 1000, seed=0, epoch=0)
    changed = permute(np.arange(1000), 1000, **other)
    assert (order == changed).sum() < 20  # expected: 1


def test_each_element_lands_anywhere_with_equal_probability():
    # 5 elements, 2000 orders: each of 25 counts has mean 400, standard deviation 18; the bound is 5 of them
    counts = np.zeros((5, 5))
    for epoch in range(2000):
        counts[np.arange(5), permute(np.arange(5), 5, seed=0, epoch=epoch)] += 1
    assert np.abs(counts - 400).max() < 90


def test_neighbours_do_not_stay_together():
    order = permute(np.arange(100_000), 100_000, seed=0, epoch=0)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert (np.abs(np.diff(order)) < 100).mean() < 0.01  # expected: 0.002


def test_ten_billion_windows_need_no_table():
    order = permute(np.arange(1000), 10**10, seed=0, epoch=0)
    assert len(set(order.tolist())) == 1000
    assert order.min() >= 0
    assert order.max() < 10**10
