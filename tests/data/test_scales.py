"""Each asset by its own training bars, and each value by the bars before it: against naive twins, in all paths."""

import logging

import numpy as np
import polars as pl
import pytest
import torch

from refold.data import Scaler
from refold.data.feature_table import rows_of
from refold.data.unsplit import unsplit_series
from refold.data.windows.scaler import FEWEST_ROWS, LEAST_SHARE, to_lists
from refold.errors import DataError
from tests.data.makers import module, random_bars, ready

SCALES = ("per_asset", "trailing")
LOOKBACK = 20


def volatile(lengths=(260, 260, 130)) -> pl.DataFrame:
    """Bars of A, B and C; B moves five times as much as A."""
    bars = random_bars(lengths, seed=2)
    prices = pl.col("open", "high", "low", "close")
    return bars.with_columns(pl.when(pl.col("asset") == "B").then(prices.pow(5) / 50**4).otherwise(prices))


def raw(data) -> np.ndarray:
    """(N, F) features of all rows in their own units, by a run with another scale: mean 0 and deviation 1."""
    bars = data.source.load()
    unit = Scaler(torch.zeros(data.num_features), torch.ones(data.num_features))
    plain = module(bars, features=list(data.recipe.features))
    return unsplit_series(bars, plain.recipe, unit).series.values.double().numpy()


def train_rows(data) -> np.ndarray:
    """Numbers of all training rows of a series."""
    return np.concatenate([np.arange(first, first + count) for first, count in data.segments("train")])


def naive(data) -> np.ndarray:
    """(N, F) float64: what the scaled values must be, NaN where there are none."""
    values, series = raw(data), data.train_windows.series
    asset = np.searchsorted(series.asset_starts, np.arange(len(values)), side="right") - 1
    train = train_rows(data)
    present = np.isfinite(values).all(axis=1) & (np.diff(asset, prepend=-1) == 0)  # the first bar has no return
    result = np.full(values.shape, np.nan)
    for number in range(3):
        own, rows = train[asset[train] == number], np.flatnonzero(asset == number)
        fit = values[own] if len(own) >= FEWEST_ROWS else values[train]
        mean, std = fit.mean(axis=0), fit.std(axis=0)
        for row in rows[present[rows]]:
            if data.recipe.scale == "per_asset":
                result[row] = (values[row] - mean) / std
                continue
            before = values[row - LOOKBACK : row]
            if row - LOOKBACK > rows[0]:
                result[row] = (values[row] - before.mean(axis=0)) / np.maximum(before.std(axis=0), LEAST_SHARE * std)
    return result


@pytest.mark.parametrize("scale", SCALES)
def test_values_are_those_of_the_naive_twin(scale, caplog):
    with caplog.at_level(logging.WARNING):
        data = ready(volatile(), scale=scale, scale_lookback=LOOKBACK)
    assert "data.scale: C: fewer than 100 training rows" in caplog.text
    expected, values = naive(data), data.train_windows.series.values.numpy()
    assert np.isfinite(expected).sum() > 900
    np.testing.assert_allclose(values[np.isfinite(expected)], expected[np.isfinite(expected)], rtol=1e-4, atol=1e-5)
    for part in ("train", "val", "test"):  # no window holds a row without a scale
        held = data.windows(part).rows(np.arange(len(data.windows(part))))
        assert np.isfinite(expected[held]).all()


@pytest.mark.parametrize("scale", SCALES)
def test_the_units_come_back(scale):
    data = ready(volatile(), scale=scale, scale_lookback=LOOKBACK)
    windows, truth = data.val_windows, raw(data)
    index = np.arange(len(windows))
    rows = windows.rows(index)
    back = data.scaler.at(windows.series, rows).inverse_transform(windows.gather(index).double())
    np.testing.assert_allclose(back.numpy(), truth[rows], rtol=1e-4, atol=1e-7)
    with pytest.raises(TypeError, match="take that of the rows first"):
        data.scaler.inverse_transform(windows.gather(index))


@pytest.mark.parametrize("scale", SCALES)
def test_in_a_file_in_memory_and_without_parts_the_values_are_the_same(scale, tmp_path):
    settings = {"scale": scale, "scale_lookback": LOOKBACK}
    held = ready(volatile(), **settings)
    for _ in range(2):  # built, then read
        mapped = ready(volatile(), cache=str(tmp_path), **settings)
        assert mapped.scaler == held.scaler
        for part in ("train", "val", "test"):
            one, two = held.windows(part), mapped.windows(part)
            assert torch.equal(one.gather(np.arange(len(one))), two.gather(np.arange(len(two))))
        if scale == "trailing":
            assert torch.equal(
                mapped.train_windows.series.moving.nan_to_num(), held.train_windows.series.moving.nan_to_num()
            )
    alone = unsplit_series(volatile(), held.recipe, held.scaler).series
    assert torch.equal(alone.values, held.train_windows.series.values)


@pytest.mark.parametrize("scale", SCALES)
def test_a_state_gives_the_same_scaler_again_and_a_checkpoint_is_loaded(scale):
    data = ready(volatile(), scale=scale, scale_lookback=LOOKBACK)
    for state in (data.scaler.state_dict(), to_lists(data.scaler.state_dict())):
        again = Scaler.from_state_dict(state)
        assert type(again) is type(data.scaler)
        assert again == data.scaler
    pooled = ready(volatile())
    assert pooled.scaler != data.scaler
    later = ready(volatile(), scale=scale, scale_lookback=LOOKBACK, split=data.recipe.split)
    other = data.state_dict()
    other["scaler"]["means"] = other["scaler"]["means"] + 1.0
    before = later.train_windows.gather(np.arange(3)).clone()
    later.load_state_dict(other)
    assert later.scaler == Scaler.from_state_dict(other["scaler"])
    assert (later.train_windows.gather(np.arange(3)) != before).any() == (scale == "per_asset")


