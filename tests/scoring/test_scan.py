"""Long tables in pieces give what they give at once; what the model cannot judge is refused with the difference."""

import re

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from refold.errors import DataError
from refold.scoring.detector import Detector
from refold.scoring.scan import in_order, refuse_unlike, scan, scan_parts
from refold.scoring.scores import GaussDynamic, GaussDynamicKernel, Mahalanobis
from refold.scoring.thresholds import Quantile, StreamingPeaks
from tests.data.makers import checks, random_bars, ready, with_value
from tests.scoring.test_detector import detector, parts, small_autoencoder

KERNEL = GaussDynamicKernel(memory=10, floor=1e-6, width=1.0, centred=True)


def fitted(bars: pl.DataFrame, *, score=None, threshold=None, alignment="mean", **settings) -> Detector:
    data = ready(bars, **settings)
    judge = detector(
        data, autoencoder=small_autoencoder(data.num_features), score=score or Mahalanobis(),
        threshold=threshold or Quantile(share=0.9), alignment=alignment,
    )  # fmt: skip
    return judge.fit(*parts(bars))


def whole_table(judge: Detector, bars: pl.DataFrame, piece: int = 10**9) -> pl.DataFrame:
    return pl.concat(list(scan(judge, in_order(judge, bars), piece=piece)))


MASKED = {"checks": checks(missing_value="mask", gap="mask"), "max_masked": 3}


@pytest.mark.parametrize("piece", [37, 150])
@pytest.mark.parametrize(
    ("score", "threshold", "alignment", "settings"),
    [
        (Mahalanobis(), Quantile(share=0.9), "mean", {}),
        (Mahalanobis(), StreamingPeaks(risk=0.05, start=0.7), "last", MASKED),
        (GaussDynamic(memory=10, floor=1e-6), StreamingPeaks(risk=0.05, start=0.7), "median", MASKED),
        (KERNEL, Quantile(share=0.9), "max", {"features": ["log_return", "relative_volume_20"]}),
        (Mahalanobis(), Quantile(share=0.9), "mean", {"checks": checks(calendar=None, missing_value="drop")}),
    ],
)
def test_pieces_give_what_the_whole_table_gives(score, threshold, alignment, settings, piece):
    judge = fitted(random_bars([300]), score=score, threshold=threshold, alignment=alignment, **settings)
    bars = random_bars([260, 180, 230], seed=5)
    if settings:
        bars = with_value(bars, [40, 41, 255, 300, 301, 302, 500], "close", None) if "checks" in settings else bars
    if settings is MASKED:
        bars = bars.filter(~pl.int_range(pl.len()).is_in([100, 270, 271]))
    once, cut = whole_table(judge, bars), whole_table(judge, bars, piece)
    assert_frame_equal(once, cut, rel_tol=1e-4, abs_tol=1e-5)
    assert once["score"].count() > 500
    assert once["verdict"].any()
    assert once.height == bars.height
    np.testing.assert_allclose(once["score"].to_numpy(), judge.score(bars), rtol=1e-6)


def test_the_columns_are_those_agreed():
    bars = random_bars([300])
    table = whole_table(fitted(bars), bars)
    shares = ["contribution/log_return", "contribution/parkinson_range"]
    assert table.columns == [
        "timestamp", "asset", "score", "threshold", "verdict", "close", "reconstructed_close", *shares, "kind", "place"
    ]  # fmt: skip
    first = table[0]  # no return yet
    assert first["score"][0] is None
    assert not first["verdict"][0]
    scored = table.drop_nulls("score")
    np.testing.assert_allclose(scored.select(pl.sum_horizontal(shares)).to_series(), scored["score"], rtol=1e-4)
    assert (scored["verdict"] == (scored["score"] > scored["threshold"])).all()
    ratio = (scored["reconstructed_close"] / scored["close"]).log()
    assert ratio.abs().max() < 0.2  # a bar's own return, and not those of the window added up


def test_the_reconstructed_close_is_the_last_true_one_times_the_reconstructed_return():
    bars = random_bars([300])
    judge = detector(ready(bars, features=["log_return"]))  # reconstructs the training mean
    judge.fit(*parts(bars))
    table = whole_table(judge, bars).with_columns(pl.col("close").shift(1).alias("before")).drop_nulls()
    expected = table["before"] * np.exp(judge.scaler.mean.item())
    np.testing.assert_allclose(table["reconstructed_close"], expected, rtol=1e-6)


def test_parts_are_scored_with_windows_of_their_own():
    bars = random_bars([300, 250])
    data = ready(bars)
    judge = detector(data, autoencoder=small_autoencoder(), score=Mahalanobis())
    series = data.train_windows.series
    judge.fit_series((series, data.segments("train")), (series, data.segments("val")))
    segments = {part: data.segments(part) for part in ("val", "test")}
    val, test = scan_parts(judge, bars, segments)
    assert (val["part"].unique().item(), test["part"].unique().item()) == ("val", "test")
    assert val["score"].null_count() == test["score"].null_count() == 0
    assert val.height == segments["val"][:, 1].sum()
    known = judge.score_series(series, segments["val"]).score
    np.testing.assert_allclose(val["score"], known[np.isfinite(known)])
    assert val["verdict"].mean() == pytest.approx(0.01, abs=0.01)


def test_rows_out_of_order_are_sorted_or_refused_as_the_checks_say():
    bars = random_bars([300])
    judge = fitted(bars)
    assert in_order(judge, bars.reverse()).equals(bars)
    judge = fitted(bars, checks=checks(out_of_order="error"))
    with pytest.raises(DataError, match="its bars must rise in time"):
        in_order(judge, bars.reverse())


PANEL = {"layout": "panel"}


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({}, lambda b: b.drop("high", "low"), "NEW has the columns open, close, volume; the run's features log_return, "
         "parkinson_range are made of close, high, low: missing high, low"),
        ({}, lambda b: b.head(5), "NEW has at most 5 bars of an asset; a window of data.window_size = 8 bars needs 9"),
        ({}, lambda b: b.with_columns(timestamp=pl.col("timestamp").cast(pl.Datetime("us")) - pl.duration(
            hours=23) * pl.int_range(pl.len()).over("asset")), "NEW has a bar every 1 hours; the run was trained on "
         "one every 1 days"),
        ({}, lambda b: b.with_columns(close=pl.when(pl.col("asset") == "B").then(7.5).otherwise("close")),
         "NEW: B has the close 7.5 in all of its 300 bars; a constant series cannot be judged"),
        (PANEL, lambda b: b.with_columns(pl.col("asset").replace("B", "X")),
         "NEW does not have the 2 assets of the run's panel: missing B; unknown X"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused_with_the_difference(settings, change, message):
    bars = random_bars([300, 300])
    judge = fitted(bars, **settings)
    refuse_unlike(judge, bars, "NEW")
    with pytest.raises(DataError, match=re.escape(message)):
        refuse_unlike(judge, change(bars), "NEW")


def test_levels_relative_to_the_window_lead_back_to_prices():
    bars = random_bars([300])
    judge = detector(ready(bars, features=["window_log_price"]), alignment="last")  # every bar as the window's first
    judge.fit(*parts(bars))
    table = whole_table(judge, bars)
    expected = table["close"].shift(7)[7:]
    np.testing.assert_allclose(table["reconstructed_close"][7:], expected, rtol=1e-4)
