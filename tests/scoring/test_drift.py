"""The test of drift: bars one by one and many at a time agree, false alarms keep to the promise, changes are found."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch
from conftest import ROOT

from refold.report.sections import drift_table
from refold.scoring.drift import ALL, DriftLimits, DriftTest, count_states, drift_words
from refold.scoring.drift_reference import BLOCK_BARS, QUANTILES, Reference, fit_reference
from scripts.bench import drift as bench

LIMITS = DriftLimits(watch_years=5.0, retrain_years=50.0)
BARS = 400


def bars_of(assets: int, bars: int, seed: int = 0) -> np.ndarray:
    """(A, N, 2): score and one feature, independent of each other."""
    return np.random.default_rng(seed).standard_normal((assets, bars, 2))


def reference_of(bars: np.ndarray, year: float = 250.0) -> Reference | None:
    A, N, _ = bars.shape
    times, asset = np.tile(np.arange(N), A), np.repeat(np.arange(A), N)
    return fit_reference(times, asset, bars.reshape(-1, 2), [f"A{n}" for n in range(A)], ["move"], year)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of(bars_of(3, BARS))


def batched(reference: Reference, bars: np.ndarray, pieces: int = 1) -> DriftTest:
    """What a scoring does: asset after asset, in pieces; the last asset is one that validation does not know."""
    test = DriftTest(reference, LIMITS)
    for name, own in zip(("A0", "A1", "A2", "new"), bars, strict=True):
        for part in np.array_split(np.arange(len(own)), pieces):
            test.add(name, BARS + part, own[part])
    test.finish()
    return test


def test_assets_that_are_tested_apart_add_up_to_the_whole_bit_for_bit(reference):
    bars, whole = bars_of(4, 300, seed=1), DriftTest(reference, LIMITS)
    for names in (("A0", "new"), ("A2", "A1")):
        apart = whole.of_assets(names)
        for name in names:
            apart.add(name, BARS + np.arange(300), bars[("A0", "A1", "A2", "new").index(name)])
        assert apart.reference.names == tuple(name for name in names if name != "new")
        whole.merge(apart)
    whole.finish()
    for name, value in batched(reference, bars).state().items():
        np.testing.assert_array_equal(value, whole.state()[name])


def test_bars_one_by_one_and_many_at_a_time_give_the_same_state_bit_for_bit(reference):
    bars = bars_of(4, 300, seed=1)
    bars[1, 100:] += 1.5
    bars[2, [5, 6, 120], [0, 1, 0]] = np.nan
    many, live = batched(reference, bars, pieces=7), DriftTest(reference, LIMITS)
    rng = np.random.default_rng(2)
    for bar in range(300):
        order = rng.permutation(4)  # assets interleave as they like; some come alone
        for part in np.split(order, [rng.integers(0, 5)]):
            names = [("A0", "A1", "A2", "new")[n] for n in part]
            live.push(names, np.full(len(part), BARS + bar), bars[part, bar])
    for name, value in batched(reference, bars).state().items():
        np.testing.assert_array_equal(value, many.state()[name])
        np.testing.assert_array_equal(value, live.state()[name])
    assert live.of("A1") == "retrain"
    assert live.of("A0") == "stable"
    assert live.of("new") == live.pooled


def test_a_restored_test_goes_on_bit_for_bit(reference):
    bars, test = bars_of(1, 200, seed=3)[0], DriftTest(reference, LIMITS)
    whole = DriftTest(reference, LIMITS)
    for bar in range(200):
        whole.push(["A0"], np.array([BARS + bar]), bars[bar, None])
        test.push(["A0"], np.array([BARS + bar]), bars[bar, None])
        if bar == 95:
            held = torch.load(_saved(test.state()), weights_only=True)
            test = DriftTest(Reference.from_state(reference.state()), LIMITS)
            test.load_state({name: value.numpy() for name, value in held.items()})
    for name, value in whole.state().items():
        np.testing.assert_array_equal(value, test.state()[name])
    other = DriftTest(reference_of(bars_of(2, BARS)), LIMITS)
    with pytest.raises(ValueError, match=r"drift.gaps is float64 \(4, 3, 32\); it must be float64 \(3, 3, 32\)"):
        other.load_state(whole.state())


def _saved(state: dict[str, np.ndarray]):
    from io import BytesIO

    file = BytesIO()
    torch.save({name: torch.from_numpy(value) for name, value in state.items()}, file)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda bars: bars + np.array([1.0, 0.0]), "score higher"),
        (lambda bars: bars - [1.0, 0.0], "score lower"),
        (lambda bars: bars + np.array([0.0, 1.5]), "move higher"),
        (lambda bars: bars * [1.0, 3.0], "move wider"),
        (lambda bars: bars * [1.0, 0.2], "move narrower"),
    ],
)
def test_what_changes_is_found_and_named(reference, change, told):
    bars = change(bars_of(4, 500, seed=4))
    test = batched(reference, bars)
    assert test.pooled == "retrain"
    assert test.moved() == told
    table = test.table(pl.Datetime("us"))  # a bar of these comes each microsecond
    assert table["asset"].to_list() == [ALL, "A0", "A1", "A2"]
    assert table["since"][0] > datetime(1970, 1, 1) + timedelta(microseconds=30)
    facts = count_states(table)
    assert facts["state"] == "retrain"
    assert sum(facts["assets"].values()) == 3
    assert drift_words(facts).startswith(f"retrain since {table['since'][0]} ({told}); of 3 assets ")
    shown = drift_table(table)
    assert shown["rows"][0][:2] == (ALL, "retrain")
    assert shown["total"] == 4


def test_bars_like_those_of_validation_are_stable(reference):
    test = batched(reference, bars_of(4, 500, seed=5))
    assert [test.of(name) for name in ("A0", "A1", "A2", "new")] == ["stable"] * 4
    assert test.moved() is None
    assert drift_words(count_states(test.table(pl.Datetime("us")))) == "stable; of 3 assets 3 stable"


def test_retrain_stays_and_watch_goes():
    reference = reference_of(bars_of(1, BARS))
    test = DriftTest(reference, DriftLimits(watch_years=20.0, retrain_years=1e9))
    calm, wild = bars_of(1, 6000, seed=6)[0], bars_of(1, 150, seed=7)[0] + [2.0, 0.0]
    test.add("A0", np.arange(1000, 1150), wild)
    assert test.of("A0") == "watch"
    test.add("A0", np.arange(2000, 8000), calm)
    assert test.of("A0") == "stable"
    strict = DriftTest(reference, DriftLimits(watch_years=0.5, retrain_years=1.0))
    strict.add("A0", np.arange(1000, 1150), wild)
    strict.add("A0", np.arange(2000, 8000), calm)
    assert strict.of("A0") == "retrain"


def test_late_bars_and_bars_without_a_score_change_nothing(reference):
    test = batched(reference, bars_of(4, 100, seed=8))
    before = test.state()
    test.push(["A0", "A1"], np.array([BARS + 3, BARS + 99]), np.array([[9.0, 9.0], [np.nan, 1.0]]))
    for name, value in before.items():
        np.testing.assert_array_equal(value, test.state()[name])


def test_too_short_a_validation_gives_no_test():
    assert reference_of(bars_of(2, 20 * BLOCK_BARS - 1)) is None
    assert reference_of(bars_of(2, BARS), year=float("nan")) is None


def test_a_stream_that_wanders_is_not_tested():
    bars = bars_of(3, BARS)
    bars[:, :, 1] = bars[:, :, 1].cumsum(axis=1)
    tested = reference_of(bars).tested
    assert tested[:, 0].all()
    assert not tested[:3, 1].any()


def test_values_that_are_all_alike_are_not_tested():
    bars = bars_of(3, BARS)
    bars[:, :, 1] = 7.0
    reference = reference_of(bars)
    assert not reference.tested[:, 1:].any()
    test = DriftTest(reference, LIMITS)
    test.add("A0", np.arange(1000, 1200), np.tile([0.0, 7.0], (200, 1)))
    assert np.isfinite(test.gain).all()


@pytest.mark.parametrize(
    "spoilt",
    [
        {"grid": torch.zeros(4, 2, QUANTILES - 1)},
        {"span": 0},
        {"bars_per_year": float("nan")},
        {"names": ["A0"]},
        {"gaps": torch.full((4, 3, 32), -1.0)},
    ],
)
def test_a_reference_that_no_validation_gives_is_refused(reference, spoilt):
    with pytest.raises(ValueError, match="its drift"):
        Reference.from_state({**reference.state(), **spoilt})


def test_limits_are_checked_together():
    with pytest.raises(ValueError, match=r"drift.retrain_years is 1.0; it must be at least drift.watch_years, .* 5.0"):
        DriftLimits(watch_years=5.0, retrain_years=1.0)


@pytest.mark.slow
def test_false_alarms_keep_to_the_promise_where_bars_are_independent():
    """Eight years at one false alarm in fifty: at most 16 % of the assets, here with room for the luck of 20."""
    assert bench.share_of_false("independent", 0) <= 0.25


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "most"), [("independent", 0.16), ("AR(1), 0.9", 0.16), ("GARCH, 0.08 + 0.90", 0.35)])
def test_measured_false_alarms(kind, most):
    """docs/drift.md tells them; without memory nearly every asset of the last kind is a false alarm."""
    assert np.mean([bench.share_of_false(kind, seed) for seed in range(5)]) <= most


def test_the_page_has_the_markers():
    page = (ROOT / "docs/drift.md").read_text()
    assert page.count("<!-- drift: begin -->") == page.count("<!-- drift: end -->") == 1
