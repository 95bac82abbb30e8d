"""score=planted: it names what was planted, per asset, under every alignment, and comes back from its state."""

import logging
import math

import numpy as np
import polars as pl
import pytest
import torch

from refold.data.planted import PriceUnit, RealJump, Split, VolumeUnit, plant
from refold.data.unsplit import unsplit_series
from refold.errors import ConfigError, DataError
from refold.export.graph import _Scored
from refold.scoring.events import group_events
from refold.scoring.scan import scan_parts
from refold.scoring.scores import PlantedErrors
from refold.scoring.scores.head import Examples, Head, calibrate, train_head
from tests.data.makers import random_bars, ready, with_value
from tests.scoring.test_detector import detector, parts, small_autoencoder

BARS = random_bars([700, 700], seed=4)
FEATURES = ["overnight_return", "intraday_return", "high_return", "low_return"]
KINDS = {
    "split": Split("split", [2.0, 0.5]),
    "unit": PriceUnit("unit", [100.0, 0.01], 2),
    "volume_unit": VolumeUnit("volume unit", [100.0], 1),
    "jump": RealJump("real jump", 1.0, 4.0, "move", 2.0),
}


def score(**others) -> PlantedErrors:
    settings = {
        "kinds": KINDS, "per_thousand": 8.0, "expected_share": 0.001, "copies": 4, "windows": 2000, "steps": 60,
        "batch_size": 64, "lr": 1e-2, "channels": 16, "width": 3, "seed": 0,
    }  # fmt: skip
    return PlantedErrors(**{**settings, **others})


def fitted(bars=BARS, *, alignment="mean", data=None, **others):
    """A detector around a random autoencoder: the head does not need a good one."""
    data = data or ready(bars.drop("volume"), features=FEATURES)
    made = detector(data, autoencoder=small_autoencoder(data.num_features), score=score(**others), alignment=alignment)
    return made.fit(*parts(bars.drop("volume")))


@pytest.fixture(scope="module")
def mean():
    return fitted()


@pytest.fixture(scope="module")
def last():
    return fitted(alignment="last", steps=30)


def spoilt(kind, seed=5):
    bars = parts(BARS)[1].drop("volume")
    return plant(bars, [kind], per_thousand=10.0, warm_up=20, generator=np.random.default_rng(seed))


def named(made, bars):
    """Scores of bars, and the names that the head gives them."""
    series = unsplit_series(bars, made.recipe, made.scaler)
    scored = made.score_series(series.series, series.segments, series.origin)
    place = np.full(bars.height, -1)
    kept = scored.origin >= 0
    place[scored.origin[kept]] = np.flatnonzero(kept)
    return scored, place


@pytest.mark.parametrize("kind", ["split", "unit"])
def test_what_was_planted_in_training_is_found_and_named_in_other_bars(kind, mean):
    planted = spoilt(KINDS[kind])
    scored, place = named(mean, planted.bars)
    known = (planted.label > 0) & (place >= 0)
    calm = (planted.label == 0) & ~np.append(False, planted.label[:-1] > 0) & (place >= 0)
    high = scored.score[place[known]]
    others = scored.score[place[calm]]
    assert (high > np.nanquantile(others, 0.99)).mean() > 0.9
    called = np.array(scored.named.names)[scored.named.kind[place[known]]]
    assert (called == KINDS[kind].name).mean() > 0.8
    probability = scored.named.probability[place]
    assert np.nanmean(probability[known]) > 20 * np.nanmean(probability[calm])


def test_a_score_is_the_sum_of_its_contributions_and_the_log_odds_of_its_probability(mean):
    scored, _ = named(mean, spoilt(KINDS["unit"]).bars)
    there = ~np.isnan(scored.score)
    assert scored.contributions.shape[1] == len(FEATURES)
    assert np.allclose(scored.contributions.sum(axis=1), scored.score, equal_nan=True)
    assert np.allclose(1 / (1 + np.exp(-scored.score[there])), scored.named.probability[there])


def test_a_kind_that_the_bars_cannot_have_is_left_out_and_said(caplog):
    with caplog.at_level(logging.WARNING, logger="refold.score"):
        made = fitted(steps=2, copies=1)
    assert "left out, since the bars cannot have them: 'volume unit' (no volume)" in caplog.text
    assert list(made.score_function.state_dict()["kept"]) == [True, True, False, False]
    with pytest.raises(DataError, match=r"no error that the bars can have: 'volume unit' \(no volume\)"):
        fitted(kinds={"volume_unit": KINDS["volume_unit"]})


