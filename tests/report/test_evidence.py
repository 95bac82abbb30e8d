"""What the page shows beside scores is what the model makes of the windows that it names."""

from datetime import date

import numpy as np
import polars as pl
import pytest
import torch

from refold.data import Windows
from refold.data.long.ordered import read_sorted
from refold.report import evidence
from refold.report.evidence import around, examples, of_bars, of_parts, remarkable, sample, with_scores
from refold.scoring import scan as scanning
from refold.scoring.scan import scan
from tests.data.makers import checks, random_bars, ready
from tests.scoring.test_detector import detector, small_autoencoder

T = 8


def judge_and_windows(bars: pl.DataFrame, part: str = "test", **others) -> tuple:
    data = ready(bars, **others)
    judge = detector(data, autoencoder=small_autoencoder(data.num_features))
    return judge, Windows(data.train_windows.series, data.segments(part), window_size=T, stride=1)


def test_a_sample_measures_codes_and_errors_of_every_window_where_they_are_few():
    judge, windows = judge_and_windows(random_bars([120, 100]))
    everything = np.arange(len(windows))
    truth = windows.gather(everything)
    with torch.no_grad():
        codes = judge.autoencoder.encode(truth)
        errors = (judge.autoencoder(truth) - truth).square().mean((0, 1))
    latents, feature_errors = sample(judge, [windows])
    assert latents.columns == ["timestamp", "asset", "z0", "z1", "z2"]
    np.testing.assert_allclose(latents.select("z0", "z1", "z2"), codes, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(latents["timestamp"].to_numpy(), windows.timestamps(everything)[:, -1])
    assert latents["asset"].to_list() == windows.assets(everything)
    assert feature_errors == pytest.approx(dict(zip(judge.features, errors.tolist(), strict=True)), rel=1e-5)


def test_absent_bars_have_no_error():
    bars = random_bars([150, 150]).with_row_index().filter(~pl.col("index").is_in([140, 141])).drop("index")
    judge, windows = judge_and_windows(bars, checks=checks(gap="mask"), max_masked=3, features=["intraday_return"])
    mask = windows.mask(np.arange(len(windows)))
    assert not mask.all()
    truth = windows.gather(np.arange(len(windows)))
    with torch.no_grad():
        errors = (judge.autoencoder(truth, mask) - truth)[mask].square().mean()
    assert sample(judge, [windows])[1]["intraday_return"] == pytest.approx(errors.item(), rel=1e-5)


def test_each_code_gets_the_score_of_its_last_bar():
    latents = pl.DataFrame({"timestamp": [1, 2, 2], "asset": ["A", "A", "B"], "z0": [0.0, 1.0, 2.0]})
    scores = pl.LazyFrame({"timestamp": [2, 1, 2], "asset": ["A", "A", "C"], "score": [5.0, 4.0, 9.0]})
    assert with_scores(latents, scores, panel=False)["score"].to_list() == [4.0, 5.0, None]
    panel = latents.with_columns(asset=pl.lit("panel"))
    assert with_scores(panel, scores, panel=True)["score"].to_list() == [4.0, 9.0, 9.0]


def test_the_highest_and_the_median_score_of_each_asset_are_worth_a_look():
    scores = pl.LazyFrame(
        {
            "timestamp": [1, 2, 3, 1, 2, 3],
            "asset": ["A", "A", "A", "B", "B", "B"],
            "score": [1.0, 2.0, 3.0, None, 7.0, 6.5],
        }
    )
    found = remarkable(scores)
    assert found.select("asset", "label", "timestamp").rows() == [
        ("B", "highest score", 2),
        ("B", "median score", 2),
        ("A", "highest score", 3),
        ("A", "median score", 2),
    ]


def test_a_window_around_a_bar_holds_it_near_its_middle():
    _, windows = judge_and_windows(random_bars([120, 100]))
    first, count = int(windows.first_rows[0]), int(windows.offsets[1]) + T - 1
    assert around(windows, first - 1) is None
    for row in range(first, first + count):
        rows = windows.rows(np.array([around(windows, row)]))[0]
        assert row in rows
        if first + T <= row < first + count - T:
            assert rows[T // 2] == row
    assert around(windows, len(windows.series.times)) is None


@pytest.mark.parametrize("layout", ["per_asset", "panel"])
def test_examples_are_in_the_units_of_the_features(layout):
    bars = random_bars([120, 120])
    judge, windows = judge_and_windows(bars, layout=layout)
    day = windows.timestamps(np.array([5]))[0, 3].item()
    asked = pl.DataFrame({"asset": ["B", "B"], "timestamp": [day, date(1990, 1, 1)], "label": ["a", "b"]})
    (example,) = examples(judge, [windows], asked)
    assert (example.asset, example.label) == ("B", "a")
    assert day in example.timestamps
    own = bars.filter(pl.col("asset") == "B").with_columns(
        log_return=(pl.col("close") / pl.col("close").shift(1)).log(), moment=pl.col("timestamp")
    )
    expected = own.filter(pl.col("moment").is_in(example.timestamps.astype("datetime64[D]").tolist()))["log_return"]
    np.testing.assert_allclose(example.truth[:, 0], expected, rtol=1e-4, atol=1e-7)
    assert example.reconstruction.shape == (T, 2)
    assert np.isfinite(example.reconstruction).all()


def judged(bars: pl.DataFrame, **others) -> tuple:
    """A detector, the bars in order, and their scores."""
    data = ready(bars, **others)
    judge = detector(data, autoencoder=small_autoencoder(data.num_features))
    days = bars["timestamp"].unique().sort()
    judge.fit(bars.filter(pl.col("timestamp") < days[200]), bars.filter(pl.col("timestamp") >= days[200]))
    table = read_sorted([bars], judge.recipe.checks)
    return judge, table, pl.concat(scan(judge, table)).lazy()


def test_a_long_table_is_looked_at_in_slices_and_shows_the_same_windows(monkeypatch):
    judge, bars, scores = judged(random_bars([400, 380]))
    at_once = of_bars(judge, bars, scores, "these bars")
    assert {name: len(errors) for name, errors in at_once.feature_errors.items()} == {"these bars": 2}
    assert at_once.latents.height == 400 + 380 - 2 - 2 * (T - 1)  # a look-back of 2 bars takes one of each asset
    assert at_once.latents["score"].is_not_null().all()
    for where in (evidence, scanning):
        monkeypatch.setattr(where, "SLICES", 4)
        monkeypatch.setattr(where, "SLICE", 100)
    sliced = of_bars(judge, bars, scores, "these bars")
    assert 200 < sliced.latents.height < 400
    assert sliced.latents.join(at_once.latents, on=["asset", "timestamp"], how="anti").height == 0
    assert len(sliced.windows) == len(at_once.windows) == 4
    for one, other in zip(sliced.windows, at_once.windows, strict=True):
        assert (one.asset, one.label) == (other.asset, other.label)
        np.testing.assert_array_equal(one.timestamps, other.timestamps)
        np.testing.assert_allclose(one.truth, other.truth, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(one.reconstruction, other.reconstruction, rtol=1e-4, atol=1e-6)


def test_parts_are_measured_apart_and_a_part_without_windows_is_left_out():
    bars = random_bars([400])
    judge, _, scores = judged(bars)
    data = ready(bars)
    parts = {
        name: Windows(data.train_windows.series, runs, window_size=T, stride=1)
        for name, runs in (("validation", data.segments("val")), ("test", data.segments("test")[:0]))
    }
    found = of_parts(judge, parts, scores)
    assert list(found.feature_errors) == ["validation"]
    assert found.latents.height == len(parts["validation"])
