"""Masks, holes and panels: what the windows hold of bars that are not there."""

import numpy as np
import polars as pl
import pytest
import torch
from conftest import slow_but

from refold.data.windows.split import ByDate
from refold.errors import DataError
from tests.data.makers import ALL_FEATURES, checks, module, random_bars, ready, with_value

RETURN = {"features": ["log_return"], "window_size": 6}


def spoilt(rows: list[int]) -> pl.DataFrame:
    return with_value(random_bars([100]), rows, "close", None)


@pytest.mark.parametrize(("max_masked", "holds"), [(0, False), (1, False), (2, True), (5, True)])
def test_windows_hold_masked_stretches_up_to_a_length(max_masked, holds):
    # the return of the masked bar is not there, nor that of the bar after it: a stretch of 2
    data = ready(spoilt([20]), checks=checks(missing_value="mask"), max_masked=max_masked, **RETURN)
    windows = data.train_windows
    index = np.arange(len(windows))
    rows = windows.rows(index)
    assert (rows == 20).any() == holds
    if holds:
        mask = windows.mask(index).numpy()
        assert np.array_equal(mask, ~np.isin(rows, [20, 21]))
        assert (windows.gather(index).numpy()[~mask] == 0).all()
    else:
        assert windows.mask(index) is None
    assert torch.isfinite(windows.gather(index)).all()


def test_every_window_has_a_present_bar():
    rows = [row for row in range(100) if row % 7 > 1]  # two bars, then five without: one return in seven
    data = ready(spoilt(rows), checks=checks(missing_value="mask"), max_masked=6, **{**RETURN, "window_size": 7})
    for windows in (data.train_windows, data.val_windows, data.test_windows):
        assert windows.mask(np.arange(len(windows))).any(dim=1).all()


def test_masked_bars_count_nothing_in_the_scale():
    data = ready(spoilt([20, 30]), checks=checks(missing_value="mask"), max_masked=3, **RETURN)
    series = data.train_windows.series
    train = np.unique(data.train_windows.rows(np.arange(len(data.train_windows))))
    present = series.values[train][series.present[train]]
    assert present.mean().item() == pytest.approx(0, abs=1e-6)
    assert present.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_a_stretch_must_be_shorter_than_a_window():
    with pytest.raises(ValueError, match=r"data\.max_masked is 6; it must be below data\.window_size, 6"):
        module(random_bars([100]), max_masked=6, **RETURN)


def test_dropped_bars_end_look_backs_too():
    data = ready(spoilt([20]), features=["trailing_volatility_5"], window_size=6, checks=checks(missing_value="drop"))
    days = np.unique(data.train_windows.timestamps(np.arange(len(data.train_windows))))
    # bar 20 is gone, and the five after it fill the look-back of six again
    assert not np.isin(np.datetime64("2020-01-21") + np.arange(6), days).any()
    assert np.isin(np.datetime64("2020-01-27"), days)


def test_without_a_calendar_holes_are_passed_over():
    every_other_day = (pl.col("asset") == "B") | (pl.int_range(pl.len()) % 2 == 0)
    bars = random_bars([100, 100]).filter(every_other_day)
    assert set(ready(bars, **RETURN).train_windows.assets(np.arange(54))) == {"B"}
    data = ready(bars, checks=checks(calendar=None), **RETURN)
    index = np.arange(len(data.train_windows))
    steps = np.diff(data.train_windows.timestamps(index), axis=1).astype(int)
    assert {asset: set(step) for asset, step in zip(data.train_windows.assets(index), steps.tolist(), strict=True)} == {
        "A": {2},
        "B": {1},
    }


# Panels ---------------------------------------------------------------------------------------------------------------


def panel(bars: pl.DataFrame, **others):
    return ready(bars, **{"layout": "panel", "features": ["log_return", "parkinson_range"], **others})


def test_a_panel_holds_all_assets_side_by_side():
    bars = random_bars([100, 100, 100])
    data = panel(bars)
    assert data.feature_names == [f"{a}/{f}" for a in "ABC" for f in ("log_return", "parkinson_range")]
    assert data.num_features == 6
    single = ready(bars.filter(pl.col("asset") == "B"))
    index = np.arange(len(single.test_windows))
    assert len(data.test_windows) == len(single.test_windows)
    ours = data.scaler.inverse_transform(data.test_windows.gather(index).double())[..., 2:4]
    theirs = single.scaler.inverse_transform(single.test_windows.gather(index).double())
    assert torch.allclose(ours, theirs, atol=1e-8)
    assert np.array_equal(data.test_windows.timestamps(index), single.test_windows.timestamps(index))
    assert set(data.test_windows.assets(index)) == {"panel"}


