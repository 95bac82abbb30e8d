"""Rules on bars made by hand: each finds its own kind of error and leaves the others alone."""

import math

import numpy as np
import polars as pl
import pytest

from refold.data.sources import Stocks
from refold.scoring.events import likely_kinds
from refold.scoring.rules import (
    RULES,
    LargestRank,
    RobustReturn,
    SpikeReversal,
    SplitRatio,
    StaleRun,
    UnitRatio,
    nothing_fires,
)
from refold.studies.inject import inject
from tests.data.makers import random_bars, table

TRAIN = random_bars([400, 400], seed=1)
VAL = random_bars([200, 200], seed=2)


def closes(values, asset="A"):
    days = pl.date_range(pl.date(2020, 1, 1), pl.date(2020, 1, 1) + pl.duration(days=len(values) - 1), eager=True)
    return pl.DataFrame(
        {"timestamp": days, "asset": [asset] * len(values), "close": [float(value) for value in values]}
    )


CALM = [100 * math.exp(0.01 * (-1) ** bar) for bar in range(30)]  # returns of +-2 %


def test_robust_return_by_hand():
    bars = closes([*CALM, CALM[-1] * math.exp(0.1), CALM[-1] * math.exp(0.1)])
    scores = RobustReturn().fit(bars, bars).score(bars)
    assert np.isnan(scores[:11]).all()  # ten returns before it are asked for
    assert scores[30] == pytest.approx(0.1 / (5 * 1.4826 * 0.02))
    assert scores[31] == 0


def test_a_spike_is_what_comes_back():
    spike, jump = CALM[-1] * 1.1, CALM[-1] * 1.1
    rule = SpikeReversal().fit(closes(CALM), closes(CALM))
    spiked = rule.score(closes([*CALM, spike, CALM[-1], CALM[-1]]))
    jumped = rule.score(closes([*CALM, jump, jump, jump]))
    assert spiked[30] == pytest.approx(math.log(1.1) / (5 * 1.4826 * 0.02))
    assert spiked[31] == 0  # the bar after is right
    assert jumped[30] == 0
    assert math.isnan(spiked[-1])


def test_a_stale_run_is_scored_at_each_bar_that_repeats():
    rule = StaleRun().fit(TRAIN, VAL)
    bars = pl.concat([closes([1, 2, 2, 2, 2, 3, 3]), closes([3, 3, 4], asset="B")])
    assert (rule.score(bars) * 3).tolist() == pytest.approx([0, 0, 3, 3, 3, 0, 1, 0, 1, 0])


def test_what_is_usually_stale_is_no_error():
    sleepy = closes(np.repeat(np.arange(1, 200), 4))  # each close comes four times
    assert StaleRun().fit(sleepy, sleepy).score(sleepy).max() < 1


@pytest.mark.parametrize(("ratio", "expected"), [(2, True), (1 / 3, True), (1.5, True), (1.2, False), (2.3, False)])
def test_a_split_is_a_jump_by_its_ratio(ratio, expected):
    scores = SplitRatio().score(closes([100, 100, 100 / ratio, 101 / ratio]))
    assert bool(scores[2] >= 1) == expected
    assert (scores[[1, 3]] == 0).all()


def test_a_jump_that_comes_back_or_is_traded_heavily_is_no_split():
    assert SplitRatio().score(closes([100, 100, 50, 100]))[1:].max() == 0
    crash = closes([100, 100, 50, 50]).with_columns(volume=pl.Series([10.0, 10.0, 100.0, 100.0]))
    assert SplitRatio().score(crash)[1:].max() == 0


def test_a_fall_of_the_whole_market_is_no_split():
    one = closes([100, 100, 50, 50])
    others = pl.concat([closes([100, 100, 60, 60], asset=name) for name in "BCD"])
    calm = pl.concat([closes([100, 100, 101, 100], asset=name) for name in "BCD"])
    assert SplitRatio().score(pl.concat([one, others]))[2] == 0
    assert SplitRatio().score(pl.concat([one, calm]))[2] == 2


def test_a_split_of_one_asset_is_not_seen_at_the_border_to_the_next():
    scores = SplitRatio().score(pl.concat([closes([100, 100]), closes([50, 50], asset="B")]))
    assert np.array_equal(scores, [math.nan, 0, math.nan, 0], equal_nan=True)


def test_another_unit_is_found_for_as_long_as_it_lasts():
    prices = np.array(CALM)
    prices[10:14] *= 100
    prices[20] /= 100
    prices[25] *= 10  # a split would not be a unit
    scores = UnitRatio().score(closes(prices))
    assert np.flatnonzero(scores >= 1).tolist() == [10, 11, 12, 13, 20]


def test_each_rule_finds_the_errors_that_are_planted_for_it():
    least = {
        "bad tick": 0.3,
        "stale": 0.8,
        "split": 0.5,
        "unit": 0.8,
    }  # what is small drowns in the noise of these bars
    for kind, make in RULES.items():
        spoilt, labels = inject(VAL, [kind], per_thousand=15, warm_up=30, generator=np.random.default_rng(0))
        fires = pl.Series("fires", make().fit(TRAIN, VAL).score(spoilt)).fill_nan(0) >= make.fires_at
        found = spoilt.select("timestamp", "asset", fires).join(labels, on=["timestamp", "asset"], how="left")
        assert found.filter(pl.col("kind") == kind)["fires"].mean() >= least[kind], kind
        assert found.filter(pl.col("kind").is_null())["fires"].mean() < 0.02, kind


