"""Planted errors: what they do to a bar, where they are, and what they leave alone."""

import numpy as np
import polars as pl
import pytest

from refold.data.planted.plant import SPACING
from refold.errors import DataError
from refold.scoring.worth import SPLIT_FACTORS
from refold.studies.inject import KINDS, inject
from tests.data.makers import checks, random_bars

BARS = random_bars([300, 300, 120], seed=3)
PRICES = ["open", "high", "low", "close"]


def planted(kind, bars=BARS, *, per_thousand=10, warm_up=20, seed=0):
    """Original and spoilt bars side by side (`_x` is spoilt), with the kind of each, and the labels."""
    spoilt, labels = inject(
        bars, [kind], per_thousand=per_thousand, warm_up=warm_up, generator=np.random.default_rng(seed)
    )
    both = bars.join(spoilt, on=["timestamp", "asset"], suffix="_x", how="left")
    return both.join(labels, on=["timestamp", "asset"], how="left").sort("asset", "timestamp"), labels


def ratio(frame, name):
    return (frame[f"{name}_x"] / frame[name]).to_numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_as_asked_for_and_nothing_in_the_warm_up(kind):
    both, labels = planted(kind)
    rows = both.with_row_index().filter(pl.col("kind").is_not_null())["index"].cast(pl.Int64)
    episodes = (rows.diff().fill_null(99) > 1).sum()
    assert episodes == round(10 * (720 - 3 * 20) / 1000)
    early = (
        both.unique(["asset", "timestamp"], maintain_order=True)
        .with_columns(n=pl.int_range(pl.len()).over("asset"))
        .filter(pl.col("n") < 20)
    )
    assert early["kind"].is_null().all()
    assert labels["kind"].unique().to_list() == [kind]
    assert labels.schema == {"timestamp": pl.Date, "asset": pl.String, "kind": pl.String}


@pytest.mark.parametrize("kind", ["bad tick", "wick", "stale", "unit", "broken bar"])
def test_other_bars_are_left_alone(kind):
    clean = planted(kind)[0].filter(pl.col("kind").is_null())
    for name in [*PRICES, "volume"]:
        assert (clean[name] == clean[f"{name}_x"]).all()


@pytest.mark.parametrize("kind", [name for name in KINDS if name not in ("broken bar", "duplicate")])
def test_bars_stay_sound_where_the_error_is_no_broken_bar(kind):
    spoilt, _ = inject(BARS, [kind], per_thousand=20, warm_up=5, generator=np.random.default_rng(1))
    checks(calendar=None).run(spoilt)  # broken bars, prices of 0 and duplicates are errors


def test_a_bad_tick_moves_the_close_and_what_must_hold_it():
    bars = planted("bad tick")[0].filter(pl.col("kind").is_not_null())
    change = np.abs(ratio(bars, "close") - 1)
    assert ((change >= 0.03) & (change <= 0.2)).all()
    assert (ratio(bars, "open") == 1).all()
    assert (bars["high_x"] == bars.select(pl.max_horizontal("high", "close_x")).to_series()).all()
    assert (bars["low_x"] == bars.select(pl.min_horizontal("low", "close_x")).to_series()).all()


def test_a_wick_reaches_too_far_and_leaves_open_and_close_alone():
    bars = planted("wick", per_thousand=30)[0].filter(pl.col("kind").is_not_null())
    up, down = ratio(bars, "high") - 1, 1 - ratio(bars, "low")
    assert ((up > 0) ^ (down > 0)).all()
    assert ((np.maximum(up, down) >= 0.03) & (np.maximum(up, down) <= 0.2)).all()
    assert (up > 0).any()
    assert (down > 0).any()
    for name in ("open", "close", "volume"):
        assert (bars[name] == bars[f"{name}_x"]).all()


