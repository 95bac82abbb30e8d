"""Alarms of several thresholds: counted over pieces as over the whole, and fitted to validation alone."""

import math
from datetime import date

import numpy as np
import polars as pl
import pytest
import torch

from refold.scoring import alarms
from refold.scoring.alarms import AlarmRates, Alarms, covered
from refold.scoring.scored import alarm_rate, alarm_words, count_rates
from refold.scoring.scores import Mahalanobis
from refold.scoring.thresholds import (
    MeanStd,
    PeaksOverThreshold,
    Quantile,
    StreamingPeaks,
    count_alarms,
    per_asset_year,
)
from tests.data.lookalikes import new_york, walk
from tests.data.makers import random_bars, ready
from tests.scoring.test_detector import detector, small_autoencoder


def scored(count: int = 600, seed: int = 0) -> pl.DataFrame:
    """Scores of assets A and B, a tenth of them unknown."""
    generator = np.random.default_rng(seed)
    score = np.where(generator.random(count) < 0.1, np.nan, generator.gamma(1, 1, count))
    score[count // 2 - 3 : count // 2 + 2] = 50.0  # the end of A and the beginning of B
    assets = ["A"] * (count // 2) + ["B"] * (count - count // 2)
    return (
        pl.DataFrame({"asset": assets, "score": score})
        .with_row_index("place")
        .with_columns(pl.col("score").fill_nan(None))
    )


@pytest.mark.parametrize("rows", [1, 17, 1000])
@pytest.mark.parametrize(
    "threshold", [Quantile(share=0.9, per_asset=False), StreamingPeaks(risk=0.01, start=0.8, per_asset=False)]
)
def test_alarms_of_pieces_are_those_of_the_whole(threshold, rows):
    threshold.fit(np.random.default_rng(1).gamma(1, 1, 500))
    table = scored()
    count = Alarms(threshold, table.height)
    for start in range(0, table.height, rows):
        count.add(table[start : start + rows])
    score, asset = table["score"].to_numpy(), table["asset"].rle_id().to_numpy()
    levels = np.concatenate([threshold.levels(score[asset == n], None)[0] for n in (0, 1)])
    with np.errstate(invalid="ignore"):
        expected = count_alarms(score > levels, asset)
    assert count.alarms == expected > 2
    assert count.bars == np.isfinite(score).sum()


def test_rows_that_are_not_neighbours_are_not_one_alarm():
    threshold = Quantile(share=0.5, per_asset=False)
    threshold.fit(np.arange(10.0))
    count = Alarms(threshold, 4)
    count.add(pl.DataFrame({"asset": ["A"] * 4, "score": [9.0] * 4, "place": [1, 2, 4, 5]}))
    assert count.alarms == 2
    count.add(pl.DataFrame({"asset": ["A"], "score": [9.0], "place": [6]}))
    assert count.alarms == 2


def test_one_that_learns_is_counted_on_a_share_of_a_long_table(monkeypatch):
    monkeypatch.setattr(alarms, "MOST_LEARNT", 100)
    table = scored().fill_null(0.5)
    for threshold, bars in (
        (StreamingPeaks(risk=0.01, start=0.8, per_asset=False), 100),
        (Quantile(share=0.9, per_asset=False), 600),
    ):
        threshold.fit(np.random.default_rng(1).gamma(1, 1, 500))
        count = Alarms(threshold, table.height)
        for start in range(0, table.height, 60):
            count.add(table[start : start + 60])
        assert count.bars == bars


def test_the_rate_of_the_detectors_own_threshold_is_the_one_it_was_saved_with():
    bars = random_bars([300, 280])
    data = ready(bars)
    judge = detector(
        data, autoencoder=small_autoencoder(), score=Mahalanobis(), threshold=Quantile(share=0.9, per_asset=False)
    )
    series = data.train_windows.series
    judge.fit_series(*((series, data.segments(part)) for part in ("train", "val")))
    others = {
        "same": Quantile(share=0.9, per_asset=False),
        "wider": Quantile(share=0.95, per_asset=False),
        "deviations": MeanStd(deviations=2.0, per_asset=False),
    }
    compared = AlarmRates(
        {**others, "too few": PeaksOverThreshold(risk=1e-3, start=0.98, per_asset=False)}, judge.validation, 0
    )
    rates = compared.rates(2, 1, 1.0, "test")
    assert list(rates) == list(others)  # a tail of two scores is none
    assert rates["same"]["validation"] == judge.validation["alarms_per_asset_year"]
    assert rates["same"]["level"] == judge.validation["level"]
    assert 0 < rates["wider"]["validation"] < rates["same"]["validation"]
    again = torch.load(_saved(judge.validation), weights_only=True)
    assert AlarmRates({"same": Quantile(share=0.9, per_asset=False)}, again, 0).rates(2, 1, 1.0, "test")[
        "same"
    ] == pytest.approx(rates["same"], nan_ok=True)


def _saved(value):
    from io import BytesIO

    file = BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


def test_other_bars_are_counted_beside_validation_and_change_nothing_of_it():
    validation = {
        "scores": torch.from_numpy(np.random.default_rng(0).gamma(1, 1, 400)),
        "asset": torch.zeros(400, dtype=torch.int32), "moments": 400, "span_seconds": 399 * 86400.0,
        "asset_names": ["A"], "days": 400, "bar_seconds": 86400.0,
    }  # fmt: skip
    compared = AlarmRates({"q": Quantile(share=0.99, per_asset=False)}, validation, 600)
    before = compared.rates(2, 1, 1.0, "here")["q"]
    compared.add(scored())
    after = compared.rates(300, 300, 299 * 86400.0, "here")["q"]
    assert (before["level"], before["validation"]) == (after["level"], after["validation"])
    count = compared.counts["q"]
    assert after["here"] == per_asset_year(count.alarms, count.bars, 300, 299 * 86400.0) > 0


def test_what_is_covered_does_not_depend_on_the_stretches(monkeypatch):
    bars = random_bars([200, 150])
    data = ready(bars)
    judge = detector(data)
    found = judge.score_series(data.val_windows.series, data.segments("val"))
    scores = pl.LazyFrame({"timestamp": pl.Series(found.times).cast(pl.Int32).cast(pl.Date), "score": found.score})
    scores = scores.with_columns(pl.col("score").fill_nan(None))
    once = covered(scores)
    monkeypatch.setattr(alarms, "MOMENTS", 7)
    assert covered(scores) == once
    flags = np.zeros(len(found.score), dtype=bool)
    flags[np.flatnonzero(np.isfinite(found.score))[5]] = True
    assert per_asset_year(1, *once) == alarm_rate(flags, found, pl.Date).per_asset_year
    assert covered(scores.filter(pl.col("score") < -1)) == (0, 0, 0.0)


def test_alarms_are_counted_per_asset_and_day_and_as_a_share():
    """Two assets with 78 bars on each of 10 days: 1,560 bars of 20 days of one asset."""
    found = count_rates(alarms=5, flagged=12, bars=1560, moments=780, days=10, span=9.27 * 86400)
    assert found.per_asset_day == pytest.approx(5 / 20)
    assert found.flagged_share == pytest.approx(12 / 1560)
    assert found.per_asset_year == per_asset_year(5, 1560, 780, 9.27 * 86400)
    facts = found.named("val/")
    assert alarm_words(facts, 300.0, "val/") == "0.25 alarms per asset and day (0.77 % of bars flagged)"
    assert "alarms per asset and year (0.77 % of bars flagged)" in alarm_words(facts, 86400.0, "val/")
    assert math.isnan(count_rates(0, 0, 0, 0, 0, 0.0).flagged_share)


def test_of_bars_within_the_day_all_thresholds_are_told_per_asset_and_day():
    data = ready(walk(new_york(date(2024, 1, 2), date(2024, 2, 10))))
    judge = detector(data)
    series = data.train_windows.series
    judge.fit_series(*((series, data.segments(part)) for part in ("train", "val")))
    compared = AlarmRates({"same": judge.threshold}, judge.validation, 0)
    assert compared.unit == "day"
    own = judge.validation["alarms_per_asset_day"]
    assert compared.rates(2, 1, 1.0, "test")["same"]["validation"] == own
    assert own < judge.validation["alarms_per_asset_year"] / 100
