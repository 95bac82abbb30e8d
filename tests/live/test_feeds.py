"""What feeds do: one outcome each, never a traceback, and the state is as if the bar had not come."""

import json
import logging
import math
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from refold.errors import ConfigError
from refold.live.verdict import REFUSED
from refold.scoring.scores import GaussDynamicKernel
from refold.scoring.thresholds import StreamingPeaks
from tests.data.lookalikes import new_york, walk
from tests.data.makers import checks, random_bars, with_value
from tests.live.live_bars import assert_same, batch, fitted, in_time, live_of
from tests.scoring.test_planted_score import score as planted_score

BARS = random_bars([60, 50], seed=5)


@pytest.fixture(scope="module")
def judge():
    return fitted(threshold=StreamingPeaks(risk=0.05, start=0.7, per_asset=False))


def state_of(live) -> list:
    past = live.past
    rings = [array[: len(past)].copy() for array in past.arrays.values()]
    return [*rings, *map(np.copy, past.peaks), live.peers.times[: live.peers.used].copy()]


def assert_untouched(before: list, live) -> None:
    after = state_of(live)
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def following(bar: dict, **changes) -> dict:
    return {**bar, "timestamp": bar["timestamp"] + timedelta(days=1), **changes}


ODD = {
    "twice": (lambda bar: bar, "duplicate", None),
    "twice, with other values": (lambda bar: {**bar, "close": 1.0}, "duplicate", "revise corrects it"),
    "late": (lambda bar: following(bar, timestamp=date(2019, 12, 1)), "late", "revise puts it in its place"),
    "from the future": (lambda bar: following(bar, timestamp=date(2199, 1, 1)), "future", "ahead of the clock"),
    "no time": (lambda bar: {**bar, "timestamp": None}, "malformed", "no timestamp"),
    "an empty time": (lambda bar: {**bar, "timestamp": ""}, "malformed", "no timestamp"),
    "no column of times": (lambda bar: {k: v for k, v in bar.items() if k != "timestamp"}, "malformed", "date column"),
    "a word for a time": (lambda bar: {**bar, "timestamp": "noon"}, "malformed", "noon"),
    "a time of a zone": (lambda bar: {**bar, "timestamp": datetime(2020, 3, 5, 3, tzinfo=UTC)}, "malformed", "dates"),
    "a time within the day": (lambda bar: {**bar, "timestamp": "2020-03-05T03:00"}, "malformed", "dates"),
    "no asset": (lambda bar: {**bar, "asset": None}, "malformed", "names no asset"),
    "a word for a number": (lambda bar: following(bar, close="high"), "malformed", "must be a number"),
    "a list": (lambda bar: [1, 2], "malformed", "must be a mapping"),
    "nothing": (lambda bar: None, "malformed", "must be a mapping"),
    "an empty bar": (lambda bar: {}, "malformed", "date column"),
    "two closes": (lambda bar: {**bar, "Close": 1.0}, "malformed", "Close"),
}  # fmt: skip


@pytest.fixture(scope="module")
def running(judge):
    live = live_of(judge)
    live.push_many(BARS)
    return live


@pytest.mark.parametrize("name", ODD)
def test_an_odd_bar_has_one_outcome_and_leaves_no_trace(running, name):
    make, reason, note = ODD[name]
    before = state_of(running)
    last = in_time(BARS.filter(asset="A"))[-1]
    verdict = running.push(make(last))
    assert verdict.reason == reason
    assert verdict.reason in REFUSED
    assert not verdict.accepted
    assert (verdict.score, verdict.flagged) == (None, False)
    assert note is None or note in verdict.note
    json.dumps(verdict.to_dict(), allow_nan=False)
    assert_untouched(before, running)
    assert running.push_many([make(last), make(last)])[1].reason == reason


@pytest.mark.parametrize(
    ("changes", "check"),
    [({"close": None}, "missing_value"), ({"close": ""}, "missing_value"), ({"close": math.nan}, "not_finite"),
     ({"high": math.inf}, "not_finite"), ({"low": -1.0}, "non_positive"), ({"low": 1e9}, "broken_bar")],
)  # fmt: skip
def test_a_faulty_bar_is_masked_and_the_next_one_goes_on(judge, changes, check):
    bars = BARS.filter(asset="A")
    live, plain = live_of(judge), in_time(bars)
    said = [live.push(bar) for bar in plain[:50]]
    faulty = {**plain[50], **changes}
    verdict = live.push(faulty)
    assert verdict.accepted
    assert verdict.reason == check
    assert check in verdict.found
    said += [verdict, *(live.push(bar) for bar in plain[51:])]
    column, value = next(iter(changes.items()))
    table = with_value(bars, [50], column, None if value == "" else value)
    assert_same(said, batch(judge, table))