def test_unknown_assets_have_the_scale_of_all():
    data, bars = ready(volatile(), scale="per_asset"), volatile()
    renamed = bars.filter(pl.col("asset") == "B").with_columns(asset=pl.lit("new"))
    pooled = ready(volatile())
    one = unsplit_series(renamed, data.recipe, data.scaler).series.values
    assert torch.equal(one, unsplit_series(renamed, pooled.recipe, pooled.scaler).series.values)


@pytest.mark.parametrize("scale", SCALES)
def test_nothing_that_comes_later_changes_a_scaled_value(scale):
    bars = volatile()
    data = ready(bars, scale=scale, scale_lookback=LOOKBACK)
    days = bars["timestamp"].unique().sort()
    after = pl.col("timestamp") > days[240]
    prices = pl.col("open", "high", "low", "close")
    other = bars.with_columns(pl.when(after).then(prices * (1 + pl.int_range(pl.len()) % 7)).otherwise(prices))
    again = ready(other, scale=scale, scale_lookback=LOOKBACK)
    assert again.scaler == data.scaler
    one, two = data.train_windows.series, again.train_windows.series
    before = one.times <= days.to_physical()[240]
    assert torch.equal(one.values[before], two.values[before])
    assert not torch.equal(one.values, two.values)


def test_a_price_that_stood_still_is_not_divided_by_nothing():
    bars = volatile((260, 260, 260))
    flat = (pl.col("asset") == "A") & pl.int_range(pl.len()).is_between(200, 240)
    prices = ["open", "high", "low", "close"]
    bars = bars.with_columns(
        pl.when(flat).then(pl.lit(bars["close"][200])).otherwise(name).alias(name) for name in prices
    )
    values = ready(bars, scale="trailing", scale_lookback=LOOKBACK).train_windows.series.values
    assert values.isfinite().all()
    assert values.abs().max() < 1e3


def test_relative_features_keep_one_scale_in_a_window():
    settings = {"features": ["window_log_price", "log_return"]}
    with pytest.raises(DataError, match=r"data\.scale is trailing; it must be .* for window_log_price"):
        ready(volatile(), scale="trailing", **settings)
    data = ready(volatile(), scale="per_asset", **settings)
    a, b = (data.scaler.of(name).std[0] for name in "AB")
    assert 3 < b / a < 7
    assert data.scaler.of("A").mean[0] == 0


@pytest.mark.parametrize("scale", SCALES)
def test_a_panel_has_a_scale_for_each_column_already(scale):
    with pytest.raises(ValueError, match=rf"data\.scale is {scale}; it must be pooled for data\.layout=panel"):
        module(volatile(), scale=scale, layout="panel")
    with pytest.raises(ValueError, match=r"data\.scale_lookback is 1; it must be at least 2"):
        module(volatile(), scale_lookback=1)


def chosen(bars, **settings) -> str:
    """The scale that is chosen for bars."""
    return ready(bars, scale=None, **settings).scaler.kind


def test_a_scale_is_chosen_from_the_number_of_assets(caplog, tmp_path):
    with caplog.at_level(logging.INFO):
        assert chosen(random_bars([260])) == "pooled"
        assert chosen(volatile()) == "per_asset"
    assert "(data.scale=per_asset, chosen for 3 assets)" in caplog.text
    assert chosen(volatile(), layout="panel", min_assets=0.5) == "pooled"
    assert chosen(volatile(), cache=str(tmp_path)) == "per_asset"
    assert chosen(volatile(), cache=str(tmp_path)) == "per_asset"  # read


def test_a_chosen_scale_gives_what_the_named_one_gives():
    left, named = (ready(volatile(), scale=scale) for scale in (None, "per_asset"))
    assert left.scaler == named.scaler
    assert left.recipe.scale == "per_asset"
    assert torch.equal(left.train_windows.series.values, named.train_windows.series.values)
    again = ready(volatile(), scale=None)
    again.load_state_dict(left.state_dict())
    assert again.scaler.kind == "per_asset"


def test_a_hole_costs_the_look_back_of_the_features_and_not_that_of_the_scale():
    bars = volatile()
    holed = bars.filter((pl.col("asset") != "A") | ~pl.int_range(pl.len()).is_between(100, 103))
    data = ready(holed, scale="trailing", scale_lookback=LOOKBACK)
    plain = ready(holed, scale="pooled")
    rows = unsplit_series(holed, data.recipe, data.scaler)
    alike = unsplit_series(holed, plain.recipe, plain.scaler)
    later = np.flatnonzero(holed["asset"] == "A")[LOOKBACK + 2 :]

    def lost(of) -> list[int]:
        return [row for row in later if row not in rows_of({"test": of.segments})]

    assert lost(rows) == lost(alike) == [100]
    assert rows.reasons(8)[100] == "hole"
    assert rows.reasons(8)[LOOKBACK] == "warming"
    assert data.windows_lost["holes"] == plain.windows_lost["holes"] > 0
