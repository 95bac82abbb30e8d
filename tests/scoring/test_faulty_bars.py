"""Faulty bars in what a run scores: each is found, listed as an event, and costs no more scores than it must."""

import re
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from conftest import slow_but
from polars.testing import assert_frame_equal

from refold.data.bars import findings as listing
from refold.data.bars.features import find
from refold.data.bars.findings import CHECKS, FaultyRuns
from refold.data.long.ordered import read_sorted
from refold.data.unsplit import unsplit_series
from refold.errors import DataError
from refold.scoring.detector import Detector
from refold.scoring.events import group_events, with_findings
from refold.scoring.scan import scan, scan_parts
from tests.data.makers import ALL_FEATURES, checks, random_bars, ready, with_value
from tests.scoring.test_detector import detector, small_autoencoder
from tests.scoring.test_scan import fitted

SPOIL: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "duplicate": lambda bars: pl.concat([bars, bars[[120, 120]]]).sort("asset", "timestamp", maintain_order=True),
    "missing_value": lambda bars: with_value(bars, [120], "volume", None),
    "not_finite": lambda bars: with_value(bars, [120], "high", np.inf),
    "non_positive": lambda bars: with_value(bars, [120], "low", -1.0),
    "broken_bar": lambda bars: with_value(bars, [120], "low", 1e6),
}


