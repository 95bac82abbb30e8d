from datetime import date, datetime
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refold.data.windows.split import (
    ByDate,
    ByFraction,
    Interval,
    PurgedKFold,
    WalkForward,
    cut,
    position,
    timeline,
)
from refold.errors import DataError
from tests.data.makers import fractions

DAYS = pl.date_range(date(2020, 1, 1), date(2020, 4, 9), eager=True)  # 100 days


def test_fractions_cut_the_calendar():
    assert fractions(0.7, 0.1).intervals(DAYS, 0) == [
        Interval("train", 0, 70),
        Interval("val", 70, 80),
        Interval("test", 80, 100),
    ]


def test_dates_cut_at_the_first_bar_at_or_after_them():
    split = ByDate(val_start="2020-02-01", test_start="2020-03-01", embargo=0)
    weekdays = DAYS.filter(DAYS.dt.weekday() < 6)
    intervals = split.intervals(weekdays, 0)
    assert weekdays[intervals[1].start] == date(2020, 2, 3)  # 1 February 2020 is a Saturday
    assert weekdays[intervals[2].start] == date(2020, 3, 2)
    assert intervals[2].end == len(weekdays)


def test_a_date_is_read_in_the_zone_of_the_data():
    hours = pl.datetime_range(
        datetime(2020, 1, 1), datetime(2020, 1, 3), "1h", time_zone="America/New_York", eager=True
    )
    assert position(hours, datetime(2020, 1, 2)) == 24
    assert position(hours, datetime.fromisoformat("2020-01-02T00:00:00+00:00")) == 19


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ByFraction(train_fraction=0.0, val_fraction=0.1, embargo=0),
            "data.split.train_fraction is 0.0; it must",
        ),
        (lambda: ByFraction(train_fraction=0.9, val_fraction=0.2, embargo=0), "is 1.1; it must be at most 1"),
        (lambda: ByFraction(train_fraction=0.9, val_fraction=0.1, embargo=-1), "data.split.embargo is -1; it must"),
        (
            lambda: ByDate(val_start="soon", test_start="2020-01-01", embargo=0),
            "data.split.val_start is 'soon'; it must",
        ),
        (lambda: ByDate(val_start="2020-02-01", test_start="2020-01-01", embargo=0), "it must be before test_start"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=r"data\.split") as error:
        make()
    assert message in str(error.value)


@st.composite
def markets(draw):
    """Assets with bars at random moments of a calendar, and parts of it."""
    moments = draw(st.integers(1, 60))
    assets = draw(st.integers(1, 4))
    asset, moment = [], []
    for number in range(assets):
        held = draw(st.lists(st.integers(0, moments - 1), unique=True, min_size=0, max_size=moments))
        asset += [number] * len(held)
        moment += sorted(held)
    borders = sorted(draw(st.lists(st.integers(0, moments), min_size=2, max_size=5)))
    names = draw(
        st.lists(st.sampled_from(["train", "val", "test"]), min_size=len(borders) - 1, max_size=len(borders) - 1)
    )
    intervals = [Interval(name, *pair) for name, pair in zip(names, pairwise(borders), strict=True)]
    run = draw(st.lists(st.integers(0, 1), min_size=len(asset), max_size=len(asset)))
    usable = draw(st.lists(st.booleans(), min_size=len(asset), max_size=len(asset)))
    arrays = (np.array(asset, int), np.cumsum(run), np.array(moment, int), np.array(usable, bool))
    return (*arrays, intervals, draw(st.integers(0, 8)))


@settings(max_examples=100, deadline=None)
@given(markets())
def test_parts_are_apart(market):
    """No bar is in two parts or in no interval; parts of an asset are more than the gap apart; a run is one run."""
    asset, run, moment, usable, intervals, gap = market
    segments = cut(asset=asset, run=run, moment=moment, usable=usable, intervals=intervals, gap=gap)
    owner: dict[int, tuple[str, int]] = {}
    for part, pieces in segments.items():
        for start, count in pieces.tolist():
            rows = range(start, start + count)
            assert count > 0
            assert len({asset[row] for row in rows}) == len({run[row] for row in rows}) == 1
            homes = {next(i for i, it in enumerate(intervals) if it.start <= moment[row] < it.end) for row in rows}
            assert len(homes) == 1
            assert intervals[next(iter(homes))].part == part
            for row in rows:
                assert usable[row]
                assert row not in owner
                owner[row] = (part, next(iter(homes)))
    held = sorted(owner)
    for early, late in pairwise(held):
        if asset[early] == asset[late] and owner[early][1] != owner[late][1]:
            assert late - early > gap


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(markets())
def test_so_they_are_in_many_more(market):
    test_parts_are_apart.hypothesis.inner_test(market)