def test_the_state_is_plain_tensors_and_comes_back(mean, tmp_path):
    torch.save(mean.state_dict(), tmp_path / "detector.pt")
    state = torch.load(tmp_path / "detector.pt", weights_only=True)
    other = mean.around(mean.autoencoder)
    other.score_function, other.rarity = score(), None
    other.load_state_dict(state)
    bars = parts(BARS)[1].drop("volume")
    assert np.array_equal(other.score(bars), mean.score(bars), equal_nan=True)
    assert other.score_function.names == ("split", "unit")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kept", torch.ones(2, dtype=torch.bool), "state is of 2 kinds; score.kinds has 4"),
        ("factor", torch.tensor(math.nan), "NaN or infinite, factor among them"),
        ("other", torch.zeros(1), "PlantedErrors has"),
        ("head.out.weight", torch.zeros(1, 16, 1), "negative|size mismatch|must be"),
    ],
)
def test_a_state_that_no_fit_wrote_is_refused(key, value, message, mean):
    state = {**mean.score_function.state_dict(), key: value}
    with pytest.raises((ConfigError, ValueError, RuntimeError), match=message):
        score().load_state_dict(state)


def test_a_head_of_an_earlier_version_is_refused_with_what_helps(mean):
    state = {name: value for name, value in mean.score_function.state_dict().items() if "combine" not in name}
    with pytest.raises(ConfigError, match=r"earlier version of refold.* choose score=planted anew, or train again"):
        score().load_state_dict(state)


def test_under_last_nothing_after_a_bar_counts(last):
    bars = parts(BARS)[1].drop("volume")
    changed = bars
    for row in range(60, 90):
        changed = with_value(changed, [row], "close", 77.0 + row)
    changed = changed.with_columns(
        high=pl.max_horizontal("open", "high", "close"), low=pl.min_horizontal("open", "low", "close")
    )
    before, after = last.score(bars), last.score(changed)
    assert np.array_equal(before[:60], after[:60], equal_nan=True)
    assert not np.isnan(before[2:60]).any()  # the first bars of a run are scored too, from the bars that there are
    assert (before[60:90] != after[60:90]).any()


@pytest.mark.slow
def test_each_asset_of_a_panel_has_a_verdict_of_its_own():
    bars = BARS.drop("volume")
    data = ready(bars, features=FEATURES, layout="panel")
    made = fitted(data=data)
    val = parts(bars)[1]
    row = 150
    wrong = val.with_columns(
        pl.when(pl.int_range(pl.len()) == row).then(pl.col(name) * 100).otherwise(pl.col(name)).alias(name)
        for name in ("open", "high", "low", "close")
    )
    clean, scores = made.score(val), made.score(wrong)
    assert scores[row] > np.nanmax(clean)
    partner = row + val.height // 2
    assert val["timestamp"][row] == val["timestamp"][partner]
    assert scores[partner] < scores[row] - 1
    assert made.score_function.value_columns(8, 4) == 2 * (2 + 4)


@pytest.mark.slow
def test_masked_bars_have_no_verdict_and_hide_none():
    data = ready(BARS.drop("volume"), features=FEATURES, max_masked=2)
    made = fitted(data=data, steps=20)
    bars = with_value(parts(BARS)[1].drop("volume"), [100, 101], "close", None)
    made = made.checking(made.recipe.checks.when_scoring())
    scores = made.score(bars)
    assert np.isnan(scores[[100, 101]]).all()
    assert not np.isnan(scores[[90, 99, 110]]).any()


@pytest.mark.slow
def test_the_seed_decides_and_the_global_generator_is_left_alone(mean):
    again, train_and_val = mean.around(mean.autoencoder), parts(BARS.drop("volume"))
    again.score_function = score()
    before = torch.random.get_rng_state()
    again.fit(*train_and_val)
    assert torch.equal(torch.random.get_rng_state(), before)
    bars = parts(BARS)[1].drop("volume")
    assert np.array_equal(again.score(bars), mean.score(bars), equal_nan=True)
    other = fitted(seed=1)
    assert not np.array_equal(other.score(bars), mean.score(bars), equal_nan=True)


def test_probabilities_are_shares():
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([2.0, -1.0], dtype=torch.float64)
    odds = 2 * torch.randn(20_000, 2, generator=generator, dtype=torch.float64) - 3
    shares = torch.nn.functional.pad(odds + truth, (1, 0)).softmax(dim=1)
    labels = torch.multinomial(shares, 1, generator=generator).squeeze(1)
    factor, shift = calibrate(odds / 1.7, labels)
    assert float(factor) == pytest.approx(1.7, rel=0.05)
    assert shift.tolist() == pytest.approx([2, -1], abs=0.2)
    unseen = calibrate(odds, torch.where(labels == 2, 0, labels))[1]
    assert unseen[1] == 0


def test_the_expected_share_moves_probabilities_and_no_order(mean):
    rare, often = (score(expected_share=share) for share in (0.001, 0.1))
    values = torch.tensor(np.random.default_rng(0).normal(size=(50, 2 + 4)))
    states = mean.score_function.state_dict()
    for one in (rare, often):
        one.load_state_dict(states)
    often.prior = rare.prior + math.log(0.1 / 0.9) - math.log(0.001 / 0.999)
    low, high = (one.contributions(values, np.zeros(50, int)).sum(1) for one in (rare, often))
    assert torch.equal(low.argsort(), high.argsort())
    assert (often.name_bars(values).probability > rare.name_bars(values).probability).all()