def test_a_field_that_is_not_there_is_a_missing_value(judge):
    live = live_of(judge)
    live.push_many(BARS)
    bar = following(in_time(BARS.filter(asset="A"))[-1])
    del bar["close"]
    assert live.push(bar).reason == "missing_value"


def test_bars_as_a_feed_writes_them(judge):
    live, other = live_of(judge), live_of(judge)
    texts = [
        {key: value.isoformat() if key == "timestamp" else str(value) for key, value in bar.items()}
        for bar in in_time(BARS)
    ]
    renamed = [{{"timestamp": "Date", "asset": "Ticker"}.get(key, key.title()): value for key, value in bar.items()}
               for bar in texts]  # fmt: skip
    assert live.push_many(texts) == other.push_many(renamed)
    assert live.newest("A") == date(2020, 2, 29)
    assert live.assets == ["A", "B"]


@pytest.mark.parametrize(
    "odd",
    [{}, {"close": None}, {"close": "x"}, {"asset": 7}, {"volume": math.nan}, {"timestamp": "noon"}, {"more": 1.0}],
)
def test_bars_that_are_read_column_by_column_are_those_read_singly(judge, odd):
    bars = in_time(BARS)[:30]
    bars[20] = {**bars[20], **odd}
    alike, singly = live_of(judge), live_of(judge)
    singly.reader.read_alike = lambda bars: None
    assert (alike.reader.read_alike(bars) is None) == (odd not in ({}, {"volume": math.nan}))
    assert list(map(repr, alike.push_many(bars))) == list(map(repr, singly.push_many(bars)))


def test_an_asset_that_the_run_does_not_know_is_judged_by_what_all_have_in_common(judge):
    live = live_of(judge)
    new = BARS.filter(asset="A").with_columns(asset=pl.lit("NEW"))
    verdicts = live.push_many(new)
    assert_same(verdicts, batch(judge, new))
    assert verdicts[-1].score is not None
    assert "not trained on" in verdicts[-1].note


def test_a_corrected_bar_changes_what_it_touched(judge):
    right = BARS
    wrong = with_value(BARS, [40], "close", 500.0)
    live = live_of(judge)
    live.push_many(wrong)
    row = right.row(40, named=True)
    changed = live.revise(row)
    assert changed[0].timestamp == row["timestamp"]
    assert {one.asset for one in changed} == {"A"}
    corrected = {(one.asset, one.timestamp): one for one in changed}
    fresh = live_of(judge)
    for one in fresh.push_many(right):
        if (one.asset, one.timestamp) in corrected:
            found = corrected[one.asset, one.timestamp]
            assert found.reason == one.reason
            np.testing.assert_allclose(found.score, one.score, rtol=1e-5)
            np.testing.assert_allclose(found.level, one.level, rtol=1e-5)
    assert live.revise(row) == []
    nexts = [following(in_time(BARS.filter(asset=name))[-1]) for name in ("A", "B")]
    for one, other in zip(live.push_many(nexts), fresh.push_many(nexts), strict=True):
        np.testing.assert_allclose((one.score, one.level), (other.score, other.level), rtol=1e-5)


def test_a_late_bar_is_put_in_its_place(judge):
    live, fresh = live_of(judge), live_of(judge)
    missing = BARS.row(45, named=True)
    live.push_many(BARS.filter(pl.int_range(pl.len()) != 45))
    assert live.push(missing).reason == "late"
    changed = live.revise(missing)
    assert changed[0].timestamp == missing["timestamp"]
    expected = {(one.asset, one.timestamp): one for one in fresh.push_many(BARS)}
    for one in changed:
        other = expected[one.asset, one.timestamp]
        assert (one.reason, one.missing) == (other.reason, other.missing)
        np.testing.assert_allclose((one.score, one.level), (other.score, other.level), rtol=1e-5)


