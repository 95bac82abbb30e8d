"""A schedule depends on the step alone and passes through its stated points; coins depend on (seed, step) alone."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from refold.training.teacher_forcing import (
    Constant,
    Cosine,
    Exponential,
    FreeRunning,
    InverseSigmoid,
    Linear,
    TeacherForcing,
)

FALLING = [
    Linear(start=0.9, end=0.1, steps=100),
    Exponential(half_life_steps=40),
    InverseSigmoid(half_life_steps=200),
    Cosine(start=1.0, end=0.2, steps=100),
]


@pytest.mark.parametrize("schedule", [FreeRunning(), Constant(ratio=0.3), *FALLING], ids=lambda s: type(s).__name__)
def test_every_ratio_is_a_probability_also_at_very_large_steps(schedule):
    for step in (0, 1, 57, 1000, 10**6, 10**12):
        assert 0 <= schedule(step) <= 1


@pytest.mark.parametrize("schedule", FALLING, ids=lambda s: type(s).__name__)
def test_decaying_schedules_never_rise(schedule):
    ratios = [schedule(step) for step in range(0, 500, 7)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(ratios))
    assert ratios[-1] < ratios[0]


def test_landmarks():
    assert FreeRunning()(5) == 0
    assert Constant(ratio=0.3)(5) == 0.3
    linear = Linear(start=0.9, end=0.1, steps=100)
    assert [linear(step) for step in (0, 50, 100, 999)] == pytest.approx([0.9, 0.5, 0.1, 0.1])
    cosine = Cosine(start=1.0, end=0.2, steps=100)
    assert [cosine(step) for step in (0, 50, 100, 999)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    exponential = Exponential(half_life_steps=40)
    assert [exponential(step) for step in (0, 40, 80)] == pytest.approx([1, 0.5, 0.25])


@given(st.integers(1, 10**6))
def test_inverse_sigmoid_has_the_papers_form_and_its_half_life(half_life):
    schedule = InverseSigmoid(half_life_steps=half_life)
    k = schedule.k
    assert k * math.log(k) == pytest.approx(half_life, rel=1e-9)
    assert schedule(0) == pytest.approx(k / (k + 1))
    step = round(half_life / 2)
    assert schedule(step) == pytest.approx(k / (k + math.exp(step / k)))
    assert schedule(half_life) == pytest.approx(0.5)


SHARES = {
    "linear": (lambda horizon: Linear(start=0.9, end=0.1, steps=horizon), "steps"),
    "exponential": (lambda horizon: Exponential(half_life_steps=horizon), "half_life_steps"),
    "inverse sigmoid": (lambda horizon: InverseSigmoid(half_life_steps=horizon), "half_life_steps"),
    "cosine": (lambda horizon: Cosine(start=1.0, end=0.2, steps=horizon), "steps"),
}


@pytest.mark.parametrize(("make", "key"), SHARES.values(), ids=SHARES)
def test_a_share_of_the_run_is_so_many_of_its_steps(make, key):
    for share, total, steps in ((0.05, 4880, 244), (1.0, 300, 300), (0.05, 3, 1), (1, 300, 1), (500, 300, 500)):
        forcing = teacher_forcing(make(share))
        forcing.begin(total)
        assert forcing.schedule == make(steps)
        forcing.begin(total)  # as in a run that is resumed
        assert forcing.schedule == make(steps)
    with pytest.raises(ValueError, match=rf"schedule\.{key} is 0\.05, a share of a run whose opt.* not known"):
        make(0.05)(3)


@pytest.mark.parametrize("horizon", [0, -1, 0.0, -0.5, math.nan, "0.1", True])
@pytest.mark.parametrize(("make", "key"), SHARES.values(), ids=SHARES)
def test_a_horizon_that_is_neither_a_share_nor_steps_is_refused(make, key, horizon):
    wanted = r"it must be (a number )?in \(0, 1\] or (a (whole )?number )?at least 1"
    with pytest.raises(ValueError, match=rf"teacher_forcing\.schedule\.{key} is .*; {wanted}"):
        make(horizon)


def test_the_horizon_is_said_in_steps_and_epochs():
    forcing = teacher_forcing(Linear(start=1.0, end=0.0, steps=0.05))
    forcing.begin(4880)
    text = "teacher forcing: ratio 1.00 to 0.00 within 244 of 4,880 optimizer steps, 2.0 of 40.0 epochs"
    assert forcing.describe_horizon(4880, 122) == (text, True)
    text, long_enough = teacher_forcing(Linear(start=1.0, end=0.0, steps=1000)).describe_horizon(244, 122)
    assert text.endswith("its horizon is longer than the run, which ends at 0.76")
    assert not long_enough
    assert teacher_forcing(Constant(ratio=0.5)).describe_horizon(10, 5) is None


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan])
def test_a_ratio_outside_the_unit_interval_is_refused(ratio):
    with pytest.raises(ValueError, match=r"teacher_forcing\.schedule\.ratio is .*; it must be in \[0, 1\]"):
        Constant(ratio=ratio)


def teacher_forcing(schedule, coin="step", seed=0, passes=0, dropout=0.0):
    return TeacherForcing(
        schedule=schedule, coin=coin, detach_feedback=False, parallel_passes=passes, input_dropout=dropout, seed=seed
    )


@pytest.mark.parametrize("coin", ["step", "sequence", "sequence_step", "prefix"])
@pytest.mark.parametrize("given", [-0.1, 1.1, math.nan, math.inf, "0.5", None])
def test_a_schedule_that_gives_no_probability_is_refused(given, coin):
    forcing = teacher_forcing(lambda step: given if step == 3 else 1, coin)
    assert forcing.ratio(2) == 1
    message = rf"teacher_forcing\.schedule gives {given!r} at optimizer step 3; it must be .*in \[0, 1\]"
    with pytest.raises(ValueError, match=message):
        forcing.ratio(3)
    with pytest.raises(ValueError, match=message):
        forcing.feeding(3, batch_size=4, window_size=9)


@pytest.mark.parametrize(
    ("passes", "coin", "message"),
    [
        (1, "sequence_step", r"teacher_forcing\.parallel_passes is 1; it must be 0 or at least 2"),
        (-1, "sequence_step", r"teacher_forcing\.parallel_passes is -1; it must be 0 or at least 2"),
        (2, "step", r"teacher_forcing\.parallel_passes is 2; it must be 0 with teacher_forcing\.coin=step: .*_step"),
        (3, "sequence", "it must be 0 with teacher_forcing.coin=sequence:"),
        (2, "prefix", "it must be 0 with teacher_forcing.coin=prefix:"),
    ],
)
def test_parallel_passes_that_are_not_to_be_had(passes, coin, message):
    with pytest.raises(ValueError, match=message):
        teacher_forcing(Constant(ratio=0.5), coin, passes=passes)


def test_parallel_passes_with_coins_per_sequence_and_step():
    forcing = teacher_forcing(Constant(ratio=0.5), "sequence_step", passes=2)
    assert forcing.feeding(0, batch_size=4, window_size=9).parallel_passes == 2


@pytest.mark.parametrize(
    ("coin", "shape"), [("step", (50,)), ("sequence", (8, 1)), ("sequence_step", (8, 50)), ("prefix", (50,))]
)
def test_coins_have_the_shape_that_their_kind_says(coin, shape):
    coins = teacher_forcing(Constant(ratio=0.5), coin).feeding(3, batch_size=8, window_size=50).coins
    assert coins.shape == shape
    assert coins.dtype == torch.bool


def test_coins_repeat_for_the_same_seed_and_step_and_only_for_them():
    forcing = teacher_forcing(Constant(ratio=0.5), "sequence_step")
    torch.manual_seed(1)
    first = forcing.feeding(7, batch_size=16, window_size=64).coins
    torch.manual_seed(2)
    again = teacher_forcing(Constant(ratio=0.5), "sequence_step").feeding(7, batch_size=16, window_size=64).coins
    assert torch.equal(first, again)
    assert not torch.equal(first, forcing.feeding(8, batch_size=16, window_size=64).coins)
    other_seed = teacher_forcing(Constant(ratio=0.5), "sequence_step", seed=1)
    assert not torch.equal(first, other_seed.feeding(7, batch_size=16, window_size=64).coins)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_coins_show_the_truth_with_their_ratio(ratio):
    coins = teacher_forcing(Constant(ratio=ratio), "sequence_step").feeding(0, batch_size=400, window_size=400).coins
    # 160,000 tosses: five standard errors are at most 5 * 0.5 / 400
    assert coins.float().mean().item() == pytest.approx(ratio, abs=5 * 0.5 / 400)


def test_the_extremes_need_no_luck():
    assert teacher_forcing(FreeRunning()).feeding(0, batch_size=4, window_size=9).coins is None
    assert teacher_forcing(Constant(ratio=1.0)).feeding(0, batch_size=4, window_size=9).coins.all()


def test_prefix_feeds_the_first_bars():
    coins = teacher_forcing(Constant(ratio=0.3), "prefix").feeding(0, batch_size=4, window_size=10).coins
    assert coins.tolist() == [True] * 3 + [False] * 7


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_dropped_bars_repeat_for_the_same_seed_and_step_and_have_their_rate(ratio):
    def drawn(step, seed=0, dropout=0.3):
        forcing = teacher_forcing(Constant(ratio=ratio), seed=seed, dropout=dropout)
        return forcing.feeding(step, batch_size=400, window_size=400).dropped

    # 160,000 tosses: five standard errors are at most 5 * 0.5 / 400
    assert drawn(7).float().mean().item() == pytest.approx(0.3, abs=5 * 0.5 / 400)
    assert torch.equal(drawn(7), drawn(7))
    assert not torch.equal(drawn(7), drawn(8))
    assert not torch.equal(drawn(7), drawn(7, seed=1))
    assert drawn(7, dropout=0.0) is None


def test_coins_are_the_same_with_and_without_dropped_bars():
    with_drops, without = (
        teacher_forcing(Constant(ratio=0.5), "sequence_step", dropout=rate)
        .feeding(3, batch_size=4, window_size=9)
        .coins
        for rate in (0.5, 0.0)
    )
    assert torch.equal(with_drops, without)


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_a_rate_of_dropped_bars_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=r"teacher_forcing\.input_dropout is .*; it must be in \[0, 1\)"):
        teacher_forcing(Constant(ratio=0.5), dropout=rate)
