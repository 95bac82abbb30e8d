"""Long tables in pieces give what they give at once; what the model cannot judge is refused with the difference."""

import logging
import re
from copy import copy
from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
from conftest import slow_but
from polars.testing import assert_frame_equal

from refold.data import Scaler
from refold.data.bars.findings import merge
from refold.data.long.ordered import OrderedBars, read_sorted
from refold.data.sources import csv as csv_files
from refold.data.sources import files as reading
from refold.data.sources.source import batches_of
from refold.data.unsplit import unsplit_series
from refold.errors import DataError
from refold.scoring.detector import Detector
from refold.scoring.scan import scan, scan_parts
from refold.scoring.scores import GaussDynamic, GaussDynamicKernel, Mahalanobis
from refold.scoring.thresholds import Quantile, StreamingPeaks
from refold.scoring.unlike import refuse_unlike, warn_of_unknown
from tests.data.lookalikes import new_york, walk, without
from tests.data.makers import checks, random_bars, ready, with_value
from tests.data.test_pieces import written
from tests.scoring.test_detector import detector, parts, small_autoencoder

KERNEL = GaussDynamicKernel(memory=10, floor=1e-6, width=1.0, centred=True)


def fitted(bars: pl.DataFrame, *, score=None, threshold=None, alignment="mean", **settings) -> Detector:
    data = ready(bars, **settings)
    judge = detector(
        data, autoencoder=small_autoencoder(data.num_features), score=score or Mahalanobis(),
        threshold=threshold or Quantile(share=0.9, per_asset=False), alignment=alignment,
    )  # fmt: skip
    return judge.fit(*parts(bars))


def ordered(judge: Detector, bars: pl.DataFrame) -> OrderedBars:
    return read_sorted([bars], judge.recipe.checks)


def whole_table(judge: Detector, bars: pl.DataFrame, piece: int = 10**9) -> pl.DataFrame:
    return pl.concat(list(scan(judge, ordered(judge, bars), piece=piece)))


MASKED = {"checks": checks(missing_value="mask", gap="mask"), "max_masked": 3}


@pytest.mark.slow
@pytest.mark.parametrize("piece", [37, 150])
@pytest.mark.parametrize(
    ("score", "threshold", "alignment", "settings"),
    [
        (Mahalanobis(), Quantile(share=0.9, per_asset=False), "mean", {}),
        (Mahalanobis(), StreamingPeaks(risk=0.05, start=0.7, per_asset=False), "last", MASKED),
        (GaussDynamic(memory=10, floor=1e-6), StreamingPeaks(risk=0.05, start=0.7, per_asset=False), "median", MASKED),
        (KERNEL, Quantile(share=0.9, per_asset=False), "max", {"features": ["log_return", "relative_volume_20"]}),
        (
            Mahalanobis(),
            Quantile(share=0.9, per_asset=False),
            "mean",
            {"checks": checks(calendar=None, missing_value="drop")},
        ),
        (Mahalanobis(), Quantile(share=0.9, per_asset=True), "last", {"scale": "per_asset"}),
        (Mahalanobis(), StreamingPeaks(risk=0.05, start=0.7, per_asset=True), "mean", {"scale": "trailing"}),
    ],
)
def test_pieces_give_what_the_whole_table_gives(score, threshold, alignment, settings, piece):
    train = [900, 900] if "scale" in settings else [300]
    judge = fitted(random_bars(train), score=score, threshold=threshold, alignment=alignment, **settings)
    bars = random_bars([260, 180, 230], seed=5)
    if settings:
        bars = with_value(bars, [40, 41, 255, 300, 301, 302, 500], "close", None) if "checks" in settings else bars
    if settings is MASKED:
        bars = bars.filter(~pl.int_range(pl.len()).is_in([100, 270, 271]))
    once, cut = whole_table(judge, bars), whole_table(judge, bars, piece)
    assert_frame_equal(once, cut, rel_tol=1e-4, abs_tol=1e-5)
    assert once["score"].count() > 500
    assert once["verdict"].any()
    assert set(judge.threshold.own) == ({"A", "B"} if "scale" in settings else set())
    assert once["rarity"].drop_nulls().is_between(0, 1, closed="right").all()
    assert once["rarity"].count() == once["score"].count()
    assert once.height == bars.height
    np.testing.assert_allclose(once["score"].to_numpy(), judge.score(bars), rtol=1e-6)