def test_a_panel_begins_when_all_assets_are_there():
    data = panel(random_bars([100, 70]))
    assert data.train_windows.timestamps([0])[0, 0] == np.datetime64("2020-02-01")  # row 30, and one bar of look-back


def test_a_panel_may_do_with_some_of_the_assets():
    data = panel(random_bars([100, 70]), min_assets=0.5)
    windows = data.train_windows
    first = windows.gather([0])[0]
    assert windows.timestamps([0])[0, 0] == np.datetime64("2020-01-02")
    assert (first[:, 2:] == 0).all()
    assert (first[:, :2] != 0).all()
    b_rows = windows.series.values[31:60, 2:]  # the training bars that B has: B's own scale
    assert b_rows.mean(dim=0).tolist() == pytest.approx([0, 0], abs=1e-5)


# Late, early, with holes: B is there from day 15 to day 84 of 100, but for two days
COMING_AND_GOING = random_bars([100, 100]).filter(
    (pl.col("asset") == "A") | ~pl.int_range(pl.len()).sub(100).is_in([*range(15), 40, 41, *range(85, 100)])
)
FIRST_DAY = np.datetime64("2020-01-01")


def days(data, asset: str | None = None) -> dict[str, set[int]]:
    """Part -> days that its windows (of an asset) hold, counted from the first."""
    held = {}
    for part in ("train", "val", "test"):
        windows = data.windows(part)
        index = np.arange(len(windows))
        own = [asset in (None, name) for name in windows.assets(index)]
        held[part] = set((windows.timestamps(index)[own] - FIRST_DAY).astype(int).reshape(-1).tolist())
    return held


def test_assets_that_come_late_leave_early_and_have_holes_are_series_of_their_own():
    data = ready(COMING_AND_GOING, **RETURN)
    alone = ready(COMING_AND_GOING.filter(pl.col("asset") == "A"), **RETURN)
    assert days(data, "A") == days(alone, "A")
    held = days(data, "B")
    # the first return is on day 16, and on day 43 after the hole; training ends with day 59
    assert held["train"] == {*range(16, 40), *range(43, 60)}
    assert held["val"] == set(range(66, 80))
    assert held["test"] == set()  # five bars from day 80 on, the six before them are dropped
    assert data.findings.select("check", "asset", "bars", "first").rows() == [("gap", "B", 2, "2020-02-10")]


def test_a_panel_of_some_of_its_assets_holds_nothing_for_those_that_are_not_there():
    data = panel(COMING_AND_GOING, min_assets=0.5, **RETURN)
    held = days(data)
    assert held == {"train": set(range(1, 60)), "val": set(range(66, 80)), "test": set(range(86, 100))}
    series = data.train_windows.series
    there = {*range(16, 40), *range(43, 85)}
    for day in range(1, 100):
        assert (series.values[day, 1] != 0) == (day in there)
        assert series.values[day, 0] != 0
    inside = series.values[sorted(there & held["train"]), 1]
    assert inside.mean().item() == pytest.approx(0, abs=1e-6)  # the scale is of the days when it is there


def test_a_panel_of_all_its_assets_is_there_while_all_of_them_are():
    split = ByDate(val_start="2020-02-25", test_start="2020-03-10", embargo=0)  # days 55 and 69
    data = panel(COMING_AND_GOING, split=split, **RETURN)
    assert days(data) == {
        "train": {*range(16, 40), *range(43, 55)},
        "val": set(range(61, 69)),
        "test": set(range(75, 85)),
    }


def test_an_asset_that_is_not_there_in_training_is_named():
    with pytest.raises(
        DataError, match=r"B/log_return has no value on the \d+ training rows: .*data\.source\.table\.assets"
    ):
        panel(random_bars([100, 20]), min_assets=0.5)


