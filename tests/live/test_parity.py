"""A live bar gets what a batch over all bars gives it under `alignment=last`."""

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refold.scoring.budget import AlarmBudget
from refold.scoring.discoveries import FalseDiscoveries
from refold.scoring.scores import (
    ClozeScore,
    GaussDynamic,
    GaussDynamicKernel,
    LatentNeighbours,
    Mahalanobis,
    SquaredError,
    StudentScore,
)
from refold.scoring.thresholds import Quantile, StreamingPeaks
from tests.data.makers import ALL_FEATURES, checks, random_bars, with_value
from tests.live.live_bars import assert_same, batch, fitted, in_time, live_of

SPOT = {"threshold": StreamingPeaks(risk=0.05, start=0.7, per_asset=False)}
MASKED = {"checks": checks(missing_value="mask", gap="mask"), "max_masked": 3}

CASES = {
    "spot": SPOT,
    "masked": {**SPOT, **MASKED, "score": Mahalanobis()},
    "dropped": {"checks": checks(calendar=None, missing_value="drop", broken_bar="drop"), "score": Mahalanobis()},
    "dropped, with holes": {"checks": checks(missing_value="drop", stale_run="drop"), **SPOT},
    "every feature": {"features": ALL_FEATURES, "score": Mahalanobis()},
    "expression": {
        "features": ["log_return", {"name": "basis", "expression": "close - LAG(open, 2) OVER (ORDER BY timestamp)",
                                    "lookback": 3}, "zscore_5(volume)", "log_diff_2(close)", "deviation_4(high)",
                     "less_mean_3(low)", "diff(open)", "log(volume)", {"name": "close", "column": "close"}],
    },
    "own scale, own level": {
        "lengths": (900, 900), "scale": "per_asset",
        "threshold": StreamingPeaks(risk=0.02, start=0.9, per_asset=True),
    },
    "trailing scale": {"lengths": (600, 600), "scale": "trailing", **MASKED},
    "gauss_d": {"score": GaussDynamic(memory=10, floor=1e-3), **SPOT, **MASKED},
    "gauss_d_k": {"score": GaussDynamicKernel(memory=10, floor=1e-3, width=1.0, centred=False), **MASKED},
    "latent": {"score": LatentNeighbours(neighbours=3, references=50)},
    "student": {"score": StudentScore(), **MASKED},
    "cloze": {
        "score": ClozeScore(hidden_size=8, num_layers=1, margin=0, degrees=4.0, scale_power=0.5, steps=3, batch_size=16,
                            lr=3e-3, seed=0), **MASKED,
    },
    "budget": {"threshold": AlarmBudget(alarms=20.0, per="asset_year", adapt=0.5, per_asset=False)},
    "fdr": {"threshold": FalseDiscoveries(share=0.3, block=20, per_asset=False)},
    "weekdays": {"checks": checks(calendar="24x7", interval="1d"), "threshold": Quantile(share=0.9, per_asset=True)},
    "exchange": {"checks": checks(calendar="XNYS"), "score": SquaredError(), "max_masked": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def judges():
    made = {}

    def get(name: str):
        if name not in made:
            made[name] = fitted(**CASES[name])
        return made[name]

    return get


def spoilt(seed: int, lengths=(140, 90, 120)) -> pl.DataFrame:
    """Bars with everything that a feed has: empty and wrong cells, stale prices, splits, other units, holes."""
    draw = np.random.default_rng(seed)
    bars = random_bars(lengths, seed=seed + 1)
    rows = lambda count: draw.choice(bars.height, count, replace=False)  # noqa: E731
    for column in ("close", "open", "volume"):
        bars = with_value(bars, rows(3), column, None)
    bars = with_value(with_value(bars, rows(2), "high", 0.0), rows(2), "low", 1e6)
    start = int(draw.integers(0, bars.height - 12))
    for column in ("open", "high", "low", "close"):
        bars = with_value(bars, range(start, start + 7), column, 50.0)
    place, jump = pl.int_range(pl.len()), int(draw.integers(20, lengths[0] - 10))
    factor = float(draw.choice([0.5, 2.0, 100.0, 0.1]))
    later = (place >= jump) & (place < lengths[0])
    prices = ("open", "high", "low", "close")
    bars = bars.with_columns(pl.when(later).then(pl.col(name) * factor).otherwise(name).alias(name) for name in prices)
    for _ in range(4):
        first = int(draw.integers(0, bars.height))
        bars = bars.filter(~place.is_between(first, first + int(draw.integers(0, 3))))
    return bars


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "masked" else pytest.mark.slow) for name in CASES]
)
def test_live_bars_get_what_a_batch_gives_them(judges, name):
    judge, bars = judges(name), spoilt(3)
    scored = batch(judge, bars)
    assert scored["score"].count() > 50
    live = live_of(judge)
    assert_same([live.push(bar) for bar in in_time(bars, np.random.default_rng(0))], scored)
    at_once = live_of(judge)
    assert_same(at_once.push_many(bars), scored)


@pytest.mark.slow
def test_a_series_of_any_numbers_is_judged_as_a_batch_judges_it():
    draw = np.random.default_rng(0)
    numbers = {name: draw.normal(size=500).cumsum() + 50 for name in ("load", "heat")}
    bars = (
        random_bars([300, 200])
        .select("timestamp", "asset")
        .with_columns(**{k: pl.Series(v) for k, v in numbers.items()})
    )
    features = [{"name": name, "column": name} for name in numbers] + ["diff(load)", "zscore_5(heat)"]
    judge = fitted(bars=bars, features=features, checks=checks(kind="series", missing_value="mask", gap="mask"), **SPOT)
    new = with_value(bars.filter(pl.int_range(pl.len()) % 97 != 50), range(100, 104), "load", None)
    new = with_value(new, range(320, 330), "heat", 50.0)
    scored, live = batch(judge, new), live_of(judge, kind="series")
    assert_same([live.push(bar) for bar in in_time(new, np.random.default_rng(0))], scored)
    assert_same(live_of(judge, kind="series").push_many(new), scored)
    assert scored["score"].count() > 300


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(list(CASES)), seed=st.integers(0, 10**6), sizes=st.lists(st.integers(1, 40), min_size=1))
def test_in_whatever_order_and_batches_they_come(judges, name, seed, sizes):
    judge, bars = judges(name), spoilt(seed)
    scored = batch(judge, bars)
    waiting, verdicts, live = in_time(bars, np.random.default_rng(seed)), [], live_of(judge)
    warm = waiting[: seed % 60]
    ended = [bar["timestamp"] for bar in waiting[len(warm) : len(warm) + 1]]  # a moment is warmed whole
    while warm and ended and warm[-1]["timestamp"] == ended[0]:
        warm.pop()
    live.warm(warm)
    done, turn = len(warm), 0
    while done < len(waiting):
        size = sizes[turn % len(sizes)]
        part = waiting[done : done + size]
        verdicts += [live.push(part[0])] if size == 1 else live.push_many(part)
        done, turn = done + size, turn + 1
    said = {(one.asset, one.timestamp) for one in verdicts}
    rest = [(asset, time) in said for asset, time in scored.select("asset", "timestamp").iter_rows()]
    assert_same(verdicts, scored.filter(pl.Series(rest)), rtol=1e-5)
