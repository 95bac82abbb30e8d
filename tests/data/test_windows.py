from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from refold.data import Series, Windows


def series(length: int = 40, F: int = 3, present: torch.Tensor | None = None) -> Series:
    values = torch.arange(length * F, dtype=torch.float32).view(length, F)
    times = 18262 + np.arange(length)  # days since 1970: from 2020-01-01
    close = 100 + torch.arange(length, dtype=torch.float32)
    return Series(values, present, times, pl.Date(), close, ("A", "B"), np.array([0, 25]))


def plain(values: torch.Tensor, segments: list[tuple[int, int]], T: int, stride: int) -> list[torch.Tensor]:
    """Windows as everybody writes them first: a slice at a time."""
    return [
        values[start + first : start + first + T]
        for start, length in segments
        for first in range(0, length - T + 1, stride)
    ]


@pytest.mark.parametrize("T", [1, 4, 10])
@pytest.mark.parametrize("stride", [1, 3, 50])
def test_windows_are_the_slices_of_each_segment(T, stride):
    segments = [(0, 11), (14, 3), (25, 15)]
    windows = Windows(series(), np.array(segments), window_size=T, stride=stride)
    expected = plain(windows.series.values, segments, T, stride)
    assert len(windows) == len(expected)
    assert torch.equal(windows.gather(np.arange(len(windows))), torch.stack(expected))


def test_order_and_repetition_of_the_index_are_kept():
    windows = Windows(series(), np.array([[0, 25], [25, 15]]), window_size=5, stride=1)
    index = torch.tensor([31, 0, 31, 20])
    expected = torch.stack(plain(windows.series.values, [(0, 25), (25, 15)], 5, 1))[index]
    assert torch.equal(windows.gather(index), expected)


def test_a_batch_is_a_copy_and_the_series_is_not():
    windows = Windows(series(), np.array([[0, 40]]), window_size=5, stride=1)
    before = windows.series.values.clone()
    windows.gather(np.arange(4)).zero_()
    assert torch.equal(windows.series.values, before)


def test_rows_timestamps_and_assets_of_a_window():
    windows = Windows(series(), np.array([[3, 6], [30, 5]]), window_size=5, stride=1)
    assert windows.rows([0, 2]).tolist() == [[3, 4, 5, 6, 7], [30, 31, 32, 33, 34]]
    assert windows.timestamps([0])[0].astype(str).tolist() == [f"2020-01-0{day}" for day in range(4, 9)]
    assert windows.assets([0, 2]) == ["A", "B"]


def test_mask_moves_with_the_windows():
    present = torch.ones(40, dtype=torch.bool)
    present[5] = False
    windows = Windows(series(present=present), np.array([[3, 6]]), window_size=4, stride=1)
    assert windows.mask([0, 1, 2]).tolist() == [
        [True, True, False, True],
        [True, False, True, True],
        [False] + 3 * [True],
    ]


@pytest.mark.parametrize("stride", [1, 3])
def test_the_bars_after_a_window_lie_in_its_segment(stride):
    present = torch.arange(40) % 7 != 0
    segments = [(0, 11), (14, 6), (25, 15)]
    windows = Windows(series(present=present), np.array(segments), window_size=5, stride=stride, horizon=2)
    index = np.arange(len(windows))
    expected = plain(windows.series.values, segments, 7, stride)
    bars, mask = windows.ahead(index)
    assert torch.equal(torch.cat([windows.gather(index), bars], dim=1), torch.stack(expected))
    assert torch.equal(torch.cat([windows.mask(index), mask], dim=1), torch.stack(plain(present, segments, 7, stride)))
    shorter = windows.shortened(1, 3)
    assert torch.equal(shorter.ahead(index)[0], torch.stack(expected)[:, 4:6])


def test_a_relative_bar_after_a_window_counts_from_the_first_bar_of_the_window():
    whole = replace(series(), relative=(1,))
    windows = Windows(whole, np.array([[0, 20]]), window_size=5, stride=1, horizon=3)
    index = np.arange(len(windows))
    longer = Windows(whole, np.array([[0, 20]]), window_size=8, stride=1)
    assert torch.equal(windows.ahead(index)[0], longer.gather(index)[:, 5:])


@pytest.mark.parametrize("number", [-1, 2])
def test_a_window_that_does_not_exist_is_refused(number):
    windows = Windows(series(), np.array([[3, 6]]), window_size=5, stride=1)
    with pytest.raises(IndexError):
        windows.gather([number])
