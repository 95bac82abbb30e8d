"""Repairs: each explanation on errors whose truth is known, and what must be left alone."""

import math
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from refold.data.bars.table import PRICES
from refold.data.sources import Stocks
from refold.errors import DataError
from refold.scoring.repair import EARLIER, REPAIRS, apply_repairs, repair
from refold.studies.repairs import KINDS, measure_repairs, repair_lines
from tests.data.makers import random_bars, table, with_value

BARS = random_bars([200, 200], seed=4)
ROW = 120  # of asset A


def event(first: int = ROW, last: int = ROW, bars: pl.DataFrame = BARS) -> pl.DataFrame:
    return pl.DataFrame(
        {"asset": [bars["asset"][first]], "start": [bars["timestamp"][first]], "end": [bars["timestamp"][last]]}
    )


def scaled(bars: pl.DataFrame, rows, factor: float, columns=PRICES) -> pl.DataFrame:
    chosen = pl.int_range(pl.len()).is_in(list(rows))
    return bars.with_columns(
        pl.when(chosen).then(pl.col(name) * factor).otherwise(name).alias(name) for name in columns
    )


def tick(factor: float = 1.3) -> pl.DataFrame:
    """The close of one bar is wrong, and its high with it."""
    spoilt = scaled(BARS, [ROW], factor, ["close"])
    return spoilt.with_columns(high=pl.max_horizontal("high", "close"))


