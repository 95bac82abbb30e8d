"""Planted kinds: each YAML builds one, which leaves other bars alone, passes the checks, and tells the truth."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest
import yaml
from conftest import CONF

from refold.config.validate import locate
from refold.data.planted import BadTick, Kind, RealJump, Split, Stale, WholeBar, plant, usable_kinds
from refold.errors import DataError
from tests.data.makers import checks, random_bars

BARS = random_bars([300, 300, 120], seed=3)
VALUES = ["open", "high", "low", "close", "volume"]


def build(path) -> Kind:
    settings = yaml.safe_load(path.read_text())
    return locate(settings.pop("_target_"), "planted._target_")(**settings)


KINDS = {path.stem: build(path) for path in sorted((CONF / "planted").glob("*.yaml"))}
EVERYTHING_BEFORE = ("split", "level_shift", "real_jump", "crash")


def made(kind: Kind, bars=BARS, *, seed=0, per_thousand=10.0, **others):
    generator = np.random.default_rng(seed)
    return plant(bars, [kind], per_thousand=per_thousand, warm_up=20, generator=generator, **others)


def test_names_differ_and_some_kinds_are_real():
    assert len({kind.name for kind in KINDS.values()}) == len(KINDS) > 15
    assert {name for name, kind in KINDS.items() if not kind.is_error} == {
        "real_jump", "crash", "flash_crash", "halt", "half_day"
    }  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_changes_its_own_bars_and_the_checks_let_them_pass(name):
    kind, planted = KINDS[name], made(KINDS[name])
    assert planted.bars.height == BARS.height
    assert planted.labels["kind"].unique().to_list() == [kind.name]
    assert planted.labels.height == (planted.label == 1).sum() > 0
    checks(calendar=None).run(planted.bars)  # broken bars, prices of 0 and missing values stop
    before, after = (frame.select(VALUES).to_numpy() for frame in (BARS, planted.bars))
    changed = (before != after).any(axis=1)
    if name not in EVERYTHING_BEFORE:
        assert (changed == (planted.label == 1))[planted.label == 0].all()
        assert changed[planted.label == 1].mean() > 0.9  # a tick may be right by chance, a wick inside the bar not
    else:
        assert changed[planted.label == 0].any()


@pytest.mark.parametrize("name", KINDS)
def test_the_truth_is_the_clean_bar_and_of_a_real_move_the_move_itself(name):
    kind, planted = KINDS[name], made(KINDS[name])
    assert planted.truth.select("asset", "timestamp").equals(BARS.select("asset", "timestamp"))
    clean = planted.bars if not kind.is_error else BARS
    assert np.allclose(planted.truth.select(VALUES).to_numpy(), clean.select(VALUES).to_numpy(), rtol=1e-12)


def test_the_truth_of_a_real_move_before_a_split_is_free_of_the_split():
    planted = plant(
        BARS, [KINDS["split"], KINDS["real_jump"]], per_thousand=5.0, warm_up=20, generator=np.random.default_rng(2)
    )
    alone = BARS["close"].to_numpy()
    move = np.diff(np.log(planted.truth["close"].to_numpy())) - np.diff(np.log(alone))
    inside = planted.bars["asset"].to_numpy()[1:] == planted.bars["asset"].to_numpy()[:-1]
    moved = np.flatnonzero(inside & (np.abs(move) > 1e-9)) + 1
    assert set(moved) == set(np.flatnonzero(planted.label == 2))


def test_the_factor_takes_a_split_and_a_unit_back():
    split = made(KINDS["split"], per_thousand=1.0)
    (row,) = np.flatnonzero(split.label)
    before = slice(int(np.flatnonzero(BARS["asset"] == BARS["asset"][int(row)])[0]), row)
    assert np.allclose(split.bars["close"].to_numpy()[before] / split.factor[row], BARS["close"].to_numpy()[before])
    assert (np.delete(split.factor, row) == 1).all()
    for name, column in (("price_unit", "close"), ("volume_unit", "volume")):
        unit = made(KINDS[name])
        assert np.allclose(unit.bars[column].to_numpy() / unit.factor, BARS[column].to_numpy())


def test_a_stale_run_of_two_bars_with_and_without_its_volume():
    planted = made(Stale("stale", 2, 2, 0.5), per_thousand=30.0)
    rows = np.flatnonzero(planted.label)
    close, volume = (planted.bars[name].to_numpy() for name in ("close", "volume"))
    assert (close[rows[::2]] == close[rows[::2] - 1]).all()
    assert (close[rows[1::2]] == close[rows[::2] - 1]).all()
    stands = volume[rows[::2]] == volume[rows[::2] - 1]
    assert stands.any()
    assert not stands.all()


def test_sizes_follow_the_usual_move_of_the_asset_so_that_minutes_get_smaller_ticks():
    days = pl.datetime_range(datetime(2020, 1, 1), datetime(2020, 1, 1, 4, 59), "1m", eager=True)
    minutes = BARS.filter(asset="A").with_columns(days.alias("timestamp"), pl.col(VALUES[:4]) ** 0.02)

    def sizes(bars):
        planted = made(BadTick("bad tick", 1.0, 10.0, "move"), bars, per_thousand=40.0)
        clean = bars["close"].to_numpy()
        return np.abs(np.log(planted.bars["close"].to_numpy() / clean))[planted.label == 1]

    daily, minutely = sizes(BARS.filter(asset="A")), sizes(minutes)
    assert np.allclose(minutely, 0.02 * daily)  # the same draws, of moves a fiftieth as large
    assert daily.max() > 4 * daily.min()


def test_closes_alone_and_series_of_other_numbers_have_the_kinds_that_they_can_have():
    closes = BARS.select("timestamp", "asset", "close")
    kept, left_out = usable_kinds(list(KINDS.values()), closes, "prices")
    assert "'wick' (no high, low)" in left_out
    assert "'volume unit' (no volume)" in left_out
    assert {"bad tick", "stale", "split", "unit", "whole bar", "crash"} <= {kind.name for kind in kept}
    one = closes.filter(asset="A")
    assert "'other asset' (no second asset)" in usable_kinds(list(KINDS.values()), one, "prices")[1]
    series = closes.select("timestamp", "asset", warm=pl.col("close") - 50, cold=-pl.col("close"))
    kept, left_out = usable_kinds(list(KINDS.values()), series, "series")
    assert {"bad tick", "stale", "level shift", "unit", "swapped fields", "other asset"} <= {kind.name for kind in kept}
    assert "'split' (no close)" in left_out
    planted = plant(
        series, kept, per_thousand=2.0, warm_up=20, generator=np.random.default_rng(0), table="series", key="score"
    )
    assert set(planted.labels["kind"]) == {kind.name for kind in kept}
    errors = [place for place, kind in enumerate(kept, 1) if kind.is_error and kind.name != "level shift"]
    for place in errors:
        rows = planted.label == place
        wrong = (planted.bars.select("warm", "cold").to_numpy() != planted.truth.select("warm", "cold").to_numpy())[
            rows
        ]
        assert wrong.any(axis=1).mean() > 0.8, kept[place - 1].name
    with pytest.raises(DataError, match="'wick' cannot be planted: the data has no high, low"):
        made(KINDS["wick"], closes)


def test_the_bars_and_the_generator_decide():
    kinds = list(KINDS.values())
    before = BARS.clone()
    one, two, other = (
        plant(BARS, kinds, per_thousand=1.0, warm_up=20, generator=np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert one.bars.equals(two.bars)
    assert one.truth.equals(two.truth)
    assert not one.bars.equals(other.bars)
    assert BARS.equals(before)


def test_a_kind_that_a_check_would_find_is_refused():
    class Negative(Kind):
        def plant(self, bars, before, rows):
            bars.columns["close"][rows] *= -1

    class Upside(Kind):
        def plant(self, bars, before, rows):
            bars.columns["low"][rows] *= 2

    for kind, fault in ((Negative("n"), "a price of 0 or less"), (Upside("u"), "a low above or a high below a price")):
        with pytest.raises(DataError, match=rf"{kind.name!r} plants {fault} into the bar [ABC] 2020"):
            made(kind)


def test_too_few_bars_to_plant_in_are_said_with_the_settings_that_help():
    with pytest.raises(DataError, match=r"no room for one more 'whole bar'.*score\.per_thousand.*data\.split"):
        made(KINDS["whole_bar"], per_thousand=300.0, key="score")


@pytest.mark.parametrize(
    ("build_kind", "message"),
    [
        (
            lambda: BadTick("x", 2.0, 1.0, "move"),
            r"planted\.largest of 'x' is 1\.0; it must be at least its small",
        ),
        (lambda: WholeBar("x", 0.1, 1.0, "price"), r"a share of the price must be below 1"),
        (lambda: Stale("x", 5, 2, 0.0), r"planted\.longest of 'x' is 2; it must be at least its shortest, 5"),
        (lambda: RealJump("x", 0.1, 0.2, "moves", 1.0), r"planted\.unit is 'moves'; it must be one of move, price"),
        (lambda: Split("x", [2, 1]), r"planted\.ratios of 'x' is \[2, 1\]; .*none of them 1"),
    ],
)
def test_impossible_sizes_are_refused(build_kind, message):
    with pytest.raises(ValueError, match=message):
        build_kind()