def judged(judge: Detector, bars: pl.DataFrame, piece: int = 10**9) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Scores of bars, and the runs of faulty bars."""
    table = read_sorted([bars], judge.recipe.checks)
    faulty = table.faulty
    scores = pl.concat(list(scan(judge, table, piece=piece, faulty=faulty)))
    return scores, faulty.table()


def lenient(judge: Detector) -> Detector:
    """The detector as it scores new bars."""
    return judge.checking(judge.recipe.checks.when_scoring())


@pytest.fixture(scope="module")
def judge() -> Detector:
    return fitted(random_bars([300]))


@pytest.mark.parametrize("check", SPOIL)
def test_a_faulty_bar_is_found_and_named_and_the_others_are_scored(judge, check):
    bars = random_bars([300], seed=5)
    spoilt = SPOIL[check](bars)
    with pytest.raises(DataError, match=re.escape(f"data.checks.policies.{check} is error")):
        judged(judge, spoilt)
    with pytest.raises(DataError, match=check):
        judged(judge.checking(judge.recipe.checks.when_scoring(kept=[check])), spoilt)
    scores, runs = judged(lenient(judge), spoilt)
    assert scores.height == spoilt.height
    assert runs is not None
    (found,) = runs.filter(check=check).iter_rows(named=True)
    assert (found["asset"], found["start"], found["end"]) == ("A", bars["timestamp"][120], bars["timestamp"][120])
    assert found["bars"] == (2 if check == "duplicate" else 1)
    named = scores.filter(pl.col("reason") == check)
    assert named.height == found["bars"]
    assert named["score"].null_count() == named.height
    assert scores.filter(pl.col("score").is_null() != pl.col("reason").is_not_null()).height == 0
    if check == "duplicate":  # the first of them counts, and the series goes on
        clean, _ = judged(judge, bars)
        kept = scores.filter(pl.col("reason").ne_missing(check))
        assert_frame_equal(kept.drop("place"), clean.drop("place"), rel_tol=1e-5)


def test_clean_bars_have_the_same_scores_under_both_kinds_of_policies(judge):
    bars = random_bars([300, 200], seed=5)
    assert judged(judge, bars)[0].equals(judged(lenient(judge), bars)[0])


def test_rows_without_a_date_or_an_asset_are_kept_aside(judge):
    bars = random_bars([300, 200], seed=5)
    first, second = (
        bars[[7]].with_columns(timestamp=pl.lit(None, pl.Date)),
        bars[[9]].with_columns(asset=pl.lit(None, pl.String)),
    )
    table = read_sorted([bars[:100], pl.concat([first, bars[100:], second])], lenient(judge).recipe.checks)
    assert table.rows == 500
    assert pl.concat(table.nameless.frames()).equals(pl.concat([first, second]))
    runs = table.faulty.table()
    assert runs is not None
    assert runs.select("check", "asset", "start", "bars").rows() == [
        ("missing_timestamp", "A", None, 1), ("missing_timestamp", None, bars["timestamp"][9], 1)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("piece", slow_but([37], [37, 150]))
def test_the_runs_and_reasons_of_pieces_are_those_of_the_whole_table(judge, piece):
    bars = random_bars([260, 180, 230, 7], seed=5)
    bars = with_value(bars, [*range(60, 90), 255, 300, 301, 302, 500], "close", 50.0)
    bars = with_value(with_value(bars, [20, 35, 36, 37, 111], "close", None), [400], "high", 0.0)
    bars = pl.concat([bars, bars[[5, 36, 36, 74, 290]], *[bars[[250]]] * 90])  # more duplicates than a piece has rows
    bars = bars.filter(~pl.int_range(pl.len()).is_in([100, 148, 149, 150, 151]))
    soft = lenient(judge)
    (once, runs), (cut, parts) = judged(soft, bars), judged(soft, bars, piece)
    assert runs is not None
    assert parts is not None
    assert {"duplicate", "missing_value", "stale_run", "gap", "broken_bar", "out_of_order"} <= set(runs["check"])
    assert_frame_equal(parts.drop("first", "last"), runs.drop("first", "last"))
    assert_frame_equal(cut, once, rel_tol=1e-4, abs_tol=1e-5)
    assert {"warming", "hole", "masked", "short_run", "duplicate", "missing_value"} <= set(once["reason"].drop_nulls())
    assert once.filter(asset="D")["reason"].to_list() == ["warming", *["short_run"] * 6]
    # findings.csv counts the bars that the runs hold
    counted = unsplit_series(bars, soft.recipe, soft.scaler).findings.group_by("check").agg(pl.col("bars").sum())
    listed = runs.group_by("check").agg(pl.col("bars").sum())
    assert_frame_equal(counted, listed, check_row_order=False)


def test_of_many_runs_neighbours_are_joined_and_no_bar_is_lost(monkeypatch):
    monkeypatch.setattr(listing, "MOST_RUNS", 50)
    bars = random_bars([2000])
    faulty = FaultyRuns()
    for start in range(0, 2000, 100):
        rows = pl.DataFrame({
            "check": "stale_run", "policy": "warn", "asset": "A", "start": bars["timestamp"][start : start + 100 : 2],
            "end": bars["timestamp"][start : start + 100 : 2], "bars": 1,
            "first": range(0, 100, 2), "last": range(0, 100, 2),
        })  # fmt: skip
        faulty.add([rows], start)
    table = faulty.table()
    assert table is not None
    assert table.height <= 60
    assert table["bars"].sum() == 1000
    assert table["start"].is_sorted()
    assert (table["start"][0], table["end"][-1]) == (bars["timestamp"][0], bars["timestamp"][1998])


def test_events_of_checks_stand_beside_those_of_the_model_in_order_of_time(judge):
    bars = random_bars([300, 250], seed=5)
    holes = bars.filter(~pl.int_range(pl.len()).is_in([50, 51, 52]))
    scores, runs = judged(lenient(judge), with_value(holes, [200, 201, 202], "low", 1e6))
    alarms = group_events(scores.filter("verdict"))
    events = with_findings(alarms, runs)
    assert events.columns == [*alarms.columns, "found_by", "policy", "done"]
    assert events.filter(found_by="model").select(alarms.columns).equals(alarms)
    found = events.filter(found_by="checks").select("asset", "kind", "bars", "policy", "done", "score", "features")
    assert found.rows() == [
        ("A", "gap", 3, "warn", "series ends", None, None),
        ("A", "broken_bar", 3, "mask", "kept without values", None, None),
    ]
    assert events.filter(asset="A")["start"].is_sorted()
    assert with_findings(alarms, None).columns == events.columns
    for name, check in CHECKS.items():  # each policy says what it did
        for policy in set(check.policies) - {"error"}:
            one = runs[:1].with_columns(check=pl.lit(name), policy=pl.lit(policy))
            done = with_findings(alarms.clear(), one)["done"].item()
            assert done, (name, policy)


def test_of_a_runs_own_data_the_findings_of_its_parts_are_listed_and_masked_bars_keep_a_row():
    bars = with_value(random_bars([300, 250]), [40, 210, 211, 280, 500], "close", None)
    masks = checks(missing_value="mask")
    data = ready(bars, checks=masks)
    judge = detector(data, autoencoder=small_autoencoder())
    series, faulty = data.train_windows.series, FaultyRuns()
    judge.fit_series((series, data.segments("train")), (series, data.segments("val")))
    parts = {part: data.segments(part) for part in ("val", "test")}
    val, test = scan_parts(judge, bars, parts, faulty=faulty)
    runs = faulty.table()
    assert runs is not None
    assert runs.select("asset", "start", "bars").rows() == [
        ("A", bars["timestamp"][210], 2), ("A", bars["timestamp"][280], 1), ("B", bars["timestamp"][500], 1)
    ]  # fmt: skip
    assert val.filter(asset="A")["reason"].drop_nulls().to_list() == ["missing_value", "missing_value", "masked"]
    assert test.filter(asset="A")["reason"].drop_nulls().to_list() == ["missing_value", "masked"]
    for table in (val, test):
        assert table.filter(pl.col("score").is_null() != pl.col("reason").is_not_null()).height == 0
        assert (table.select(pl.col("place").diff().over("asset")).to_series().drop_nulls() == 1).all()


# ---- what a masked bar costs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_FEATURES)
@pytest.mark.parametrize("value", slow_but([None], [None, np.nan, np.inf, 0.0]))
def test_a_masked_bar_costs_the_bars_whose_features_look_back_on_it_and_no_more(name, value):
    """A feature of look-back L has no value at the masked bar and at the L - 1 bars after it, and its own elsewhere."""
    bars = random_bars([120])
    feature, column = find(name), "volume" if find(name).columns == ("volume",) else "close"
    masks = checks(
        **dict.fromkeys(("missing_value", "not_finite", "non_positive", "broken_bar", "feature_not_finite"), "mask")
    )
    data = ready(random_bars([400], seed=1), features=[name], checks=masks)
    spoilt = with_value(bars, [60], column, value)
    clean, made = (unsplit_series(table, data.recipe, data.scaler) for table in (bars, spoilt))
    absent = np.flatnonzero(~np.isfinite(_values(made)))
    reached = [*range(feature.lookback - 1), *range(60, 60 + feature.lookback)]
    assert set(absent) <= set(reached)
    if feature.lookback > 2:
        assert set(absent) == set(reached)  # as long as the window contains it
    elsewhere = np.setdiff1d(np.arange(120), reached)
    np.testing.assert_allclose(_values(made)[elsewhere], _values(clean)[elsewhere], rtol=1e-5, atol=1e-5)


def _values(made) -> np.ndarray:
    """The feature of each bar, NaN where a bar is absent."""
    present = np.zeros(len(made.series.values), dtype=bool)
    for first, count in made.segments:
        present[first : first + count] = True
    if made.series.present is not None:
        present &= made.series.present.numpy()
    return np.where(present, made.series.values[:, 0].numpy(), np.nan)


# ---- bars between masked ones ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("alignment", ["mean", "median", "max", "last"])
@pytest.mark.parametrize("settings", [{}, {"layout": "panel"}, {"features": ["window_log_price", "log_return"]}])
def test_bars_between_masked_ones_are_scored_and_no_other_score_moves(alignment, settings):
    """A bad bar in six leaves no run of eight bars: windows run on over the masked bars, for those bars alone."""
    bars = random_bars([240, 240], seed=5)
    judge = lenient(fitted(random_bars([300, 300]), alignment=alignment, **settings))
    own = pl.int_range(pl.len()).over("asset")
    spoilt = bars.with_columns(low=pl.when((own % 6 == 0) & own.is_between(60, 180)).then(1e6).otherwise("low"))
    scores, _ = judged(judge, spoilt)
    assert set(scores["reason"].drop_nulls()) == {"warming", "broken_bar", "masked"}
    assert scores["score"].is_finite().sum() == 2 * (239 - 21 - 21)
    made = unsplit_series(spoilt, judge.recipe, judge.scaler)
    without, filled = (
        judge.score_series(made.series, made.segments, short_runs=one).score for one in (None, made.short_runs)
    )
    there = np.isfinite(without)
    if alignment == "last":  # a bar needs none after it: runs shorter than a window have scores in any case
        assert there.sum() == np.isfinite(filled).sum()
    else:
        assert there.sum() < np.isfinite(filled).sum()
    assert np.array_equal(filled[there], without[there])  # bit for bit
    for piece in (37, 150):
        assert_frame_equal(judged(judge, spoilt, piece)[0], scores, rel_tol=1e-4, abs_tol=1e-5)


def test_the_bars_of_a_short_run_do_not_depend_on_later_ones_under_last(judge):
    bars = random_bars([300], seed=5)
    spoilt = with_value(bars, [100, 106, 112], "low", 1e6)  # runs of four bars
    last = lenient(fitted(random_bars([300]), alignment="last"))
    whole = judged(last, spoilt)[0]["score"].to_numpy()
    changed = pl.concat([spoilt[:110], spoilt[110:].with_columns(pl.col("open", "high", "low", "close") * 3)])
    after = judged(last, changed)[0]["score"].to_numpy()
    np.testing.assert_allclose(whole[:110], after[:110], rtol=1e-5)
    assert np.isfinite(whole[[102, 105, 108, 109]]).all()


def test_a_series_that_ends_in_a_short_run_is_scored_to_its_end():
    bars = random_bars([120], seed=5)
    spoilt = with_value(bars, [116], "low", 1e6)
    for alignment in ("mean", "last"):
        last = lenient(fitted(random_bars([300]), alignment=alignment))
        scores = judged(last, spoilt)[0]
        assert scores["score"].is_finite().to_list()[-2:] == [True, True]
        assert scores["reason"].to_list()[116:118] == ["broken_bar", "masked"]


def test_runs_between_holes_stay_without_scores_and_say_so(judge):
    bars = random_bars([200, 200], seed=5)  # what the second asset has is expected of the first one
    scores = judged(lenient(judge), bars.filter(~pl.int_range(pl.len()).is_in([100, 106])))[0]
    assert scores["reason"].to_list()[99:107] == [None, "hole", *["short_run"] * 4, "hole", None]


def test_under_last_a_bar_is_scored_the_same_whatever_comes_after_it():
    bars = random_bars([200, 200], seed=5)
    last = lenient(fitted(random_bars([300]), alignment="last"))
    torn = bars.filter(~pl.int_range(pl.len()).is_in([100, 106]))  # a run of five bars in the first asset
    scores = judged(last, torn)[0]
    assert scores["reason"].to_list()[99:107] == [None, "hole", None, None, None, None, "hole", None]
    days = torn["timestamp"].unique().sort()
    for end in (102, 104, 150):
        early = judged(last, torn.filter(pl.col("timestamp") <= days[end]))[0]
        expected = scores.filter(pl.col("timestamp") <= days[end])
        assert_frame_equal(early.drop("place", "kind"), expected.drop("place", "kind"), rel_tol=1e-5)
