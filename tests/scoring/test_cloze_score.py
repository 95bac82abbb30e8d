"""score=cloze: a small model of its own, fitted on training windows alone, saved with the detector."""

import numpy as np
import polars as pl
import pytest
import torch

from refold.errors import ConfigError
from refold.export.graph import _Scored
from refold.scoring.alignment import ALIGNMENTS
from refold.scoring.scores import ClozeScore
from tests.data.makers import checks, random_bars, ready, with_value
from tests.scoring.test_detector import T, detector

SHAPE = ["overnight_return", "intraday_return", "upper_shadow", "lower_shadow"]
BARS = random_bars([500, 400], seed=3)


def score(**others) -> ClozeScore:
    shape = {"hidden_size": 8, "num_layers": 1, "margin": 0, "degrees": 4.0, "scale_power": 0.5}
    return ClozeScore(**{**shape, "steps": 2, "batch_size": 16, "lr": 3e-3, "seed": 0, **others})


def data(bars: pl.DataFrame = BARS, **others):
    return ready(bars, **{"features": SHAPE, "window_size": T, **others})


def fitted(given, *, alignment="mean", **others):
    judge = detector(given, score=score(**others), alignment=alignment)
    series = given.train_windows.series
    return judge.fit_series((series, given.segments("train")), (series, given.segments("val")))


@pytest.fixture(scope="module")
def trained():
    return fitted(data(), steps=60, batch_size=64, lr=1e-2)


def test_a_wrong_high_is_the_strangest_bar_and_its_shadow_is_to_blame(trained):
    row = 240
    bars = BARS.with_columns(high=pl.when(pl.int_range(pl.len()) == row).then(pl.col("high") * 1.2).otherwise("high"))
    scores = trained.score(bars)
    assert np.isfinite(scores[1:500]).all()
    assert np.nanargmax(scores) == row
    scored = trained.score_series(data(bars).train_windows.series, np.array([[1, 499]]))
    assert scored.contributions[row].argmax() == SHAPE.index("upper_shadow")


def test_scores_come_back_from_detector_pt(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "detector.pt")
    other = detector(data(), score=score())
    other.load_state_dict(torch.load(tmp_path / "detector.pt", weights_only=True))
    np.testing.assert_array_equal(other.score(BARS), trained.score(BARS))
    assert other.flag(other.score_series(data().train_windows.series, data().segments("val")))[1].any()


def test_the_same_seed_gives_the_same_score_and_leaves_torch_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = (fitted(data(), seed=seed).score(BARS) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_it_learns_from_training_bars_alone():
    """A changed validation and test part leave the weights as they are."""
    border = BARS["timestamp"].unique().sort()[320]
    spoilt = BARS.with_columns(
        pl.when(pl.col("timestamp") >= border).then(pl.col("close") * 1.01).otherwise("close").alias("close")
    ).with_columns(high=pl.max_horizontal("high", "close"))
    states = [fitted(data(bars)).score_function.state_dict() for bars in (BARS, spoilt)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_all_bars_have_a_score_under_every_alignment(alignment):
    scores = fitted(data(), alignment=alignment).score(BARS)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [0, 500]  # first bars have no return


def test_under_last_a_bar_is_predicted_from_the_past_alone():
    judge = fitted(data(), alignment="last")
    known = judge.score(BARS)
    for end in (30, 200):
        np.testing.assert_allclose(judge.score(BARS.head(end)), known[:end], rtol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_masked_bars_have_no_score_and_no_influence(num_layers):
    bars = with_value(BARS, [100, 101, 200], "open", None)
    given = data(bars, max_masked=3, checks=checks(missing_value="mask"))
    judge = fitted(given, num_layers=num_layers)
    scores = judge.score(bars)
    assert set(np.flatnonzero(np.isnan(scores))) >= {100, 101, 200}
    changed = with_value(bars, [100, 200], "high", 1e4)
    np.testing.assert_array_equal(judge.score(changed)[102:200], scores[102:200])


def test_a_panel_is_scored_asset_by_asset():
    bars = random_bars([300, 300, 300], seed=1)
    judge = fitted(data(bars, layout="panel"))
    scored = judge.score_series(data(bars, layout="panel").train_windows.series, np.array([[0, 299]]))
    assert scored.contributions.shape == (3 * 300, 4)
    assert np.isfinite(scored.score).any()


def test_states_of_others_and_broken_weights_are_refused(trained):
    state = trained.score_function.state_dict()
    with pytest.raises(ConfigError, match="state has"):
        score().load_state_dict({"nonsense": torch.zeros(1)})
    broken = {**state, "cloze.read_out.0.bias": torch.full_like(state["cloze.read_out.0.bias"], torch.nan)}
    with pytest.raises(ValueError, match=r"NaN or infinite, cloze\.read_out\.0\.bias"):
        score().load_state_dict(broken)
    with pytest.raises(RuntimeError, match="size mismatch"):
        score(hidden_size=5).load_state_dict(state)


def test_an_export_refuses_it_in_a_sentence(trained):
    with pytest.raises(ConfigError, match=r"ClozeScore: it has a model of its own.*score=gauss_s"):
        _Scored(trained.score_function)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 0),
        ("num_layers", 0),
        ("margin", -1),
        ("degrees", 0.0),
        ("scale_power", 1.5),
        ("steps", 0),
        ("batch_size", 0),
        ("lr", 0.0),
    ],
)
def test_bounds_name_value_and_key(name, value):
    with pytest.raises(ValueError, match=f"score.{name} is {value}"):
        score(**{name: value})