def test_a_stale_quote_holds_the_last_close_for_5_to_20_bars():
    both, labels = planted("stale")
    marked = both.with_columns(
        held=pl.col("close_x").shift(1), run=(pl.col("kind").is_null() != pl.col("kind").is_null().shift(1)).cum_sum()
    ).filter(pl.col("kind").is_not_null())
    for name in PRICES:
        assert (marked[f"{name}_x"] == marked["held"]).all()
    lengths = marked.group_by("run").len()["len"]
    assert lengths.min() >= 5
    assert lengths.max() <= 20
    assert lengths.sum() == labels.height


def test_a_split_scales_all_that_came_before():
    both, labels = planted("split", per_thousand=1)
    (row,) = labels.iter_rows(named=True)
    asset = both.filter(pl.col("asset") == row["asset"])
    before, after = (
        asset.filter(pl.col("timestamp") < row["timestamp"]),
        asset.filter(pl.col("timestamp") >= row["timestamp"]),
    )
    (factor,) = set(np.round(ratio(before, "close"), 9))
    assert factor in SPLIT_FACTORS
    assert np.allclose(ratio(before, "volume"), 1 / factor)
    assert (ratio(after, "close") == 1).all()
    others = both.filter(pl.col("asset") != row["asset"])
    assert (others["close"] == others["close_x"]).all()


def test_another_unit_is_a_hundred_times_more_or_less():
    bars = planted("unit")[0].filter(pl.col("kind").is_not_null())
    for name in PRICES:
        assert set(np.round(ratio(bars, name), 9)) == {100.0, 0.01}
    assert (bars["volume"] == bars["volume_x"]).all()


def test_a_real_jump_stays():
    both, labels = planted("real jump", per_thousand=1)
    (row,) = labels.iter_rows(named=True)
    asset = both.filter(pl.col("asset") == row["asset"])
    before = ratio(asset.filter(pl.col("timestamp") < row["timestamp"]), "close")
    assert np.allclose(before, before[0])
    assert 0.03 <= abs(before[0] - 1) <= 0.2
    assert (asset["volume"] == asset["volume_x"]).all()
    assert not KINDS["real jump"].is_error


def test_the_hard_checks_find_broken_duplicate_and_missing_bars():
    everything = dict.fromkeys(("broken_bar", "duplicate", "gap"), "warn")
    for kind, check in (("broken bar", "broken_bar"), ("duplicate", "duplicate"), ("gap", "gap")):
        spoilt, labels = inject(BARS, [kind], per_thousand=8, warm_up=5, generator=np.random.default_rng(4))
        found = checks(**everything).run(spoilt).table.filter(pl.col("check") == check)
        assert found["bars"].sum() == labels.height


def test_closes_alone_are_enough_for_most_kinds():
    closes = BARS.select("timestamp", "asset", "close")
    kinds = [name for name, kind in KINDS.items() if set(kind.needs) <= {"close"}]
    spoilt, labels = inject(closes, kinds, per_thousand=5, warm_up=2, generator=np.random.default_rng(0))
    assert set(labels["kind"]) == set(kinds)
    assert spoilt.columns == closes.columns
    with pytest.raises(DataError, match="'broken bar' cannot be planted: the data has no high, low"):
        inject(closes, ["broken bar"], per_thousand=5, warm_up=2, generator=np.random.default_rng(0))


def test_episodes_keep_their_distance():
    _, labels = inject(BARS, ["bad tick", "split"], per_thousand=40, warm_up=5, generator=np.random.default_rng(0))
    numbered = BARS.with_columns(n=pl.int_range(pl.len()).over("asset")).join(labels, on=["timestamp", "asset"])
    apart = numbered.sort("asset", "n").select(pl.col("n").diff().over("asset")).drop_nulls().to_series()
    assert apart.min() > SPACING


def test_the_generator_decides_and_the_bars_given_stay_as_they_are():
    before = BARS.clone()
    one, two, three = (planted("bad tick", seed=seed)[1] for seed in (0, 0, 1))
    assert one.equals(two)
    assert not one.equals(three)
    assert BARS.equals(before)


def test_no_room_is_said():
    with pytest.raises(DataError, match=r"no room for one more 'stale'.*lower evaluation\.per_thousand"):
        planted("stale", per_thousand=200)
