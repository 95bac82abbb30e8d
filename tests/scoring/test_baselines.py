"""PCA and the mean, against their definitions."""

import numpy as np
import polars as pl
import pytest
import torch

from refold.data.windows.views import Series, Windows
from refold.scoring import baselines
from refold.scoring.baselines import (
    PCA,
    Chance,
    Everything,
    Forest,
    NoModel,
    RobustZ,
    TrainingMean,
    reconstruction_error,
)
from refold.training.losses import WindowLogLoss
from tests.data.makers import random_bars, with_value


@pytest.fixture
def windows() -> Windows:
    generator = torch.Generator().manual_seed(0)
    walk = torch.randn(400, 3, generator=generator).cumsum(0)
    series = Series(walk.contiguous(), None, np.arange(400), pl.Date(), None, ("A",), np.array([0]))
    return Windows(series, np.array([[0, 400]]), window_size=8, stride=1)


def flat(windows: Windows) -> torch.Tensor:
    return windows.gather(torch.arange(len(windows))).flatten(1).double()


@pytest.mark.parametrize("components", [1, 5, 24])
def test_pca_leaves_what_the_singular_values_say(windows, components):
    data = flat(windows)
    values = torch.linalg.svdvals(data - data.mean(0))
    expected = values[components:].square().sum() / data.numel()
    error = reconstruction_error(PCA(components, seed=0).fit(windows), windows)
    assert error["reconstruction_mse"] == pytest.approx(expected.item(), rel=1e-6, abs=1e-12)


def test_more_components_than_numbers_reconstruct_everything(windows):
    assert reconstruction_error(PCA(1000, seed=0).fit(windows), windows)["r2"] == pytest.approx(1)


def test_the_randomised_decomposition_is_close_to_the_exact_one(windows, monkeypatch):
    exact = reconstruction_error(PCA(4, seed=0).fit(windows), windows)["reconstruction_mse"]
    monkeypatch.setattr(baselines, "_LARGEST_EXACT", 0)
    state = torch.get_rng_state()
    close = reconstruction_error(PCA(4, seed=0).fit(windows), windows)["reconstruction_mse"]
    assert close == pytest.approx(exact, rel=0.005)
    assert torch.equal(state, torch.get_rng_state())


def test_the_training_mean_is_per_feature_and_scores_about_zero(windows):
    mean = TrainingMean().fit(windows)
    assert torch.allclose(mean.mean, flat(windows).view(-1, 8, 3).mean(dim=(0, 1)))
    assert reconstruction_error(mean, windows)["r2"] == pytest.approx(0, abs=1e-9)


def test_weighing_windows_is_repeating_them(windows, monkeypatch):
    """One window in three counts three times, as if it stood there three times."""
    times = torch.where(torch.arange(len(windows)) % 3 == 0, 3, 1)
    data = flat(windows).repeat_interleave(times, dim=0)
    axes = torch.linalg.svd(data - data.mean(0), full_matrices=False).Vh[:4].T
    monkeypatch.setattr(baselines, "_REWEIGHTINGS", 1)
    pca = PCA(4, seed=0).fit(windows, lambda errors: times.double())
    assert torch.allclose(pca.mean, data.mean(0))
    assert torch.allclose(pca.components @ pca.components.T, axes @ axes.T)
    monkeypatch.setattr(baselines, "_LARGEST_EXACT", 0)
    close = PCA(4, seed=0).fit(windows, lambda errors: times.double())
    assert torch.allclose(close.components @ close.components.T, axes @ axes.T, atol=1e-3)


def test_windows_are_weighed_by_the_errors_that_are_left(windows):
    """Under the loss whose weights these are, the components are better than those that weigh all alike."""
    loss = WindowLogLoss(scale=0.1)

    def value(pca):
        made, truth = pca.reconstruct(flat(windows).view(-1, 8, 3)), flat(windows).view(-1, 8, 3)
        return loss(made, truth, None)[:, 0, 0].mean().item()

    assert value(PCA(4, seed=0).fit(windows, loss.window_weights)) < value(PCA(4, seed=0).fit(windows)) - 1e-4


def test_a_forest_finds_the_bar_that_is_like_no_other():
    bars = random_bars([300, 300])
    odd = with_value(with_value(bars, [450], "close", 500.0), [450], "low", 1.0)
    forest = Forest(["log_return", "parkinson_range"], seed=0).fit(bars, bars)
    scores = forest.score(odd)
    assert np.nanargmax(scores) == 450
    assert np.flatnonzero(np.isnan(scores)).tolist() == [0, 300]  # the first bar of an asset has no return
    assert np.array_equal(scores, Forest(["log_return", "parkinson_range"], seed=0).fit(bars, bars).score(odd), True)


def test_chance_repeats_with_its_seed_and_everything_is_flagged():
    bars = random_bars([50])
    one, two, other = (Chance(seed).fit(bars, bars).score(bars) for seed in (0, 0, 1))
    assert (one == two).all()
    assert (one != other).any()
    assert (Everything().fit(bars, bars).score(bars) == 1).all()


def test_the_robust_z_is_the_largest_distance_from_the_median_in_robust_deviations():
    rows = np.random.default_rng(0).normal([0, 5], [1, 2], (2000, 2))
    scorer = RobustZ().fit_rows(np.concatenate([rows, [[np.nan, 0]]]))
    scores = scorer.score_rows(np.array([[0, 5], [3, 5], [0, -3], [np.nan, 5]]))
    assert scores[:3] == pytest.approx([0, 3, 4], abs=0.2)
    assert np.isnan(scores[3])


def test_a_feature_of_which_most_values_are_equal_has_the_mean_absolute_deviation():
    rows = np.array([[0.0]] * 8 + [[1.0], [-1.0]])
    assert RobustZ().fit_rows(rows).score_rows(np.array([[1.0]])) == pytest.approx([1 / (1.2533 * 0.2)])
    assert RobustZ().fit_rows(np.zeros((5, 1))).score_rows(np.array([[2.0], [0.0]])).tolist() == [2.0, 0.0]


def test_without_a_model_a_bar_is_as_strange_as_its_features():
    rows = np.random.default_rng(0).normal(3.0, 2.0, (500, 2))
    scorer = NoModel(()).fit_rows(np.concatenate([rows, [[np.nan, 0]]]))
    z = (np.array([9.0, -1.0]) - rows.mean(axis=0)) / rows.std(axis=0)
    scores = scorer.score_rows(np.array([[9.0, -1.0], rows.mean(axis=0), [np.nan, 1.0]]))
    assert scores[:2] == pytest.approx([np.arcsinh(z[0]) ** 2 + np.arcsinh(z[1]) ** 2, 0.0])
    assert np.isnan(scores[2])
    assert NoModel(()).fit_rows(np.ones((5, 1))).score_rows(np.array([[2.0]])).tolist() == [np.arcsinh(1.0) ** 2]
