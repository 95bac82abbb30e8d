"""The page: what stands in its data, and that a browser opens it without a complaint."""

import base64
import gzip
import json
import re
from datetime import date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from refold.report import asset_series, distributions
from refold.report.asset_series import thin_bars
from refold.report.page import write_page
from refold.report.projection import first_two_axes
from refold.report.sections import WindowExample

FEATURES = ("log_return", "volume_change")
ODD = "<b>A&B</b> \"'{{data}}</script><script>throw 1</script>"


def make_scores(assets: tuple[str, ...], bars: int, *, flagged: int = 5, priced: bool = True) -> pl.DataFrame:
    """Random walks with a few high scores. The first 3 bars of each asset have none."""
    generator = np.random.default_rng(0)
    days = pl.date_range(date(1990, 1, 1), date(2050, 1, 1), eager=True).head(bars)
    frames = []
    for asset in assets:
        contributions = generator.gamma(1.0, 1.0, (bars, 2)).astype(np.float32)
        strange = generator.choice(np.arange(3, bars), flagged, replace=False)
        contributions[strange] += 40
        score = contributions.sum(1).astype(np.float64)
        close = 50 * np.exp(np.cumsum(generator.normal(0, 0.01, bars)))
        prices = {"close": close, "reconstructed_close": close * np.exp(generator.normal(0, 0.01, bars))}
        frames.append(
            pl.DataFrame(
                {
                    "timestamp": days,
                    "asset": [asset] * bars,
                    "score": [None] * 3 + list(score[3:]),
                    "threshold": np.full(bars, 35.0),
                    "verdict": (score > 35) & (np.arange(bars) >= 3),
                    **(prices if priced else {}),
                    **{f"contribution/{name}": contributions[:, n] for n, name in enumerate(FEATURES)},
                }
            )
        )
    return pl.concat(frames)


def make_events(scores: pl.DataFrame) -> pl.DataFrame:
    """Each flagged bar is an event; their kinds go round."""
    flagged = scores.filter("verdict")
    kinds = ["bad tick", "stale", "split", "unit", "regime"]
    moments = dict.fromkeys(("start", "end", "peak"), "timestamp")
    return flagged.select("asset", "score", features=pl.lit(";".join(FEATURES)), **moments).with_columns(
        kind=pl.Series([kinds[n % 5] for n in range(flagged.height)])
    )


def everything(scores: pl.DataFrame) -> dict:
    """All arguments of `write_page`."""
    generator = np.random.default_rng(1)
    assets, days = scores["asset"].unique(maintain_order=True), scores["timestamp"][:40].to_numpy()
    codes = {f"z{n}": pl.Series(generator.normal(size=scores.height)) for n in range(3)}
    return {
        "title": f"Scores of {ODD}",
        "scores": scores,
        "events": make_events(scores),
        "split_scores": {"validation": generator.gamma(2, 1, 500), "test": generator.gamma(2, 2, 700)},
        "feature_errors": {"validation": dict.fromkeys(FEATURES, 0.2), "test": dict.fromkeys(FEATURES, 0.3)},
        "windows": [WindowExample(name, "worst", days, *generator.normal(size=(2, len(days), 2))) for name in assets],
        "features": FEATURES,
        "latents": scores.select("timestamp", "asset", "score").with_columns(**codes),
        "alarm_rates": {"alarms": {"pot": {"level": 35.0, "validation": 2.5, "test": 3.0}}},
        "baselines": {ODD: {"LSTM autoencoder": {"average precision": 0.7}, "random": {"average precision": None}}},
        "facts": {"threshold": "POT, q 0.001"},
    }  # fmt: skip


def payload(path: Path) -> dict:
    """The data in a page."""
    packed = re.search(r'id="packed-data">([^<]*)<', path.read_text(encoding="utf-8")).group(1)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def numbers(packed: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["bdata"]), f"<{packed['dtype']}")


# ---- in a browser ---------------------------------------------------------------------------------------------------


def plots(document: str) -> set[str]:
    """The ids of what plotly has drawn."""
    return set(re.findall(r'id="([\w-]+)-plot" class="plot[^"]*js-plotly-plot"', document)) | set(
        re.findall(r'class="plot[^"]*js-plotly-plot" id="([\w-]+)-plot"', document)
    )