def test_a_hole_of_one_asset_is_masked_in_a_panel():
    bars = random_bars([100, 100]).filter(~((pl.col("asset") == "B") & (pl.int_range(pl.len()) == 120)))
    data = panel(bars, checks=checks(gap="mask"), max_masked=2)
    missing = data.train_windows.series.present.logical_not().nonzero().view(-1).tolist()
    assert missing == [0, 20, 21]
    assert 20 in data.train_windows.rows(np.arange(len(data.train_windows)))


@pytest.mark.parametrize("layout", ["per_asset", "panel"])
@pytest.mark.parametrize("policy", ["warn", "mask", "drop"])
@pytest.mark.parametrize("change", slow_but(["spoil"], ["scale", "replace", "spoil"]))
def test_no_look_ahead_in_any_layout_and_policy(layout, policy, change):
    """Changing, or spoiling, what comes after a date changes no window before it; with bars spoilt before it too."""
    bars = with_value(random_bars([200, 180]), range(40, 45), "close", 40.0)
    bars = bars.with_columns(high=pl.max_horizontal("high", "close"), low=pl.min_horizontal("low", "close"))
    calendar = bars["timestamp"].unique().sort()
    future = pl.col("timestamp") >= calendar[170]
    price = pl.col("open", "high", "low", "close", "volume")
    other = {
        "scale": bars.with_columns(pl.when(future).then(price * 100).otherwise(price)),
        "replace": bars.with_columns(pl.when(future).then(price.reverse()).otherwise(price)),
        "spoil": bars.with_columns(
            pl.when(future).then(pl.col("close").first()).otherwise(pl.col("close")).alias("close")
        ),
    }[change]
    policies = checks(
        stale_run=policy, split_like=policy, unit_like=policy, broken_bar=policy, feature_not_finite="drop"
    )
    settings = {
        "split": ByDate(val_start=str(calendar[110]), test_start=str(calendar[140]), embargo=0),
        "checks": policies,
        "layout": layout,
        "max_masked": 7,
        "features": ["log_return", "relative_volume_5"] if change == "spoil" else ALL_FEATURES,
    }
    first, second = ready(bars, **settings), ready(other, **settings)
    assert first.scaler == second.scaler
    for part in ("train", "val", "test"):
        before, after = first.windows(part), second.windows(part)
        index = np.arange(len(before))
        index = index[(before.timestamps(index) < np.datetime64(calendar[170])).all(axis=1)]
        assert len(index) >= 10 or part == "test"
        held = {
            (asset, stamps[0]): number
            for number, (asset, stamps) in enumerate(
                zip(after.assets(np.arange(len(after))), after.timestamps(np.arange(len(after))), strict=True)
            )
        }
        same = [held[key] for key in zip(before.assets(index), before.timestamps(index)[:, 0], strict=True)]
        assert torch.equal(before.gather(index), after.gather(same))
        if before.series.present is not None and after.series.present is not None:
            assert torch.equal(before.mask(index), after.mask(same))


# Relative to the window ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_masked", [0, 3])
def test_window_log_price_is_relative_to_the_first_present_bar(max_masked):
    bars = spoilt([20])
    settings = {"features": ["window_log_price"], "window_size": 6, "max_masked": max_masked}
    data = ready(bars, checks=checks(missing_value="mask"), **settings)
    windows = data.train_windows
    index = np.arange(len(windows))
    levels = data.scaler.inverse_transform(windows.gather(index).double())[..., 0].numpy()
    closes = bars["close"].log().to_numpy()[windows.rows(index)]
    there = np.isfinite(closes)
    first = np.take_along_axis(closes, there.argmax(axis=1)[:, None], axis=1)
    assert levels[there] == pytest.approx((closes - first)[there], abs=1e-6)
    assert (levels[~there] == 0).all()
    assert there.all() == (max_masked == 0)


def test_window_log_price_has_mean_square_one_over_the_training_windows():
    data = ready(random_bars([100, 80]), features=["window_log_price"], window_size=6)
    windows = data.train_windows.gather(np.arange(len(data.train_windows)))
    assert windows.square().mean().item() == pytest.approx(1, abs=1e-4)


def test_window_log_price_needs_all_assets_of_a_panel():
    with pytest.raises(DataError, match=r"data\.min_assets is 0\.5; it must be 1 for A/window_log_price"):
        panel(random_bars([100, 100]), features=["window_log_price"], min_assets=0.5)