def test_too_few_bars_to_plant_in_are_said():
    short = BARS.group_by("asset", maintain_order=True).head(150)
    with pytest.raises(DataError, match=r"no room for one more .*score\.per_thousand.*data\.split"):
        fitted(short, per_thousand=300.0)


def test_an_event_has_the_kind_of_its_peak():
    flagged = pl.DataFrame(
        {
            "timestamp": BARS["timestamp"][:2], "asset": ["A", "A"], "score": [1.0, 2.0], "rarity": [0.1, 0.2],
            "probability": [0.6, 0.9], "place": [4, 5], "kind": ["split", "wick"], "guess": [None, "split?"],
            "contribution/x": [1.0, 2.0],
        }
    )  # fmt: skip
    (event,) = group_events(flagged).iter_rows(named=True)
    assert (event["kind"], event["probability"], event["bars"]) == ("wick", 0.9, 2)
    assert group_events(flagged.clear()).schema == group_events(flagged).schema


def test_scored_bars_have_probability_and_kind(mean):
    bars = spoilt(KINDS["unit"]).bars
    made = unsplit_series(bars, mean.recipe, mean.scaler)
    (table,) = scan_parts(mean, bars, {"test": made.segments})
    assert table.columns.index("probability") == table.columns.index("rarity") + 1
    scored = table.filter(pl.col("score").is_not_null())
    assert set(scored["kind"].unique()) <= {"split", "unit"}
    assert scored["probability"].is_between(0, 1).all()


def test_a_file_cannot_hold_it(mean):
    with pytest.raises(ConfigError, match="score is PlantedErrors: an exported file has one score"):
        _Scored(mean.score_function)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"kinds": {}}, r"score\.kinds has no kind of error"),
        ({"kinds": {"jump": KINDS["jump"], "split": None}}, r"score\.kinds has no kind of error"),
        ({"kinds": {"a": KINDS["split"], "b": KINDS["split"]}}, r"two kinds with the name 'split'"),
        ({"width": 4}, r"score\.width is 4; it must be odd"),
        ({"expected_share": 1.0}, r"score\.expected_share is 1\.0; it must be in \(0, 1\)"),
        ({"steps": 1}, r"score\.steps is 1; it must be at least 2"),
        ({"copies": 0}, r"score\.copies is 0; it must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(others, message):
    with pytest.raises(ValueError, match=message):
        score(**others)


@pytest.mark.parametrize("steps", [2, 10, 15])
def test_any_number_of_steps_trains(steps):
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(8, 5, 2, generator=generator)
    labels, blame = torch.ones(8, 5, dtype=torch.int64), torch.full((8, 5, 2), 0.5)
    head = Head(num_features=2, code_size=1, kinds=1, channels=4, width=3, causal=False)
    examples = Examples(windows, torch.zeros_like(windows), torch.zeros(8, 1), labels, blame)
    train_head(head, examples, steps=steps, batch_size=4, lr=1e-2, last_bars=None, seed=0)
    assert head(windows, torch.zeros_like(windows), torch.zeros(8, 1)).isfinite().all()


@pytest.mark.parametrize(("causal", "width"), [(False, 5), (True, 5), (False, 1), (True, 3)])
def test_the_fast_convolutions_are_those_over_channels_first(causal, width):
    """The plain twin: Conv1d over padded bars, and torch's own asinh."""
    torch.manual_seed(0)
    head = Head(num_features=3, code_size=4, kinds=2, channels=6, width=width, causal=causal).double()
    torch.nn.init.normal_(head.out.weight)
    windows, rebuilt = (3 * torch.randn(5, 9, 3, dtype=torch.float64) for _ in range(2))
    windows[0, 2], windows[1, 3, 0] = 0.0, 1e4
    codes = torch.randn(5, 4, dtype=torch.float64)

    def plain() -> torch.Tensor:
        present = (windows != 0).any(dim=2, keepdim=True)
        error = (windows - rebuilt) * present
        usual = error.abs().mean(dim=2, keepdim=True).median(dim=1, keepdim=True).values + 1e-3
        step = torch.nn.functional.pad(windows.diff(dim=1).abs(), (0, 0, 1, 0), value=1.0)
        combined = windows.clamp(-30, 30) @ head.combine.weight.T + head.combine.bias
        combined = torch.where(combined > 0, (1 + combined).log(), -(1 - combined).log())
        parts = [windows.asinh(), combined, error.asinh(), (error / usual).asinh(), (step + 1e-3).log()]
        code = head.code(codes.asinh()).unsqueeze(1).expand(-1, 9, -1)
        bars = torch.cat([*parts, present.double(), usual.log().expand(-1, 9, -1), code], dim=2).transpose(1, 2)
        for layer in (head.first, head.second):
            bars = torch.nn.functional.gelu(layer(torch.nn.functional.pad(bars, (head.before, head.after))))
        return head.out(bars).transpose(1, 2)

    twin, fast = plain(), head(windows, rebuilt, codes)
    torch.testing.assert_close(fast, twin, rtol=0, atol=1e-10)
    weights = list(head.parameters())
    gradients = [torch.autograd.grad(made.square().sum(), weights) for made in (fast, twin)]
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)