@pytest.mark.slow
def test_twenty_assets_over_thirty_years_stay_under_ten_megabytes_and_open_without_a_complaint(tmp_path, open_page):
    scores = make_scores((ODD, *(f"A{n:02d}" for n in range(19))), 7500, flagged=30)
    write_page(tmp_path / "report.html", **everything(scores))
    assert (tmp_path / "report.html").stat().st_size < 10e6
    assert all(asset["shown"] == 7500 for asset in payload(tmp_path / "report.html")["assets"].values())
    document, console = open_page(tmp_path / "report.html", "#asset=A07")
    assert console == []
    assert 'data-ready="yes"' in document
    assert plots(document) == {
        "bars", "windows", "histogram", "features", "latents-time", "latents-score",
    }  # fmt: skip
    assert '<small id="bars-of">A07</small>' in document
    assert document.count('<option value="A') == 19
    assert "<b>A&amp;B" not in document  # an odd name is text wherever it stands, never a tag
    assert "&lt;b&gt;A&amp;B&lt;/b&gt;" in document
    assert "average precision" in document
    assert re.search(r'<td>pot</td><td class="number">35[.0]*</td><td class="number">2\.50*</td>', document)


@pytest.mark.slow
def test_what_is_not_given_is_left_out(tmp_path, open_page):
    scores = make_scores(("A",), 50, flagged=0, priced=False).drop(
        "contribution/log_return", "contribution/volume_change"
    )
    write_page(tmp_path / "report.html", title="", scores=scores)
    document, console = open_page(tmp_path / "report.html")
    assert console == []
    assert plots(document) == {"bars"}
    for section in ("events", "windows", "histogram", "features", "latents", "alarms", "baselines"):
        assert f'<section id="{section}" hidden' in document


@pytest.mark.slow
def test_the_browser_of_these_tests_would_report_an_error(tmp_path, open_page):
    (tmp_path / "broken.html").write_text("<script>throw Error('seen')</script>")
    _, console = open_page(tmp_path / "broken.html")
    assert len(console) == 1
    assert "seen" in console[0]


def test_nothing_may_be_loaded_from_anywhere(tmp_path):
    write_page(tmp_path / "report.html", **everything(make_scores(("A",), 50)))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text  # a browser that obeys it fetches nothing
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert "showSendToCloud: false" in text  # plotly's button that would send the chart away


# ---- the data -------------------------------------------------------------------------------------------------------


def test_each_bar_stands_in_the_page_as_it_stands_in_the_scores(tmp_path):
    scores = make_scores(("B", "A"), 60)
    write_page(tmp_path / "report.html", title="t", scores=scores.sample(fraction=1.0, shuffle=True, seed=3))
    data = payload(tmp_path / "report.html")
    assert list(data["assets"]) == ["A", "B"]
    own = scores.filter(pl.col("asset") == "B")
    shown = data["assets"]["B"]
    times = numbers(shown["time"]).astype("datetime64[ms]").astype("datetime64[D]")
    np.testing.assert_array_equal(times, own["timestamp"].to_numpy())
    for name in ("close", "reconstructed_close", "score", "threshold"):
        np.testing.assert_array_equal(numbers(shown["lines"][name]), own[name].to_numpy().astype(np.float32))
    flagged = own.filter("verdict")
    np.testing.assert_array_equal(numbers(shown["flagged"]["score"]), flagged["score"].to_numpy().astype(np.float32))


def test_a_lazy_frame_gives_the_same_page(tmp_path):
    scores = make_scores(("A", "B"), 60)
    scores.write_parquet(tmp_path / "scores.parquet")
    write_page(tmp_path / "eager.html", title="t", scores=scores)
    write_page(tmp_path / "lazy.html", title="t", scores=pl.scan_parquet(tmp_path / "scores.parquet"))
    assert (tmp_path / "eager.html").read_bytes() == (tmp_path / "lazy.html").read_bytes()


def test_a_long_table_read_in_parts_gives_the_bars_of_the_whole(tmp_path, monkeypatch):
    scores = make_scores(("A", "B"), 900)
    scores.write_parquet(tmp_path / "scores.parquet")
    given = {"title": "t", "scores": pl.scan_parquet(tmp_path / "scores.parquet"), "events": make_events(scores)}
    given["split_scores"] = {"test": given["scores"], "validation": np.array([1.0, 3.0])}
    write_page(tmp_path / "once.html", **given)
    monkeypatch.setattr(asset_series, "ROWS_AT_ONCE", 250)
    monkeypatch.setattr(distributions, "SCORES_AT_ONCE", 250)
    write_page(tmp_path / "parts.html", **given)
    once, parts = (payload(tmp_path / f"{name}.html") for name in ("once", "parts"))
    assert once["assets"] == parts["assets"]
    assert once["facts"] == parts["facts"]
    assert once["histogram"]["parts"]["test"]["count"] == parts["histogram"]["parts"]["test"]["count"] == 2 * 897
    assert numbers(parts["histogram"]["parts"]["test"]["share"]).sum() == pytest.approx(1)
    monkeypatch.setattr(asset_series, "MOST_POINTS_OF_ONE", 400)
    write_page(tmp_path / "thin.html", **given)
    thin_ = payload(tmp_path / "thin.html")["assets"]["B"]
    assert 200 < thin_["shown"] < 420
    assert thin_["bars"] == 900
    assert thin_["flagged"] == once["assets"]["B"]["flagged"]