@settings(max_examples=100, deadline=None)
@given(markets())
def test_no_bar_is_dropped_without_a_reason(market):
    """A usable bar in an interval is in a part unless a bar of an earlier interval is at most `gap` bars before it."""
    asset, run, moment, usable, intervals, gap = market
    segments = cut(asset=asset, run=run, moment=moment, usable=usable, intervals=intervals, gap=gap)
    held = {
        row for pieces in segments.values() for start, count in pieces.tolist() for row in range(start, start + count)
    }
    home = [next((i for i, it in enumerate(intervals) if it.start <= m < it.end), None) for m in moment]
    for row in range(len(asset)):
        before = range(max(0, row - gap), row)
        crowded = any(asset[b] == asset[row] and home[b] is not None and home[b] != home[row] for b in before)
        assert (row in held) == (bool(usable[row]) and home[row] is not None and not crowded)


@pytest.mark.parametrize("train_moments", [None, 20])
def test_walking_forward_tests_each_moment_of_the_end_once_and_trains_on_what_is_before(train_moments):
    split = WalkForward(folds=4, test_fraction=0.4, train_moments=train_moments, embargo=0)
    tested = []
    for fold in range(4):
        train, val, test = split.intervals(DAYS, fold)
        assert (train.part, val.part, test.part) == ("train", "val", "test")
        assert train.end == val.start
        assert val.end == test.start
        assert val.end - val.start == test.end - test.start == 10
        assert train.start == (0 if train_moments is None else train.end - 20)
        tested += range(test.start, test.end)
    assert tested == list(range(60, 100))


def test_k_folds_test_and_validate_each_moment_once():
    split = PurgedKFold(folds=5, embargo=0)
    tested, validated = [], []
    for fold in range(5):
        intervals = split.intervals(DAYS, fold)
        assert [interval.start for interval in intervals] == [0] + [interval.end for interval in intervals[:-1]]
        assert intervals[-1].end == 100
        assert all(one.part != two.part for one, two in pairwise(intervals))
        tested += [m for part, start, end in intervals if part == "test" for m in range(start, end)]
        validated += [m for part, start, end in intervals if part == "val" for m in range(start, end)]
    assert sorted(tested) == sorted(validated) == list(range(100))


def test_k_folds_drop_bars_on_both_sides_of_the_test():
    intervals = PurgedKFold(folds=5, embargo=2).intervals(DAYS, 1)  # train, test, val, train
    arrays = {"asset": np.zeros(100, int), "run": np.zeros(100, int), "moment": np.arange(100)}
    segments = cut(usable=np.ones(100, bool), intervals=intervals, gap=7, **arrays)
    assert segments["train"].tolist() == [[0, 20], [67, 33]]
    assert segments["test"].tolist() == [[27, 13]]
    assert segments["val"].tolist() == [[47, 13]]


@pytest.mark.parametrize(
    ("split", "fold", "message"),
    [
        (fractions(), 1, "data.fold is 1; data/split=fraction has only fold 0"),
        (WalkForward(folds=4, test_fraction=0.4, train_moments=None, embargo=0), 4, "walk_forward has folds 0 to 3"),
        (PurgedKFold(folds=5, embargo=0), 7, "data.fold is 7; data/split=purged_kfold has folds 0 to 4"),
    ],
)
def test_a_fold_that_is_not_there_is_named(split, fold, message):
    with pytest.raises(DataError) as error:
        split.intervals(DAYS, fold)
    assert message in str(error.value)


def test_timeline_is_drawn_to_scale():
    drawn = timeline(fractions(0.5, 0.25).intervals(DAYS, 0), DAYS, gap=5, width=20)
    assert drawn.splitlines()[0] == "|==========.vvvv.tttt|"
    assert "train 2020-01-01 to 2020-02-19" in drawn
    assert "5 bars dropped" in drawn
