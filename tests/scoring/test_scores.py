"""Each score against its formula, written out bar by bar; its state; its bounds."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from refold.errors import ConfigError
from refold.scoring.scores import (
    AbsoluteError,
    FeatureScore,
    GaussDynamic,
    GaussDynamicKernel,
    GaussStatic,
    LatentNeighbours,
    Mahalanobis,
    SquaredError,
    StudentScore,
)

FLOOR = 1e-6
MAKERS = {
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "mahalanobis": Mahalanobis,
    "gauss_s": lambda: GaussStatic(floor=FLOOR),
    "gauss_d": lambda: GaussDynamic(memory=5, floor=FLOOR),
    "gauss_d_k": lambda: GaussDynamicKernel(memory=5, floor=FLOOR, width=1.0, centred=False),
    "gauss_d_k centred": lambda: GaussDynamicKernel(memory=5, floor=FLOOR, width=1.0, centred=True),
    "student": StudentScore,
    "latent_knn": lambda: LatentNeighbours(neighbours=2, references=50),
}


def errors(rows: int, seed: int = 0, features: int = 3) -> torch.Tensor:
    drawn = torch.randn(rows, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 0.7]], dtype=torch.float64)).abs()


def one_asset(rows: int) -> np.ndarray:
    return np.zeros(rows, dtype=int)


def test_plain_errors():
    windows, made = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[0.0, 1.0]]])
    codes = torch.zeros(1, 1)
    for score, expected in ((SquaredError(), (1 + 9) / 2), (AbsoluteError(), (1 + 3) / 2)):
        values = score.measure(windows, made, codes)[0].double()
        parts = score.contributions(values, one_asset(1))
        assert parts.sum().item() == expected
        assert parts[0, 1] > parts[0, 0]


def test_mahalanobis_is_its_formula_with_the_shrunk_covariance():
    from sklearn.covariance import ledoit_wolf

    known, new = errors(200), errors(20, seed=1)
    score = Mahalanobis()
    score.fit(known)
    covariance = ledoit_wolf(known.numpy())[0]
    deviation = new.numpy() - known.numpy().mean(axis=0)
    expected = [row @ np.linalg.inv(covariance) @ row for row in deviation]
    np.testing.assert_allclose(score.contributions(new, one_asset(20)).sum(dim=1), expected, rtol=1e-6)


def test_mahalanobis_works_with_more_features_than_bars_and_with_a_feature_that_never_errs():
    few = torch.rand(6, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    few[:, 3] = 0.0
    score = Mahalanobis()
    score.fit(few)
    assert torch.isfinite(score.contributions(few * 5, one_asset(6))).all()


def surprise(error: float, known: np.ndarray) -> float:
    return -norm.logsf((error - known.mean()) / max(known.std(), FLOOR))


def test_gauss_s_is_its_formula_and_stays_finite_far_out():
    known, new = errors(100), errors(10, seed=1)
    new[3, 1] = 1e6
    score = GaussStatic(floor=FLOOR)
    score.fit(known)
    expected = [[surprise(new[i, f].item(), known[:, f].numpy()) for f in range(3)] for i in range(10)]
    found = score.contributions(new, one_asset(10))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert torch.isfinite(found).all()


def test_gauss_d_compares_with_the_assets_own_errors_before_the_bar():
    known, new, memory = errors(100), errors(30, seed=1), 5
    asset = np.repeat([0, 1], 15)
    score = GaussDynamic(memory=memory, floor=FLOOR)
    score.fit(known)
    found = score.contributions(new, asset)
    for bar in (7, 14, 20, 29):  # with `memory` bars of the same asset before them
        for f in range(3):
            own = new[bar - memory : bar, f].numpy()
            assert found[bar, f].item() == pytest.approx(surprise(new[bar, f].item(), own), rel=1e-6)
    start = GaussStatic(floor=FLOOR)
    start.fit(known)
    first = start.contributions(new, asset)
    np.testing.assert_allclose(found[[0, 15]], first[[0, 15]], rtol=1e-9)  # nothing before them: the training errors


def test_gauss_d_k_is_gauss_d_convolved():
    known, new = errors(100), errors(30, seed=1)
    dynamic = GaussDynamic(memory=5, floor=FLOOR)
    dynamic.fit(known)
    plain = dynamic.contributions(new, one_asset(30)).numpy()
    for centred in (False, True):
        score = GaussDynamicKernel(memory=5, floor=FLOOR, width=1.0, centred=centred)
        score.fit(known)
        found = score.contributions(new, one_asset(30)).numpy()
        for bar in (0, 2, 15, 29):
            lags = [lag for lag in range(-3 if centred else 0, 4) if 0 <= bar - lag < 30]
            weights = np.array([math.exp(-0.5 * lag**2) for lag in lags])
            expected = sum(w * plain[bar - lag] for w, lag in zip(weights, lags, strict=True)) / weights.sum()
            np.testing.assert_allclose(found[bar], expected, rtol=1e-9)


def test_student_finds_the_tails_and_the_directions_that_rows_were_drawn_from():
    from scipy.stats import t as student

    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    axes = np.stack([generator.standard_t(n, 20_000) * s for n, s in ((3, 5.0), (8, 1.0), (30, 0.2))], axis=1)
    rows = torch.from_numpy(axes @ turn.T + [1.0, 2.0, 3.0])
    score = StudentScore()
    score.fit(rows)
    new = rows[:200]
    surprises = [
        -student.logpdf(axes[:200, k], n, 0, s) + student.logpdf(0, n, 0, s)
        for k, (n, s) in enumerate(((3, 5.0), (8, 1.0), (30, 0.2)))
    ]
    found = score.contributions(new, one_asset(200)).sum(dim=1).numpy()
    assert np.abs(found - np.sum(surprises, axis=0)).max() < 0.15 * found.max()
    assert np.corrcoef(found, np.sum(surprises, axis=0))[0, 1] > 0.999
    assert sorted(score.tails.degrees.tolist())[0] == 3.0


def test_features_are_judged_without_the_reconstruction():
    windows, made, codes = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.zeros(2, 1)
    assert torch.equal(FeatureScore().measure(windows, made, codes), windows)
    assert torch.equal(StudentScore().measure(windows, made, codes), windows - made)


def test_student_is_not_moved_by_a_feature_that_follows_from_others_or_never_errs():
    rows = errors(300)
    rows = torch.cat([rows, rows[:, :1] + rows[:, 1:2], torch.zeros(300, 1, dtype=torch.float64)], dim=1)
    score = StudentScore()
    score.fit(rows)
    found = score.contributions(rows, one_asset(300))
    assert torch.isfinite(found).all()
    same = StudentScore()
    same.fit(rows[:, :3])
    assert found.sum(dim=1).max() < 3 * same.contributions(rows[:, :3], one_asset(300)).sum(dim=1).max()


def test_latent_neighbours_are_the_nearest_training_codes():
    codes = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    score = LatentNeighbours(neighbours=2, references=50)
    score.fit_codes(codes)
    new = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    spread = codes.numpy().std(axis=0)
    found = score.measure(torch.zeros(3, 6, 2), torch.zeros(3, 6, 2), new)
    assert found.shape == (3, 6, 1)
    for b in range(3):
        distances = np.sort(np.linalg.norm((codes.numpy() - new[b].numpy()) / spread, axis=1))
        assert found[b, 0, 0].item() == pytest.approx(distances[:2].mean(), rel=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_an_absent_bar_has_no_score_and_a_stranger_bar_a_higher_one(name):
    score = MAKERS[name]()
    channels = 3 if score.names_features else 1
    known = errors(60)[:, :channels]
    score.fit(known)
    new = known.clone()
    new[30] = torch.nan
    new[40] *= 20
    found = score.contributions(new, one_asset(60))
    assert found[30].isnan().all()
    assert torch.isfinite(found[torch.arange(60) != 30]).all()
    assert found.sum(dim=1).nan_to_num().argmax() == 40


@pytest.mark.parametrize("name", MAKERS)
def test_the_rows_that_a_score_depends_on_are_those_it_declares(name):
    score = MAKERS[name]()
    if not score.names_features:
        return
    score.fit(errors(60))
    new, other = errors(60, seed=1), errors(60, seed=1)
    row = 30
    other[: row - score.before], other[row + score.after + 1 :] = 9.0, 9.0
    one, two = (score.contributions(values, one_asset(60))[row] for values in (new, other))
    np.testing.assert_allclose(one, two, rtol=1e-9)
    assets = np.repeat([0, 1], 30)
    assert torch.equal(score.contributions(new, assets)[:30], score.contributions(new[:30], one_asset(30)))


@pytest.mark.parametrize("name", MAKERS)
def test_state_is_plain_tensors_and_comes_back(name, tmp_path):
    score, later = MAKERS[name](), MAKERS[name]()
    score.fit_codes(torch.randn(50, 4))
    score.fit(errors(60))
    torch.save(score.state_dict(), tmp_path / "state.pt")
    later.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    new = errors(9, seed=2)
    assert torch.equal(later.contributions(new, one_asset(9)), score.contributions(new, one_asset(9)))
    with pytest.raises(ConfigError, match="state has"):
        later.load_state_dict({"nonsense": torch.zeros(1)})


def test_bounds_name_value_and_key():
    with pytest.raises(ValueError, match=r"score\.memory is 1; it must be at least 2"):
        GaussDynamic(memory=1, floor=FLOOR)
    with pytest.raises(ValueError, match=r"score\.floor is 0\.0; it must be greater than 0"):
        GaussStatic(floor=0.0)
    with pytest.raises(ValueError, match=r"score\.references is 3; it must be at least score\.neighbours, 5"):
        LatentNeighbours(neighbours=5, references=3)