def test_a_flagged_bar_tells_its_kind_prices_score_and_the_features_to_blame(tmp_path):
    scores = pl.DataFrame(
        {
            "timestamp": [date(2020, 1, 1), date(2020, 1, 2), date(2020, 1, 3)],
            "asset": ["A"] * 3,
            "score": [1.0, 8.0, 9.0],
            "threshold": [5.0] * 3,
            "verdict": [False, True, True],
            "close": [10.0, 20.0, 10.5],
            "reconstructed_close": [10.0, 10.25, None],
            "contribution/a<b": [0.5, 6.0, 9.0],
            "contribution/c": [0.5, 2.0, float("nan")],
        }
    )
    events = pl.DataFrame(
        {
            **{name: [date(2020, 1, 2)] for name in ("start", "end", "peak")},
            "asset": ["A"], "score": [8.0], "features": ["a<b;c"], "kind": ["bad tick"],
        }
    )  # fmt: skip
    write_page(tmp_path / "report.html", title="t", scores=scores, events=events)
    flagged = payload(tmp_path / "report.html")["assets"]["A"]["flagged"]
    assert flagged["kind"] == ["bad tick", None]
    assert flagged["reason"] == [
        "<b>bad tick</b>  2020-01-02<br>close 20, reconstructed 10.25<br>score 8, threshold 5<br>a&lt;b 75%, c 25%",
        "<b>flagged</b>  2020-01-03<br>close 10.5<br>score 9, threshold 5<br>a&lt;b 100%",
    ]


def with_findings(events: pl.DataFrame, day: date) -> pl.DataFrame:
    """Events of the model, and two of checks: one of an odd asset, one of rows without a date."""
    alarms = events.with_columns(found_by=pl.lit("model"), bars=pl.lit(1, pl.Int64), done=pl.lit("flagged"))
    found = pl.DataFrame({
        "asset": [ODD, None], "start": [day, None], "end": [day, None], "kind": ["broken_bar", "missing_timestamp"],
        "found_by": "checks", "bars": [1, 3], "done": ["kept without values", "dropped"],
    })  # fmt: skip
    return pl.concat([alarms, found], how="diagonal_relaxed")


def spoilt_scores() -> pl.DataFrame:
    scores = make_scores((ODD, "B"), 60)
    row = pl.int_range(pl.len()).over("asset")
    reason = pl.when(row < 10).then(pl.lit("warming")).when(row == 30).then(pl.lit("broken_bar"))
    reason = reason.when(row.is_between(31, 33)).then(pl.lit("masked"))
    scores = scores.with_columns(reason.alias("reason"))
    known = pl.col("reason").is_null()
    return scores.with_columns(
        pl.when(known).then("score").alias("score"), (pl.col("verdict") & known).alias("verdict")
    ).with_columns(pl.when(pl.col("score").is_null() & known).then(pl.lit("hole")).otherwise("reason").alias("reason"))


def test_findings_and_stretches_without_scores_stand_in_the_page(tmp_path, monkeypatch):
    scores = spoilt_scores()
    days = scores["timestamp"][:60]
    events = with_findings(make_events(scores), days[30])
    write_page(tmp_path / "report.html", title="t", scores=scores, events=events)
    data = payload(tmp_path / "report.html")
    assert data["facts"]["events"] == str(events.filter(found_by="model").height)
    assert data["facts"]["found by checks"] == "4 bars in 2 runs"
    odd, other = data["assets"][ODD], data["assets"]["B"]
    moment = data["events"]["checks"]["start"][data["events"]["checks"]["kind"].index("broken_bar")]
    assert odd["findings"] == {
        "bars": [1], "kind": ["broken_bar"], "done": ["kept without values"], "total": 1,
        "start": [moment], "end": [moment], "close": [scores["close"][30]],
    }  # fmt: skip
    assert other["findings"]["start"] == []
    spans = list(zip(other["unscored"]["reason"], other["unscored"]["bars"], strict=True))
    assert spans[0] == ("warming", 10)
    assert spans[spans.index(("broken_bar", 1)) + 1] == ("masked", 3)
    assert sum(bars for _, bars in spans) == scores.filter(asset="B")["score"].null_count()
    table = data["events"]["checks"]
    assert table["done"] == ["kept without values", "dropped"]
    assert (table["asset"][-1], table["start"][-1], table["score"][-1]) == (None, None, None)
    assert (table["total"], data["events"]["unusual"]["total"]) == (2, events.height - 2)
    monkeypatch.setattr(asset_series, "MOST_FINDINGS", 1)
    write_page(tmp_path / "few.html", title="t", scores=scores, events=events)
    few = payload(tmp_path / "few.html")["assets"]["B"]["unscored"]
    assert (few["reason"], few["bars"], few["total"]) == (["warming"], [10], len(spans))


