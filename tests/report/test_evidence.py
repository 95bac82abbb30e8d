"""What the page shows beside scores is what the model makes of the windows that it names."""

from datetime import date

import numpy as np
import polars as pl
import pytest
import torch

from refold.data import Windows
from refold.data.long.ordered import read_sorted
from refold.data.unsplit import unsplit_series
from refold.report import evidence
from refold.report.evidence import Evidence, Sample, examples, gather, middle_window, remarkable, with_scores
from refold.scoring.detector import Detector
from refold.scoring.scan import scan, scan_parts
from tests.data.makers import checks, random_bars, ready
from tests.scoring.test_detector import detector, small_autoencoder

T = 8


def judge_and_windows(bars: pl.DataFrame, part: str = "test", **others) -> tuple:
    data = ready(bars, **others)
    judge = detector(data, autoencoder=small_autoencoder(data.num_features))
    return judge, Windows(data.train_windows.series, data.segments(part), window_size=T, stride=1)


def seen(judge, bars: pl.DataFrame, piece: int = 10**9) -> tuple[Sample, Evidence]:
    """What is collected while bars are scored, and all evidence of them."""
    table, sample = read_sorted([bars], judge.recipe.checks), Sample(judge)
    scores = pl.concat(scan(judge, table, piece=piece, watch=sample.of_piece("these bars", table.rows)))
    return sample, gather(judge, sample, table, scores.lazy())


def test_a_sample_measures_codes_and_errors_of_every_window_where_they_are_few():
    bars = random_bars([400, 380])
    judge = judged(bars)
    found = seen(judge, bars)[0]
    made = unsplit_series(bars, judge.recipe, judge.scaler)
    windows = Windows(made.series, made.segments, window_size=T, stride=1)
    everything = np.arange(len(windows))
    truth = windows.gather(everything)
    with torch.no_grad():
        codes = judge.autoencoder.encode(truth)
        errors = (judge.autoencoder(truth) - truth).square().mean((0, 1))
    latents = found.latents()
    assert latents.columns == ["timestamp", "asset", "z0", "z1", "z2"]
    np.testing.assert_allclose(latents.select("z0", "z1", "z2"), codes, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(latents["timestamp"].to_numpy(), windows.timestamps(everything)[:, -1])
    assert latents["asset"].to_list() == windows.assets(everything)
    expected = dict(zip(judge.features, errors.tolist(), strict=True))
    assert found.feature_errors()["these bars"] == pytest.approx(expected, rel=1e-5)


def test_absent_bars_have_no_error():
    bars = random_bars([400, 150])
    settings = {"checks": checks(gap="mask"), "max_masked": 3, "features": ["intraday_return"]}
    judge = judged(bars, **settings)
    holes = bars.with_row_index().filter(~pl.col("index").is_in([340, 341])).drop("index")
    made = unsplit_series(holes, judge.recipe, judge.scaler)
    windows = Windows(made.series, made.segments, window_size=T, stride=1)
    last = windows.starts(np.arange(len(windows))) + T - 1
    number = np.flatnonzero(made.origin[last, 0] >= 0)  # a window that ends at an absent bar is not shown
    mask, truth = windows.mask(number), windows.gather(number)
    assert not mask.all()
    with torch.no_grad():
        errors = (judge.autoencoder(truth, mask) - truth)[mask].square().mean()
    found = seen(judge, holes)[0].feature_errors()["these bars"]["intraday_return"]
    assert found == pytest.approx(errors.item(), rel=1e-5)


def test_the_model_sees_each_window_once_and_those_to_look_at_once_more(monkeypatch):
    bars = random_bars([400, 380])
    judge = judged(bars)
    windows: list[int] = []
    encode = judge.autoencoder.encode
    monkeypatch.setattr(judge.autoencoder, "encode", lambda batch, mask: windows.append(len(batch)) or encode(batch))
    found = seen(judge, bars)[1]
    assert sum(windows) == found.latents.height + len(found.windows)
    assert len(found.windows) == 4


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
    assert middle_window(windows, first - 1) is None
    for row in range(first, first + count):
        rows = windows.rows(np.array([middle_window(windows, row)]))[0]
        assert row in rows
        if first + T <= row < first + count - T:
            assert rows[T // 2] == row
    assert middle_window(windows, len(windows.series.times)) is None


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


def judged(bars: pl.DataFrame, **others) -> Detector:
    """A detector that is fitted to these bars."""
    data = ready(bars, **others)
    judge = detector(data, autoencoder=small_autoencoder(data.num_features))
    days = bars["timestamp"].unique().sort()
    return judge.fit(bars.filter(pl.col("timestamp") < days[200]), bars.filter(pl.col("timestamp") >= days[200]))


@pytest.mark.slow
def test_a_long_table_is_sampled_and_shows_the_same_windows(monkeypatch):
    bars = random_bars([400, 380])
    judge = judged(bars)
    at_once = seen(judge, bars)[1]
    assert {name: len(errors) for name, errors in at_once.feature_errors.items()} == {"these bars": 2}
    assert at_once.latents.height == 400 + 380 - 2 - 2 * (T - 1)  # a look-back of 2 bars takes one of each asset
    assert at_once.latents["score"].is_not_null().all()
    monkeypatch.setattr(evidence, "MOST_WINDOWS", 300)
    cut = seen(judge, bars, piece=100)[1]
    assert 200 < cut.latents.height <= 300
    assert cut.latents.join(at_once.latents, on=["asset", "timestamp"], how="anti").height == 0
    assert cut.latents.sort("asset", "timestamp").equals(cut.latents)
    assert len(cut.windows) == len(at_once.windows) == 4
    for one, other in zip(cut.windows, at_once.windows, strict=True):
        assert (one.asset, one.label) == (other.asset, other.label)
        np.testing.assert_array_equal(one.timestamps, other.timestamps)
        np.testing.assert_allclose(one.truth, other.truth, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(one.reconstruction, other.reconstruction, rtol=1e-4, atol=1e-6)


def test_parts_are_measured_apart_and_a_part_without_windows_is_left_out():
    bars = random_bars([400])
    judge, data = judged(bars), ready(bars)
    sample = Sample(judge)
    parts = {"val": data.segments("val"), "test": data.segments("test")[:0]}
    scores = pl.concat(scan_parts(judge, bars, parts, watch=sample.of_part))
    found = gather(judge, sample, None, scores.lazy())
    assert list(found.feature_errors) == ["val"]
    windows = Windows(data.train_windows.series, parts["val"], window_size=T, stride=1)
    assert found.latents.height == len(windows)