def test_the_embedded_splits_are_splits_and_the_crash_is_none():
    bars = Stocks(table=table(adjusted=False)).load().sort("asset", "timestamp")
    named = bars.select("asset", pl.col("timestamp").cast(pl.String), fires=pl.Series(SplitRatio().score(bars)) >= 1)
    splits = named.filter("fires").select("asset", "timestamp").rows()
    assert splits == [("AAPL", "2000-06-21"), ("AAPL", "2005-02-28"), ("MSFT", "2003-02-18")]
    crash = (pl.col("asset") == "AAPL") & (pl.col("timestamp").cast(pl.String) == "2000-09-29")
    assert bars.with_columns(kind=likely_kinds(bars)).filter(crash)["kind"].to_list() == [None]


class Fixed:
    """A scorer of given scores, by number of rows."""

    def __init__(self, *scores, fires_at=0.0):
        self.scores = {len(given): np.array(given, dtype=float) for given in scores}
        self.fires_at = fires_at

    def fit(self, train, val):
        return self

    def score(self, bars):
        return self.scores[bars.height]


def together(new, *, rules, other, reach=1, val=4):
    """Scores of so many bars, fitted on so many others."""
    fitted = LargestRank(rules, other, reach).fit(closes(range(1, val + 1)), closes(range(1, val + 1)))
    return fitted.score(closes(range(1, new + 1)))


def test_scorers_together_are_their_highest_rank_among_validation():
    rule = Fixed([0, 0, 0, np.nan], [0, 4, np.nan], fires_at=1.0)
    scores = together(3, rules={"a": rule}, other=Fixed([1, 2, 3, 4], [2.5, 3, np.nan]), reach=0)
    assert scores[0] == 0.5  # two of four are below 2.5; none of three is below 0
    assert scores[1] == pytest.approx(2 + math.log(4))  # three times more than the score of 1 at which the rule fires
    assert math.isnan(scores[2])


def test_a_rule_that_does_not_fire_is_not_beyond_validation():
    assert together(1, rules={"a": Fixed([0, 0, 0, 0], [0.9], fires_at=1.0)}, other=None)[0] == 1


def test_ranks_keep_the_order_of_scores_beyond_all_that_validation_has():
    scores = together(3, rules={"a": Fixed([1, 2, 3, 4], [4, 5, 500], fires_at=1.0)}, other=None)
    assert scores[0] < 1 < scores[1] < scores[2]


def test_a_rule_that_fires_comes_before_whatever_is_strange():
    rule = Fixed([0, 0, 0, 0], [1.01, 0, 0], fires_at=1.0)
    scores = together(3, rules={"a": rule}, other=Fixed([1, 2, 3, 4], [0, 1e9, 5]), reach=0)
    assert scores[0] > scores[1] > scores[2] > 1


def test_near_an_error_that_a_rule_finds_the_other_scorer_is_not_asked():
    rule = Fixed([0, 0, 0, 0], [0, 0, 2, 0, 0], fires_at=1.0)
    scores = together(5, rules={"a": rule}, other=Fixed([1, 2, 3, 4], [9, 9, 9, 9, 9]), reach=1)
    assert (scores[[1, 3]] == 0).all()
    assert (scores[[0, 4]] > 1).all()


def test_what_fires_in_one_asset_silences_nothing_in_the_next():
    bars = pl.concat([closes([1, 2]), closes([1, 2, 3], asset="B")])
    rule = Fixed([0, 0, 0, 0], [0, 2, 0, 0, 0], fires_at=1.0)
    fitted = LargestRank({"a": rule}, Fixed([1, 2, 3, 4], [9, 9, 9, 9, 9]), 2).fit(closes(range(4)), closes(range(4)))
    assert (fitted.score(bars)[2:] > 1).all()
    assert fitted.score(bars)[0] == 0


def test_no_rule_depends_on_the_future_beyond_its_neighbours():
    """Scores of early bars stay what they are when later prices change, but for neighbours."""
    changed = VAL.filter(pl.col("asset") == "A").with_row_index()
    changed = changed.with_columns(close=pl.when(pl.col("index") >= 150).then(pl.col("close") * 3).otherwise("close"))
    changed = changed.drop("index")
    for rule in (RobustReturn(), *(rule() for rule in RULES.values())):
        rule.fit(TRAIN, VAL)
        before, after = (rule.score(bars)[:120] for bars in (VAL.filter(pl.col("asset") == "A"), changed))
        assert np.array_equal(before, after, equal_nan=True)


@pytest.mark.slow
def test_where_nothing_fires_the_rules_name_nothing():
    """Random walks with a spike, a split, a standstill or another unit near their end; most walks are calm."""
    draw, calm, named = np.random.default_rng(0), 0, 0
    for seed in range(300):
        bars = random_bars([int(draw.integers(3, 70))], seed=seed)
        closes, opens = bars["close"].to_numpy().copy(), bars["open"].to_numpy().copy()
        place = max(1, len(closes) - int(draw.integers(1, 5)))
        change = int(draw.integers(0, 6))
        if change == 1:
            closes[place] *= draw.choice([0.8, 0.97, 1.03, 1.3])
        elif change in (2, 3):
            factor = draw.choice([0.5, 2.0, 1.49, 1.37, 0.73, 100.0, 0.001])
            closes[place:], opens[place + change - 2 :] = closes[place:] * factor, opens[place + change - 2 :] * factor
        elif change == 4:
            closes[-4:] = closes[-1]
        bars = bars.with_columns(pl.Series("close", closes), pl.Series("open", opens))
        kind = likely_kinds(bars)[-1]
        named += kind is not None
        if nothing_fires(opens, closes):
            calm += 1
            assert kind is None, (seed, kind)
    assert calm > 100
    assert named > 50
    assert not nothing_fires(np.array([1.0, np.nan, 1.0, 1.0]), np.ones(4))