@pytest.fixture(scope="module")
def measured() -> dict[str, list[dict]]:
    """Rows of two seeds by kind, on the last years of the embedded stocks."""
    bars = Stocks(table=table(adjusted=True)).load().filter(pl.col("timestamp") >= date(2011, 3, 21))
    rows = [row for seed in (0, 1) for row in measure_repairs(bars.sort("asset", "timestamp"), seed)]
    return {kind.name: [row for row in rows if row["kind"] == kind.name] for kind in KINDS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bad tick", "open tick", "wick", "whole bar"])
def test_prices_are_nearer_to_the_truth_than_by_any_plain_way(measured, kind):
    for row in measured[kind]:
        assert row["altered"] > 0.8 * row["episodes"]
        assert row["repair"] < 0.7 * min(row[way] for way in ("last", "interpolation", "neighbours", "peers"))


def test_units_and_splits_are_exact(measured):
    for kind in ("unit", "split"):
        assert sum(row["exact"] for row in measured[kind]) > 0.9 * sum(row["episodes"] for row in measured[kind])
    assert all(row["exact"] == row["episodes"] for row in measured["unit"])


def test_intervals_hold_what_they_promise(measured):
    covered = [
        row["coverage"] for kind in ("bad tick", "open tick", "wick", "whole bar", "stale") for row in measured[kind]
    ]
    assert 0.85 < np.mean(covered) < 0.97


def test_real_moves_are_left_alone(measured):
    assert sum(row["altered"] for row in measured["real jump"]) == 0
    for kind in ("crash", "halt"):
        assert sum(row["altered"] for row in measured[kind]) <= 1
    assert sum(row["altered"] for row in measured["flash crash"]) < 0.25 * sum(
        row["episodes"] for row in measured["flash crash"]
    )


def test_lines_have_every_kind(measured):
    lines = repair_lines([row for rows in measured.values() for row in rows])
    assert [kind.name for kind in KINDS] == [line[:12].strip() for line in lines[2:] if not line.startswith("-")]


def test_a_bad_tick_changes_close_and_high_and_its_returns_are_told():
    spoilt = tick()
    found = repair(spoilt, event())
    assert found.columns == list(REPAIRS)
    assert found["explanation"].unique().to_list() == ["tick"]
    assert sorted(found["column"]) == ["close", "high"]
    close = found.row(by_predicate=pl.col("column") == "close", named=True)
    assert close["value"] == spoilt["close"][ROW]
    assert abs(math.log(close["proposed"] / BARS["close"][ROW])) < 0.03
    assert close["low"] < close["proposed"] < close["high"]
    assert close["return"] == pytest.approx(math.log(spoilt["close"][ROW] / spoilt["close"][ROW - 1]))
    assert close["repaired_return"] == pytest.approx(math.log(close["proposed"] / spoilt["close"][ROW - 1]))
    assert close["next_return"] == pytest.approx(math.log(spoilt["close"][ROW + 1] / spoilt["close"][ROW]))
    assert close["repaired_next_return"] == pytest.approx(math.log(spoilt["close"][ROW + 1] / close["proposed"]))


def test_the_bars_given_stay_and_a_copy_has_the_proposed_values():
    spoilt = tick()
    kept = spoilt.clone()
    found = repair(spoilt, event())
    copy = apply_repairs(spoilt, found)
    assert spoilt.equals(kept)
    assert copy.schema == spoilt.schema
    changed = {name: found.filter(column=name)["proposed"].to_list() for name in ("close", "high")}
    for name in spoilt.columns:
        expected = spoilt[name].to_list()
        if name in changed:
            expected[ROW] = changed[name][0]
        assert copy[name].to_list() == expected
    assert apply_repairs(spoilt, found.clear()).equals(spoilt)


def test_an_error_is_found_from_the_bar_after_it_too():
    """What flags a wrong close may flag the bar after, whose own change is as large."""
    for first, last in ((ROW + 1, ROW + 1), (ROW, ROW + 1), (ROW - 2, ROW + 3)):
        found = repair(tick(), event(first, last))
        assert found["timestamp"].unique().to_list() == [BARS["timestamp"][ROW]]
        assert found["event_start"].unique().to_list() == [BARS["timestamp"][first]]


def test_a_unit_is_exact():
    spoilt = scaled(BARS, range(ROW, ROW + 3), 100.0)
    found = repair(spoilt, event(ROW, ROW + 2))
    assert found["explanation"].unique().to_list() == ["unit"]
    assert found["factor"].unique().to_list() == [100.0]
    assert (found["low"] == found["high"]).all()
    copy = apply_repairs(spoilt, found)
    for name in PRICES:
        np.testing.assert_allclose(copy[name], BARS[name], rtol=1e-12)


def test_a_split_changes_all_earlier_bars_of_its_asset_and_their_volume():
    spoilt = scaled(BARS, range(ROW), 2.0).with_columns(
        volume=pl.when(pl.int_range(pl.len()) < ROW).then(pl.col("volume") / 2).otherwise("volume")
    )
    found = repair(spoilt, event())
    assert found.select("explanation", "column", "factor").rows() == [("split", EARLIER, 2.0)]
    row = found.row(0, named=True)
    assert row["return"] - row["repaired_return"] == pytest.approx(-math.log(2))
    assert row["next_return"] == row["repaired_next_return"]
    copy = apply_repairs(spoilt, found)
    for name in (*PRICES, "volume"):
        np.testing.assert_allclose(copy[name], BARS[name], rtol=1e-12)


def test_a_stale_run_is_put_on_the_line_to_the_next_open():
    last = BARS["close"][ROW - 1]
    spoilt = BARS
    for name in PRICES:
        spoilt = with_value(spoilt, range(ROW, ROW + 6), name, last)
    found = repair(spoilt, event(ROW + 2, ROW + 3))
    assert found["explanation"].unique().to_list() == ["stale"]
    assert found["timestamp"].n_unique() == 6
    closes = np.log(found.filter(column="close")["proposed"].to_numpy())
    assert np.allclose(np.diff(closes, 2), 0)  # a straight line
    assert math.log(last) < closes[0] < closes[-1] or math.log(last) > closes[0] > closes[-1]


@pytest.mark.parametrize("row", [0, 199, 200, 399])
def test_first_and_last_bars_are_left_alone(row):
    spoilt = scaled(BARS, [row], 1.2, ["close", "high"])
    assert repair(spoilt, event(row, row)).filter(timestamp=BARS["timestamp"][row]).is_empty()


def test_events_without_bars_and_bars_without_prices_are_no_obstacle():
    spoilt = with_value(tick(), [ROW + 4, ROW + 6], "open", None)
    gap = BARS["timestamp"][-1] + timedelta(days=3)
    events = pl.concat([event(), pl.DataFrame({"asset": ["A", None, "C"], "start": [gap] * 3, "end": [gap] * 3})])
    assert repair(spoilt, events)["timestamp"].unique().to_list() == [BARS["timestamp"][ROW]]
    assert repair(spoilt, event(ROW + 4, ROW + 4)).filter(pl.col("timestamp") > BARS["timestamp"][ROW]).is_empty()
    assert repair(spoilt, events.clear()).schema == repair(spoilt, events).schema


def test_bars_of_closes_alone_are_refused():
    with pytest.raises(DataError, match="needs open, high, low and close; the bars have no open, high, low"):
        repair(BARS.select("timestamp", "asset", "close"), event())
