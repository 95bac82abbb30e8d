"""Expressions of a user that look ahead, or further back than they say, are refused; all others pass."""

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refold.data.bars.entries import find_all
from refold.data.feature_table import compute_features
from refold.data.look_ahead import LookAheadTest
from refold.errors import DataError
from tests.data.makers import checks, ready
from tests.data.test_series import sensors

COLUMNS = ["timestamp", "asset", "x", "y"]


def bars(rows: int = 600, seed: int = 0) -> pl.DataFrame:
    noise = np.random.default_rng(seed).normal(size=(rows, 2)).cumsum(axis=0)
    frame = sensors(rows).select(timestamp="time", asset=pl.lit("plant"))
    return frame.with_columns(x=pl.Series(noise[:, 0]), y=pl.Series(noise[:, 1]))


def verdict(expression: str, lookback: int, table: pl.DataFrame | None = None) -> str:
    """What the test says of an expression; an empty text if it passes."""
    table = bars() if table is None else table
    rows = table.height
    try:
        features = find_all([{"name": "own", "expression": expression, "lookback": lookback}], COLUMNS)
        LookAheadTest().run(table, features, np.zeros(rows, dtype=np.int64), np.ones(rows, dtype=bool))
    except DataError as error:
        return str(error)
    return ""


ROLLING = "AVG(x) OVER (ORDER BY timestamp ROWS BETWEEN 4 PRECEDING AND CURRENT ROW)"
SOUND = [
    ("x - y", 1),
    ("LN(ABS(x) + 1)", 1),
    ("CASE WHEN x > 0 THEN y ELSE -y END", 1),
    ("x - LAG(x) OVER (ORDER BY timestamp)", 2),
    ("x - LAG(x, 3) OVER (ORDER BY timestamp)", 4),
    (f"x - {ROLLING}", 5),
    (f"x - {ROLLING}", 50),
    ("COALESCE(LAG(x) OVER (ORDER BY timestamp), 0)", 2),
    ("EXTRACT(minute FROM timestamp) * x", 1),
]
AHEAD = [
    "LEAD(x) OVER (ORDER BY timestamp)",
    "LAG(x) OVER (ORDER BY timestamp DESC)",
    "LAG(x, -2) OVER (ORDER BY timestamp)",
    "x / MAX(x)",
    "x - AVG(x)",
    "CASE WHEN x > MEDIAN(x) THEN 1 ELSE 0 END",
    "COUNT(*) + x",
    "SUM(x) OVER (ORDER BY timestamp DESC)",
    "SUM(x) OVER (PARTITION BY SIGN(y))",
    "ROW_NUMBER() OVER (ORDER BY x)",
]
FURTHER = [
    ("x - LAG(x) OVER (ORDER BY timestamp)", 1),
    ("LAG(x, 10) OVER (ORDER BY timestamp)", 10),
    (f"x - {ROLLING}", 4),
    ("SUM(x) OVER (ORDER BY timestamp)", 20),
]


@pytest.mark.parametrize(("expression", "lookback"), SOUND, ids=[f"sound-{n}" for n in range(len(SOUND))])
def test_an_expression_that_keeps_to_its_look_back_passes(expression, lookback):
    assert verdict(expression, lookback) == ""


@pytest.mark.parametrize("expression", AHEAD, ids=[f"ahead-{n}" for n in range(len(AHEAD))])
def test_an_expression_that_looks_ahead_is_refused(expression):
    said = verdict(expression, 1)
    assert said.startswith("data.features has own")
    assert "looks ahead" in said or "aggregates over a whole column" in said


@pytest.mark.parametrize(("expression", "lookback"), FURTHER, ids=[f"further-{n}" for n in range(len(FURTHER))])
def test_an_expression_that_looks_further_back_is_refused(expression, lookback):
    said = verdict(expression, lookback)
    assert f"data.features has own with a look-back of {lookback}; its value at plant 2024-01-01 00:" in said


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(lag=st.integers(-4, 6), lookback=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_lag_passes_exactly_where_it_is_inside_the_look_back(lag, lookback, seed):
    said = verdict(f"LAG(x, {lag}) OVER (ORDER BY timestamp)", lookback, bars(200, seed))
    assert (said == "") == (0 <= lag < lookback)


TRANSFORMS = ["log(y)", "diff(x)", "diff_3(x)", "log_diff(y)", "log_diff_3(y)", "zscore_5(x)", "less_mean_5(x)"]
TRANSFORMS += ["deviation_5(x)", "x"]


@pytest.mark.parametrize("entry", TRANSFORMS)
def test_no_transform_looks_ahead_or_further_back_than_it_says(entry):
    table = bars().with_columns(pl.col("y").abs() + 1)
    (feature,) = find_all([entry], COLUMNS)

    def values(rows: pl.DataFrame) -> np.ndarray:
        return compute_features(rows, [feature], np.zeros(rows.height, dtype=np.int64)).to_series().to_numpy()

    whole, cut = values(table), 300
    np.testing.assert_array_equal(values(table.head(cut)), whole[:cut])
    kept = slice(feature.lookback - 1, None)
    np.testing.assert_allclose(values(table[cut:])[kept], whole[cut:][kept], rtol=1e-6)
    assert np.isnan(whole[: feature.lookback - 1]).all()
    assert np.isfinite(whole[kept]).all()


def test_a_z_score_of_values_that_stand_still_is_0():
    table = bars().with_columns(x=pl.lit(0.1))
    (feature,) = find_all(["zscore_5(x)"], COLUMNS)
    assert (compute_features(table, [feature], np.zeros(600, dtype=np.int64)).to_series()[4:] == 0).all()


def test_a_run_is_refused_at_its_start(tmp_path):
    sensors().write_csv(tmp_path / "sensors.csv")
    entry = {"name": "next", "expression": "LAG(Pressure) OVER (ORDER BY timestamp DESC)", "lookback": 1}
    from tests.data.test_series import source

    with pytest.raises(DataError, match=r"next, which looks ahead: its value at sensors 2024-01-01 00:0"):
        ready(pl.DataFrame(), source=source(tmp_path / "sensors.csv"), features=[entry], checks=checks(kind="series"))