@pytest.mark.slow
def test_findings_are_drawn_and_listed_without_a_complaint(tmp_path, open_page):
    scores = spoilt_scores()
    events = with_findings(make_events(scores), scores["timestamp"][30])
    write_page(tmp_path / "report.html", title="t", scores=scores, events=events)
    document, console = open_page(tmp_path / "report.html")
    assert console == []
    assert 'data-ready="yes"' in document
    assert "found by checks" in document
    assert "missing_timestamp" in document
    assert "kept without values" in document
    assert "1970-01-01" not in document  # rows without a date have none


def test_times_are_those_of_the_clock_on_the_wall(tmp_path):
    moments = pl.Series([datetime(2020, 7, 1, 9, 30), datetime(2020, 7, 1, 9, 31)])
    moments = moments.dt.replace_time_zone("America/New_York")
    scores = pl.DataFrame({"timestamp": moments, "score": [1.0, 9.0], "verdict": [False, True]})
    scores = scores.with_columns(asset=pl.lit("A"), threshold=5.0)
    events = make_events(scores).with_columns(kind=pl.lit("unit"))
    write_page(tmp_path / "report.html", title="t", scores=scores, events=events)
    data = payload(tmp_path / "report.html")
    assert data["zone"] == "America/New_York"
    times = numbers(data["assets"]["A"]["time"]).astype("datetime64[ms]").astype(str).tolist()
    assert times == ["2020-07-01T09:30:00.000", "2020-07-01T09:31:00.000"]
    assert data["assets"]["A"]["flagged"]["reason"][0].startswith("<b>unit</b>  2020-07-01 09:31<br>")


