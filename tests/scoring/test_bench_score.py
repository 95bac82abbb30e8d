"""scripts/bench score: the contestants compute the same, and the page has the markers for its tables."""

import numpy as np
import polars as pl
import pytest
import torch
from conftest import ROOT

from refold.data import Series
from scripts.bench import score as bench_score


@pytest.mark.parametrize("encoder_too", [False, True])
def test_the_loop_scores_what_the_fused_path_scores(encoder_too):
    T, bars = 8, 100
    values = torch.randn(bars, bench_score.F, generator=torch.Generator().manual_seed(0))
    series = Series(values, None, np.arange(bars), pl.Datetime("us"), None, ("A",), np.array([0]))
    model = bench_score.autoencoder(8)
    loop = bench_score.detector_of(bench_score.Stepwise(model, encoder_too), T)
    loop.batch = 16
    ours = bench_score.detector_of(model, T)
    one, two = (judge.score_series(series, np.array([[0, bars]])).score for judge in (loop, ours))
    np.testing.assert_allclose(one, two, rtol=1e-4)


def test_the_page_has_the_markers():
    page = (ROOT / "docs/benchmarks.md").read_text()
    assert page.count("<!-- score: begin -->") == page.count("<!-- score: end -->") == 1
