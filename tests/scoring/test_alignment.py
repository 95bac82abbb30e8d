"""Windows to bars, against a plain loop and on cases made by hand: what happens at a bar is reported at that bar."""

import numpy as np
import pytest
import torch

from refold.data import Series, Windows
from refold.scoring.alignment import ALIGNMENTS, Aligner, partial_windows, row_blocks

PLAIN = {"mean": np.nanmean, "median": np.nanmedian, "max": np.nanmax, "last": lambda values: values[0]}


def aligned(values: torch.Tensor, segments: np.ndarray, rows: int, alignment: str, size: int) -> np.ndarray:
    """(W, T, C) values of all windows, in order -> (rows, C)."""
    T = values.shape[1]
    aligner, result, number = Aligner(alignment, T), np.full((rows, values.shape[2]), np.nan), 0
    for block in row_blocks(segments, T, size):
        count = int(block.begins.sum())
        result[block.rows] = aligner.align(values[number : number + count], block).numpy()
        number += count
    assert number == len(values)
    return result


def by_hand(values: np.ndarray, starts: np.ndarray, rows: int, alignment: str) -> np.ndarray:
    """The same, one bar and one window at a time."""
    T = values.shape[1]
    result = np.full((rows, values.shape[2]), np.nan)
    for row in range(rows):
        seen = [values[w, row - start] for w, start in enumerate(starts) if 0 <= row - start < T]
        if alignment == "last":  # the window that ends at the bar is the oldest; without it there is none
            seen = [values[w, T - 1] for w, start in enumerate(starts) if row - start == T - 1]
        for c in range(values.shape[2]):
            column = np.array([value[c] for value in seen])
            if np.isfinite(column).any():
                result[row, c] = PLAIN[alignment](column)
    return result


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize("alignment", ALIGNMENTS)
@pytest.mark.parametrize("T", [1, 2, 5])
def test_alignment_is_what_a_plain_loop_finds(T, alignment, size):
    segments = np.array([[0, 5], [6, 12], [18, 4], [23, 5], [28, 9]])  # the third is too short for T 5
    rows = 40
    series = Series(torch.zeros(rows, 1), None, np.arange(rows), None, None, ("A",), np.array([0]))
    windows = Windows(series, segments, window_size=T, stride=1)
    values = torch.randn(len(windows), T, 2, generator=torch.Generator().manual_seed(T), dtype=torch.float64)
    values[torch.rand(values.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.1] = torch.nan  # absent bars
    starts = windows.starts(np.arange(len(windows)))
    expected = by_hand(values.numpy(), starts, rows, alignment)
    np.testing.assert_allclose(aligned(values, segments, rows, alignment, size), expected, atol=1e-12)


def test_a_drawn_case():
    """The drawing at the head of the module: bar 3 gets b2, c1 and d0."""
    values = torch.tensor([[0, 1, 2], [10, 11, 12], [20, 21, 22], [30, 31, 35]], dtype=torch.float64).unsqueeze(2)
    segments = np.array([[0, 6]])
    assert aligned(values, segments, 6, "mean", 4)[3, 0] == pytest.approx((12 + 21 + 30) / 3)
    assert aligned(values, segments, 6, "median", 4)[3, 0] == 21
    assert aligned(values, segments, 6, "max", 4)[3, 0] == 30
    assert aligned(values, segments, 6, "last", 4)[3, 0] == 12
    assert aligned(values, segments, 6, "mean", 4)[[0, 5], 0].tolist() == [0, 35]  # in one window each


def test_partial_windows_end_at_the_first_bars_of_each_run():
    first, bars = partial_windows(np.array([[0, 5], [5, 2], [7, 3]]), 3)
    assert list(zip(first.tolist(), bars.tolist(), strict=True)) == [(0, 1), (0, 2), (5, 1), (5, 2), (7, 1), (7, 2)]