def test_thinning_keeps_what_the_eye_would_see():
    bars = make_scores(("A",), 20_000, flagged=50).with_columns(pl.col("score").fill_null(0))
    kept = thin_bars(bars, 800)
    assert 400 <= kept.height <= 860
    assert kept["timestamp"].is_sorted()
    assert kept.filter("verdict").equals(bars.filter("verdict"))
    assert kept[[0, -1]].equals(bars[[0, -1]])
    for name in ("close", "score"):  # the envelope: in each of 200 bins the same lowest and highest value
        spans = [
            frame.group_by(bin=(pl.col("timestamp") - bars["timestamp"][0]).dt.total_days() * 200 // 20_000)
            .agg(low=pl.col(name).min(), high=pl.col(name).max())
            .sort("bin")
            for frame in (bars, kept)
        ]
        assert spans[0].equals(spans[1])
    assert thin_bars(bars, 20_000) is bars


def test_of_too_many_flagged_bars_the_highest_scores_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(asset_series, "MOST_FLAGGED", 7)
    scores = make_scores(("A", "B"), 100, flagged=6)
    write_page(tmp_path / "report.html", title="t", scores=scores)
    data = payload(tmp_path / "report.html")
    shown = np.concatenate([numbers(asset["flagged"]["score"]) for asset in data["assets"].values()])
    expected = scores.filter("verdict")["score"].top_k(7).to_numpy()
    np.testing.assert_allclose(np.sort(shown), np.sort(expected), rtol=1e-6)


def test_a_finding_lies_on_the_price_that_is_drawn_next_to_it(tmp_path):
    scores = make_scores(("A", "B"), 60)
    days = scores["timestamp"][:60]
    found = {"asset": "A", "peak": None, "score": None, "features": None, "kind": "gap"}
    found |= {"found_by": "checks", "done": "kept"}
    found = [{**found, "start": days[place], "end": days[place + 1], "bars": 2} for place in (40, 7)]
    schema = {"peak": scores.schema["timestamp"], "score": pl.Float64, "features": pl.String}
    write_page(tmp_path / "report.html", title="t", scores=scores, events=pl.DataFrame(found, schema_overrides=schema))
    drawn = payload(tmp_path / "report.html")["assets"]
    assert drawn["A"]["findings"]["close"] == [scores["close"][7], scores["close"][40]]
    assert drawn["B"]["findings"]["start"] == []
    write_page(
        tmp_path / "report.html", title="t", scores=scores.drop("close", "reconstructed_close"),
        events=pl.DataFrame(found, schema_overrides=schema),
    )  # fmt: skip
    assert "close" not in payload(tmp_path / "report.html")["assets"]["A"]["findings"]


def test_facts_are_counted(tmp_path):
    scores = make_scores(("A", "B"), 366, flagged=4)
    write_page(tmp_path / "report.html", title="t", scores=scores, events=make_events(scores), facts={"run": "r"})
    facts = payload(tmp_path / "report.html")["facts"]
    assert facts == {
        "assets": "2", "from": "1990-01-01", "to": "1991-01-01", "bars": "732", "scored": "726", "flagged bars": "8",
        "events": "8", "events per asset and year": "4.00", "run": "r",
    }  # fmt: skip


def test_events_of_bars_within_the_day_are_counted_per_asset_and_day(tmp_path):
    scores = make_scores(("A", "B"), 366, flagged=4)
    hours = pl.datetime_range(datetime(1990, 1, 1), datetime(1990, 1, 16, 5), "1h", eager=True)
    scores = scores.with_columns(timestamp=pl.concat([hours, hours]).cast(scores.schema["timestamp"]))
    write_page(tmp_path / "report.html", title="t", scores=scores)
    assert payload(tmp_path / "report.html")["facts"]["flagged per asset and day"] == f"{8 / 32:.2f}"


def test_the_histogram_holds_each_score_once(tmp_path):
    scores = make_scores(("A",), 50)
    for parts in (
        {"validation": np.array([0.0, 1e-9, 1.0, 10.0, np.nan]), "test": np.array([100.0])},
        {"validation": np.array([-5.0, 3.0, np.inf])},
        {"validation": np.full(9, 2.0)},
    ):
        write_page(tmp_path / "report.html", title="t", scores=scores, split_scores=parts)
        histogram = payload(tmp_path / "report.html")["histogram"]
        assert histogram["threshold"] == 35.0
        for name, values in parts.items():
            assert numbers(histogram["parts"][name]["share"]).sum() == pytest.approx(1)
            assert histogram["parts"][name]["count"] == np.isfinite(values).sum()
    write_page(tmp_path / "report.html", title="t", scores=scores, split_scores={"validation": np.array([np.nan])})
    assert payload(tmp_path / "report.html")["histogram"] is None


def test_scores_far_above_the_threshold_are_drawn_on_a_logarithmic_axis(tmp_path):
    scores = make_scores(("A",), 50)
    high = pl.when(pl.col("verdict")).then(pl.col("score") * 100).otherwise("score").alias("score")
    for table, expected in ((scores, False), (scores.with_columns(high), True), (scores.clear(), False)):
        write_page(tmp_path / "report.html", title="t", scores=table)
        assert payload(tmp_path / "report.html")["logarithmic"] is expected


def test_a_window_shows_the_features_with_the_largest_errors(tmp_path):
    names = [f"f{n}" for n in range(12)]
    truth = np.zeros((5, 12))
    made = np.tile(np.arange(12.0), (5, 1))
    made[2, 11] = np.nan  # an absent value counts for nothing
    days = np.arange("2020-01-01", "2020-01-06", dtype="datetime64[D]")
    scores = make_scores(("A",), 50)
    example = WindowExample("A", "worst", days, truth, made)
    write_page(tmp_path / "report.html", title="t", scores=scores, windows=[example], features=names)
    (window,) = payload(tmp_path / "report.html")["windows"]
    assert window["features"] == names[4:]
    assert window["errors"] == [float(n * n) for n in range(4, 12)]
    assert window["start"] == numbers(window["time"])[0] == 1577836800000  # 2020-01-01, UTC


def test_codes_lie_on_their_principal_axes():
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(500, 3)) * (1.0, 10.0, 3.0)
    places, shares = first_two_axes(codes)
    centred = codes - codes.mean(0)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(abs(places), abs(centred @ axes[:2].T), atol=1e-9)
    np.testing.assert_allclose(shares, (values**2 / (values**2).sum())[:2])
    places, shares = first_two_axes(codes[:, :1])
    assert not places[:, 1].any()
    assert shares.tolist() == [1.0, 0.0]


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    scores = make_scores(("A",), 50)
    write_page(tmp_path / "report.html", title="first", scores=scores)
    before = (tmp_path / "report.html").read_bytes()
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        write_page(tmp_path / "report.html", title="second", scores=scores.drop("verdict"))
    assert (tmp_path / "report.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