def test_a_revision_reaches_as_far_as_the_bars_that_are_kept(judge):
    live = live_of(judge)
    bars = random_bars([400], seed=5)
    live.push_many(bars)
    before = state_of(live)
    old = bars.row(10, named=True)
    (verdict,) = live.revise({**old, "close": 60.0})
    assert verdict.reason == "late"
    assert "can be revised" in verdict.note
    assert_untouched(before, live)
    near = bars.row(395, named=True)
    fresh = live_of(judge)
    fresh.push_many(with_value(bars, [395], "close", 60.0))
    changed = live.revise({**near, "close": 60.0})
    assert [one.timestamp for one in changed] == bars["timestamp"][395:].to_list()
    following_bar = following(bars.row(-1, named=True))
    one, other = live.push(following_bar), fresh.push(following_bar)
    np.testing.assert_allclose((one.score, one.level), (other.score, other.level), rtol=1e-5)
    assert [one.reason for one in live.revise({"timestamp": "2020-01-01"})] == ["malformed"]


def test_a_split_adjusts_the_past(judge):
    bars = BARS.filter(asset="A")
    prices = ("open", "high", "low", "close")
    new = bars[50:].with_columns(*(pl.col(name) / 2 for name in prices), pl.col("volume") * 2)
    live, plain = live_of(judge), live_of(judge)
    live.push_many(bars[:50])
    live.adjust("A", 0.5)
    expected = plain.push_many(bars)[50:]
    for one, other in zip(live.push_many(new), expected, strict=True):
        np.testing.assert_allclose((one.score, one.level), (other.score, other.level), rtol=1e-5)
        assert one.found == ()
    for asset, factor in (("Z", 0.5), ("A", 0.0), ("A", math.nan), ("A", "half")):
        with pytest.raises(ConfigError, match=r"asset is 'Z'|factor is"):
            live.adjust(asset, factor)


def test_the_clock_jumps_and_sessions_end():
    bars = walk(new_york(date(2024, 1, 2), date(2024, 2, 10), "30m"))
    judge = fitted(bars=bars, overnight="mask", features=["log_return"], window_size=4)
    days = bars["timestamp"].dt.date().unique().sort()
    later = bars.filter(pl.col("timestamp").dt.date() != days[-3])  # a day without a bar
    scored = batch(judge, later)
    live = live_of(judge)
    assert_same([live.push(bar) for bar in in_time(later)], scored)
    assert {"masked"} <= set(scored["reason"].drop_nulls())
    far = {**in_time(later)[-1], "timestamp": in_time(later)[-1]["timestamp"] + timedelta(days=400)}
    assert live.push(far).accepted
    assert live.push(in_time(later)[-1]).reason in ("late", "duplicate")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score": GaussDynamicKernel(memory=10, floor=1e-6, width=1.0, centred=True)}, "score.centred=false"),
        ({"layout": "panel"}, "data.layout is panel"),
        ({"score": planted_score(steps=2, copies=1)}, "score is PlantedErrors: a live verdict has a score"),
        ({"checks": checks(split_like="mask")}, "split_like is mask"),
    ],
)
def test_what_cannot_be_had_live_is_refused_in_one_message(settings, message):
    made = fitted(**settings)
    with pytest.raises(ConfigError, match=message):
        live_of(made)


def test_windows_that_later_bars_complete_are_refused(judge):
    from copy import copy

    other = copy(judge)
    other.alignment = "mean"
    with pytest.raises(ConfigError, match="Give alignment=last"):
        live_of(other)


def test_a_feature_without_a_twin_is_said_once(caplog):
    slow = fitted(features=[{"name": "basis", "expression": "close - open", "lookback": 1}, "log_return"])
    with caplog.at_level(logging.INFO, "refold.live"):
        live_of(slow).push_many(BARS[:5])
    assert sum("basis: computed by the expression" in record.message for record in caplog.records) == 1


def test_memory_does_not_grow_with_the_bars(judge):
    live = live_of(judge)
    live.push_many(random_bars([100, 100], seed=5))
    before = sum(array.nbytes for array in live.past.arrays.values())
    live.push_many(random_bars([900, 900], seed=5).filter(pl.col("timestamp") > date(2022, 1, 1)))
    assert sum(array.nbytes for array in live.past.arrays.values()) == before


@pytest.mark.slow
def test_going_live_loads_neither_lightning_nor_pandas():
    code = "import refold.library.going_live, sys; print({'lightning', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
