import math

import numpy as np
import polars as pl
import pytest

from refold.data.bars.entries import find_all
from refold.data.bars.features import PLAIN, TRAILING, find, longest_lookback
from refold.data.feature_table import compute_features
from refold.errors import DataError
from tests.data.makers import ALL_FEATURES, random_bars

BARS = pl.DataFrame(
    {
        "timestamp": [1, 2, 3],
        "asset": ["A"] * 3,
        "open": [10.0, 11.0, 12.0],
        "high": [12.0, 13.0, 12.5],
        "low": [9.0, 10.0, 10.0],
        "close": [11.0, 12.0, 10.5],
        "volume": [100.0, 200.0, 50.0],
    }
)
LAST = {  # value on the last bar, written out from the definitions
    "log_return": math.log(10.5 / 12),
    "overnight_return": math.log(12 / 12),
    "intraday_return": math.log(10.5 / 12),
    "high_return": math.log(12.5 / 12),
    "low_return": math.log(10 / 12),
    "window_log_price": math.log(10.5),  # the window takes off its own first bar
    "volume_change": math.log(50 / 200),
    "parkinson_range": math.sqrt(math.log(12.5 / 10) ** 2 / (4 * math.log(2))),
    "garman_klass_range": math.sqrt(0.5 * math.log(12.5 / 10) ** 2 - (2 * math.log(2) - 1) * math.log(10.5 / 12) ** 2),
    "log_range": math.log(math.log(12.5 / 10) + 1e-6),
    "upper_shadow": math.log(12.5 / 12),
    "lower_shadow": math.log(10.5 / 10),
    "trailing_volatility_2": np.std([math.log(12 / 11), math.log(10.5 / 12)], ddof=1),
    "relative_volume_3": math.log(50) - np.mean(np.log([100, 200, 50])),
    "price_zscore_3": (math.log(10.5) - np.mean(np.log([11, 12, 10.5]))) / np.std(np.log([11, 12, 10.5]), ddof=1),
}


def values(bars: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    run = bars["asset"].rle_id().to_numpy()
    return compute_features(bars, find_all(names, bars.columns), run).select(names)


@pytest.mark.parametrize("name", LAST)
def test_value_by_hand(name):
    assert values(BARS, [name])[name][-1] == pytest.approx(LAST[name], rel=1e-12)


def test_normalised_return_uses_the_bars_before():
    bars = random_bars([6])
    returns = np.diff(np.log(bars["close"].to_numpy()))
    expected = returns[-1] / np.std(returns[1:4], ddof=1)
    assert values(bars, ["normalised_return_3"])["normalised_return_3"][-1] == pytest.approx(expected, rel=1e-12)


def test_a_price_that_stands_still_is_0_and_not_the_noise_of_a_running_sum():
    """Where 40 closes are equal, a running standard deviation keeps the rounding errors of the bars before."""
    closes = np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.02, 120)))
    closes[40:80] = closes[40]
    bars = pl.DataFrame({"close": closes})
    for name in ("price_zscore_10", "trailing_volatility_10", "normalised_return_10"):
        values = bars.select(find(name).expression).to_series().to_numpy()
        assert (values[52:80] == 0).all(), name
        assert (values[82:] != 0).all(), name


def test_the_list_of_the_tests_has_every_feature():
    assert {find(name).name for name in ALL_FEATURES} == set(PLAIN) | {f"{family}_5" for family in TRAILING}


@pytest.mark.parametrize("name", ALL_FEATURES)
def test_lookback_is_exact(name):
    """The first lookback - 1 values are null; a value changes with the first bar of its look-back, and none before."""
    bars = random_bars([30])
    lookback = find(name).lookback
    column = values(bars, [name])[name]
    assert column.null_count() == lookback - 1
    assert column.head(lookback - 1).null_count() == lookback - 1
    row = 20
    for first, changes in ((row - lookback + 1, True), (row - lookback, False)):
        nudged = pl.int_range(bars.height) == first
        other = bars.with_columns(
            pl.when(nudged).then(pl.col(c) * 1.5).otherwise(pl.col(c)) for c in ("close", "volume")
        )
        other = other.with_columns(pl.when(nudged).then(pl.col("high") * 2).otherwise(pl.col("high")).alias("high"))
        assert (values(other, [name])[name][row] != column[row]) == changes


@pytest.mark.parametrize("name", ALL_FEATURES)
def test_an_asset_is_computed_as_if_it_were_alone(name):
    bars = random_bars([30, 25])
    together = values(bars, [name])[name].tail(25)
    alone = values(bars.filter(pl.col("asset") == "B"), [name])[name]
    assert together.equals(alone, null_equal=True)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["log_retrun"], "data.features has 'log_retrun'; did you mean log_return?"),
        (["relative_volume"], "did you mean relative_volume_20?"),
        (["relative_volume_1"], "data.features has 'relative_volume_1'"),
        (
            ["relative_volume_99999999999999999999"],
            "data.features has 'relative_volume_99999999999999999999'; its number of bars must be in [2, 1000000]",
        ),
        (["price_zscore_1000001"], "its number of bars must be in [2, 1000000]"),
        (["log_return", "log_return"], "data.features has log_return more than once"),
        ([], "data.features is empty"),
        (["volume_change"], "data.features has volume_change, which needs volume; the source has only close"),
    ],
)
def test_mistakes_are_named(names, message):
    with pytest.raises(DataError) as error:
        find_all(names, ["timestamp", "asset", "close"])
    assert message in str(error.value)


def test_longest_lookback():
    assert longest_lookback(find_all(["intraday_return", "trailing_volatility_20"], BARS.columns)) == 21


@pytest.mark.parametrize("lengths", [[40, 30, 2], [5, 40, 50, 6, 7], [50], [4, 3]])
def test_long_runs_have_the_features_of_short_ones_bit_for_bit(lengths, monkeypatch):
    bars = random_bars(lengths).sort("asset", "timestamp")
    run = bars["asset"].rle_id().to_numpy().astype(np.int64)
    window = "AVG(close) OVER (ORDER BY timestamp ROWS BETWEEN 4 PRECEDING AND CURRENT ROW)"
    features = find_all([*ALL_FEATURES, {"name": "mine", "expression": window, "lookback": 5}], bars.columns)
    grouped = compute_features(bars, features, run)
    monkeypatch.setattr("refold.data.feature_table.LONG", 20)
    assert compute_features(bars, features, run).equals(grouped)
    assert compute_features(bars.clear(), features, run[:0]).equals(grouped.clear())
    each_bar = compute_features(bars, features, np.arange(len(run)))
    assert each_bar["log_return"].is_null().all()