def test_the_columns_are_those_agreed():
    bars = random_bars([300])
    table = whole_table(fitted(bars), bars)
    shares = ["contribution/log_return", "contribution/parkinson_range"]
    assert table.columns == [
        "timestamp", "asset", "score", "threshold", "verdict", "reason", "rarity", "close", "reconstructed_close",
        *shares,
        "kind", "guess", "place",
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


SPOILT = {"stale_run": "warn", "missing_value": "warn", "duplicate": "warn", "feature_not_finite": "mask"}


@pytest.mark.slow
@pytest.mark.parametrize("piece", slow_but([150], [37, 150]))
@pytest.mark.parametrize(
    "policies", [SPOILT, SPOILT | {"gap": "mask", "missing_value": "mask"}, {**SPOILT, "duplicate": "drop"}]
)
def test_the_findings_of_pieces_are_those_of_the_whole_table(policies, piece):
    judge = fitted(random_bars([300]), checks=checks(**SPOILT | policies), max_masked=3)
    bars = random_bars([260, 180, 230, 7], seed=5)
    bars = with_value(bars, [*range(60, 90), 255, 300, 301, 302, 500], "close", 50.0)  # stale over borders of pieces
    bars = with_value(with_value(bars, [20, 111], "close", None), [400], "high", 0.0)  # no range: not finite
    bars = with_value(bars, [75], "low", None)
    bars = bars.with_columns(split=pl.int_range(pl.len()).is_between(450, 460)).with_columns(
        pl.when("split").then(pl.col(name) / 2).otherwise(name).alias(name) for name in ("open", "high", "low", "close")
    )
    bars = pl.concat([bars.drop("split"), bars.drop("split")[[5, 36, 37, 290]]])  # duplicates, out of order
    bars = bars.filter(~pl.int_range(pl.len()).is_in([36, 37, 38, 73, 74, 75, 148, 149, 150, 151]))
    judge.recipe.checks.policies |= {"non_positive": "warn", "broken_bar": "warn"}
    table = ordered(judge, bars)
    found: list[pl.DataFrame] = [table.findings]
    scored = pl.concat(scan(judge, table, piece=piece, findings=found.append))
    expected = unsplit_series(bars, judge.recipe, judge.scaler).findings
    assert len(found) > 2
    assert {"out_of_order", "duplicate", "stale_run", "split_like", "gap"} <= set(expected["check"])
    assert_frame_equal(merge(found), expected)
    assert_frame_equal(scored.drop("place"), whole_table(judge, bars).drop("place"), rel_tol=1e-4, abs_tol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rows", slow_but([700], [50, 700]))
@pytest.mark.parametrize("order", [["asset", "timestamp"], ["timestamp", "asset"]])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_on_disk_in_any_order_has_the_scores_of_its_table(tmp_path, monkeypatch, kind, order, rows):
    monkeypatch.setattr(reading, "ROWS", rows)
    monkeypatch.setattr(csv_files, "BLOCK", 80 * rows)
    judge = fitted(random_bars([300]))
    bars = random_bars([260, 180, 230], seed=5)
    source = written(bars.sort(order), kind, tmp_path)
    (tmp_path / "work").mkdir()
    table = read_sorted(batches_of(source), judge.recipe.checks, tmp_path / "work")
    assert table.slice(0, table.rows).equals(source.load().sort("asset", "timestamp"))
    cut = pl.concat(scan(judge, table, piece=100))
    assert_frame_equal(cut, whole_table(judge, bars), rel_tol=1e-4, abs_tol=1e-5)


@pytest.mark.slow
def test_what_all_assets_did_is_known_to_each_piece():
    """All assets halve on one day: no asset alone can tell that from a split."""
    bars = random_bars([200, 200, 200]).with_columns(volume=pl.lit(1e6))
    bars = bars.with_columns(open=pl.col("close").shift(1).over("asset").fill_null(pl.col("open")))
    bars = bars.with_columns(high=pl.max_horizontal("high", "open"), low=pl.min_horizontal("low", "open"))
    halved = [pl.when(pl.col("timestamp") >= bars["timestamp"][150]).then(pl.col(n) / 2).otherwise(n).alias(n)
              for n in ("open", "high", "low", "close")]  # fmt: skip
    judge = fitted(random_bars([300]))
    assert "split" not in set(whole_table(judge, bars.with_columns(halved), piece=50)["kind"])
    alone = bars.with_columns(halved).filter(asset="A")
    assert "split" in set(whole_table(judge, alone, piece=50)["kind"])


def test_an_asset_of_one_bar_has_no_score_and_stops_nothing():
    judge = fitted(random_bars([300]))
    table = whole_table(judge, random_bars([200, 1, 180]), piece=150)
    assert table.filter(asset="B").select("score", "verdict").row(0) == (None, False)
    assert table.filter(asset="C")["score"].count() > 150


def test_rows_out_of_order_are_sorted_or_refused_as_the_checks_say():
    bars = random_bars([300])
    judge = fitted(bars)
    assert ordered(judge, bars.reverse()).slice(0, 300).equals(bars)
    judge = fitted(bars, checks=checks(out_of_order="error"))
    with pytest.raises(DataError, match="its bars must rise in time"):
        ordered(judge, bars.reverse())


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
    refuse_unlike(judge, ordered(judge, bars), "NEW")
    with pytest.raises(DataError, match=re.escape(message)):
        refuse_unlike(judge, ordered(judge, change(bars)), "NEW")


def test_levels_relative_to_the_window_lead_back_to_prices():
    bars = random_bars([300])
    judge = detector(ready(bars, features=["window_log_price"]), alignment="last")  # every bar as the window's first
    judge.fit(*parts(bars))
    table = whole_table(judge, bars)
    expected = table["close"].shift(7)[7:]
    np.testing.assert_allclose(table["reconstructed_close"][7:], expected, rtol=1e-4)


def test_assets_that_the_run_does_not_know_are_named(caplog):
    judge = fitted(random_bars([300, 300]), scale="per_asset")
    bars = random_bars([100] * 15)
    with caplog.at_level(logging.WARNING):
        warn_of_unknown(judge, ordered(judge, random_bars([100, 90])), "these")
        assert not caplog.text
        warn_of_unknown(judge, ordered(judge, bars), "these")
    assert "these has assets that the run was not trained on: C, D, E, F, G, H, I, J, K, L and 3 more" in caplog.text


def calm_and_wild(bars: pl.DataFrame) -> pl.DataFrame:
    """Bars whose asset B moves five times as much."""
    names = ("open", "high", "low", "close")
    wild = [(100 * (pl.col(name) / 100) ** 5).alias(name) for name in names]
    return pl.concat([bars.filter(asset="A"), bars.filter(asset="B").with_columns(wild)])


def test_scale_level_and_rarity_are_the_assets_own_and_an_unknown_asset_has_those_of_all():
    judge = fitted(
        calm_and_wild(random_bars([1900, 1900])), scale="per_asset", threshold=Quantile(share=0.9, per_asset=True)
    )
    assert judge.rarity is not None
    assert judge.rarity.pooled == set()
    new = calm_and_wild(random_bars([200, 200], seed=9))
    stranger = new.filter(asset="B").with_columns(asset=pl.lit("C"))
    table = whole_table(judge, pl.concat([new, stranger])).with_columns(pl.col("asset").cast(pl.String))
    assert dict(table.group_by("asset").len().iter_rows()) == dict.fromkeys("ABC", 200)  # no row is lost
    table = table.filter(pl.col("score").is_not_null())
    pooled = copy(judge)
    pooled.scaler = Scaler(judge.scaler.mean, judge.scaler.std)
    expected = whole_table(pooled, stranger)["score"].drop_nulls()
    np.testing.assert_allclose(table.filter(asset="C")["score"], expected, rtol=1e-5)
    assert expected.mean() > 1.5 * table.filter(asset="B")["score"].mean()  # B is wild by the measure of all alone
    scores, asset = judge.validation["scores"].numpy(), judge.validation["asset"].numpy()
    known = {"A": scores[asset == 0], "B": scores[asset == 1], "C": scores}
    levels = {"A": judge.threshold.own["A"].level, "B": judge.threshold.own["B"].level, "C": judge.threshold.level}
    for name, own in known.items():
        rows = table.filter(asset=name)
        assert set(rows["threshold"]) == {float(levels[name])}
        seen = rows.filter(pl.col("score") <= np.nanmax(own))
        assert seen.height > 100
        counted = [np.mean(own[np.isfinite(own)] >= score) for score in seen["score"]]
        np.testing.assert_allclose(seen["rarity"], counted, atol=2.1 / len(own))  # a score's last bit may count one


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overnight", "scale"), [("keep", "pooled"), ("mask", "pooled"), ("break", "pooled"), ("break", "trailing")]
)
@pytest.mark.parametrize("piece", slow_but([150], [37, 150]))
def test_pieces_of_bars_within_the_day_give_what_the_whole_table_gives(piece, overnight, scale):
    """Nights, an early close and a hole of two days, with the timetable of the bars that the run was trained on."""
    bars = walk(new_york(date(2024, 1, 2), date(2024, 1, 31)))
    judge = fitted(bars, overnight=overnight, scale=scale, scale_lookback=100)
    times = without(new_york(date(2024, 7, 1), date(2024, 7, 12)), date(2024, 7, 8), date(2024, 7, 10))
    bars = pl.concat([walk(times, "A"), walk(times[30:], "B", seed=3)])
    whole = whole_table(judge, bars)
    assert_frame_equal(whole_table(judge, bars, piece), whole, rel_tol=1e-5)
    assert whole["score"].is_finite().sum() > 0.7 * bars.height


def test_a_short_table_is_held_to_the_timetable_of_the_run():
    """Sixty bars over a night: alone they could not tell the night from a hole."""
    judge = fitted(walk(new_york(date(2024, 1, 2), date(2024, 1, 31))), overnight="mask")
    times = new_york(date(2024, 7, 1), date(2024, 7, 3))[50:110]
    known = judge.recipe.checks
    assert known.timetables is not None
    assert known.run(walk(times)).table.rows() == []
    assert known.run(walk(times)).closing.sum() == 1
    holed = without(times, datetime(2024, 7, 2, 10), datetime(2024, 7, 2, 10, 15))
    assert known.run(walk(holed)).table["check"].to_list() == ["gap"]


@pytest.mark.parametrize(
    ("where", "warned"), [("the frame", False), ("csv /data/new.csv", True)], ids=["frame", "file"]
)
def test_a_single_series_is_unknown_only_by_a_name_of_its_own(caplog, where, warned):
    judge = fitted(random_bars([300]))
    bars = random_bars([100]).with_columns(asset=pl.lit("asset" if where == "the frame" else "MSFT"))
    with caplog.at_level(logging.WARNING):
        warn_of_unknown(judge, ordered(judge, bars), where)
        warn_of_unknown(judge, ordered(judge, bars.with_columns(asset=pl.lit("new"))), "csv /data/new.csv")
    assert ("MSFT" in caplog.text) == bool(caplog.text) == warned
