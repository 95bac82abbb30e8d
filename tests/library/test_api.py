"""Three lines in a notebook: the same run as from the command line, and nothing of the caller's is changed."""

import json
import logging
import os
import random
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import CONF, leave_pictures_blank
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

import refold
from tests.data.makers import random_bars

QUICK = {
    "logger": "csv",
    "layers": {"hidden_size": 8, "latent_dim": 4},
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1},
    "data": {"window_size": 8, "stride": 8, "checks": {"calendar": None}},
}
MIXED_ZONES = [pd.Timestamp("2020-01-01", tz="UTC"), pd.Timestamp("2020-01-02", tz="Asia/Tokyo")]
VERDICTS = [
    "timestamp",
    "asset",
    "score",
    "level",
    "flagged",
    "reason",
    "rarity",
    "kind",
    "to_blame",
    "reconstructed_close",
]


def closes(bars: int = 600, seed: int = 0, deviation: float = 0.01) -> pl.DataFrame:
    """Daily closes of one asset, under the names that a user might give them."""
    generator = np.random.default_rng(seed)
    days = [date(2020, 1, 1) + timedelta(days=n) for n in range(bars)]
    return pl.DataFrame({"Date": days, "Close": 100 * np.exp(generator.normal(0, deviation, bars).cumsum())})


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> refold.Run:
    """A run that was trained on a table in memory."""
    leave_pictures_blank()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        return refold.train(closes(), decoder="autoregressive", **QUICK)


def test_a_table_is_trained_on_and_new_bars_are_judged(trained):
    assert trained.directory.parent.name == "outputs"
    assert trained.config.run.choices.decoder == "autoregressive"
    assert trained.config.trainer.max_epochs == 1
    assert trained.features == ["log_return"]
    verdicts = trained.score(closes(300, seed=1, deviation=0.02))
    assert verdicts.columns == VERDICTS
    assert verdicts.height == 300
    scored = verdicts.drop_nulls("score")
    assert scored.height > 290
    assert (scored["flagged"] == (scored["score"] > scored["level"])).all()
    assert verdicts.filter("flagged").select("kind", "to_blame").null_count().sum_horizontal().item() == 0
    assert verdicts.filter(~pl.col("flagged"))["to_blame"].null_count() == 300 - verdicts["flagged"].sum()


@pytest.mark.parametrize("cell", ["Date", "Close"])
def test_no_row_is_lost_that_lacks_a_date_or_a_price(trained, cell):
    """A row without a date is no bar: it comes last, with its reason, and all others are judged as without it."""
    bars = closes(300, seed=1, deviation=0.02)
    spoilt = bars.with_columns(pl.when(pl.int_range(pl.len()) == 120).then(None).otherwise(cell).alias(cell))
    place = 299 if cell == "Date" else 120
    scored, made = trained.score(spoilt), trained.reconstruct(spoilt)
    assert scored.height == made.height == 300
    assert scored["reason"][place] == ("missing_timestamp" if cell == "Date" else "missing_value")
    assert scored["score"][place] is made["reconstructed_close"][place] is None
    assert made["timestamp"].equals(scored["timestamp"])
    assert scored["timestamp"].null_count() == (cell == "Date")
    kinds = trained.events(spoilt).filter(found_by="checks")["kind"].to_list()
    assert kinds[:1] + kinds[-1:] == [scored["reason"][place]] * 2 or scored["reason"][place] in kinds
    rest = trained.score(spoilt.drop_nulls(cell)) if cell == "Date" else trained.score(bars)
    far = np.r_[0:100, 145:299] if cell == "Price" else np.r_[0:100, 145:290]
    np.testing.assert_allclose(scored["score"].to_numpy()[far], rest["score"].to_numpy()[far], rtol=1e-5)


def test_pandas_goes_in_and_comes_out(trained):
    bars = closes(300, seed=1, deviation=0.02)
    frame = pd.DataFrame({"Date": bars["Date"].to_numpy(), "Close": bars["Close"].to_numpy()})
    expected = trained.score(bars)
    for table in (frame, frame.set_index("Date"), frame.set_index("Date").rename_axis(None)):
        verdicts = trained.score(table)
        assert isinstance(verdicts, pd.DataFrame)
        assert list(verdicts.columns) == VERDICTS
        np.testing.assert_array_equal(verdicts["score"], expected["score"].to_numpy())
        assert verdicts["timestamp"].dt.date.tolist() == expected["timestamp"].to_list()


@pytest.mark.slow
def test_what_else_can_be_asked_of_a_run(trained, tmp_path):
    bars = closes(300, seed=1, deviation=0.02)
    verdicts, events = trained.score(bars), trained.events(bars)
    assert events["asset"].unique().to_list() == ["bars"] == list(trained.detector.validation["asset_names"])
    assert events.height <= verdicts["flagged"].sum()
    made = trained.reconstruct(bars)
    assert made.columns == ["timestamp", "asset", "log_return", "reconstructed_close"]
    ratio = (made["reconstructed_close"] / bars["Close"].shift(1)).log()
    np.testing.assert_allclose(ratio[5:], made["log_return"][5:], rtol=1e-4, atol=1e-7)
    codes = trained.encode(bars)
    assert codes.columns == ["timestamp", "asset", "z_0", "z_1", "z_2", "z_3"]
    assert codes.height == 300 - 1 - 7
    page = trained.report(tmp_path / "page.html", bars)
    assert "scored bars</title>" in page.read_text()
    lower = trained.score(bars, threshold="quantile", overrides={"threshold.share": 0.5})
    assert lower["flagged"].sum() > verdicts["flagged"].sum()
    with pytest.raises(refold.RefoldError, match=r"threshold.shar: there is no such key; did you mean threshold.share"):
        trained.score(bars, overrides={"threshold.shar": 0.5})
    with pytest.raises(refold.RefoldError, match="it must be one of onnx, torch_export"):
        trained.export(format="keras")


def test_a_repair_needs_four_prices(trained):
    with pytest.raises(refold.RefoldError, match="a repair needs open, high, low and close; the bars have no open"):
        trained.repair(closes(300, seed=1, deviation=0.02))


@pytest.mark.slow
def test_a_repair_is_proposed_for_what_a_run_flags_and_the_table_stays(tmp_path, monkeypatch):
    leave_pictures_blank()
    monkeypatch.chdir(tmp_path)
    bars = random_bars([500, 500], seed=2)
    run = refold.train(bars, **QUICK)
    spoilt = bars.with_columns(
        pl.when(pl.int_range(pl.len()) == 300).then(pl.col(name) * 100).otherwise(name).alias(name)
        for name in ("open", "high", "low", "close")
    )
    kept = spoilt.clone()
    found = run.repair(spoilt).filter(timestamp=bars["timestamp"][300], asset="A")
    assert spoilt.equals(kept)
    assert found["explanation"].unique().to_list() == ["unit"]
    np.testing.assert_allclose(found.filter(column="close")["proposed"], bars["close"][300])
    copy = run.repair(spoilt.to_pandas(), apply=True)
    assert isinstance(copy, pd.DataFrame)
    assert copy["close"][300] == pytest.approx(bars["close"][300])


def test_the_command_and_python_judge_alike(trained, tmp_path, script):
    bars = closes(300, seed=1, deviation=0.02)
    bars.write_csv(tmp_path / "new.csv")
    status, _, errors = script("score", f"run={trained.directory}", f"data.path={tmp_path / 'new.csv'}")
    assert status == 0, errors
    folder = trained.directory / "scores" / "new"
    written = pl.read_parquet(folder / "scores.parquet")
    for given in (bars, tmp_path / "new.csv"):
        verdicts = trained.score(given)
        for name, theirs in (("score", "score"), ("level", "threshold"), ("flagged", "verdict")):
            assert verdicts[name].equals(written[theirs])
        assert verdicts["reconstructed_close"].equals(written["reconstructed_close"])
    events = pl.read_csv(folder / "events.csv", try_parse_dates=True)
    assert events.drop("asset").equals(trained.events(bars).drop("asset"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoder": "autoregresive"}, "decoder=autoregresive: there is no such option; did you mean autoregressive?"),
        ({"trainer": {"max_epoch": 5}}, "trainer.max_epoch: there is no such key; did you mean trainer.max_epochs?"),
        ({"data": {"window_size": 0}}, "data.window_size is 0; it must be at least 1"),
        ({"overrides": ["seed"]}, "it cannot be read as key=value"),
        ({"seed": object()}, "seed is a object"),
    ],
)
def test_a_wrong_setting_is_refused_as_on_the_command_line(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(refold.RefoldError) as refusal:
        refold.train(closes(), **settings)
    assert message in str(refusal.value)
    assert [path.name for path in tmp_path.rglob("*") if path.name not in ("outputs",)] == []


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        (closes().drop("Date"), "the frame has no date column"),
        (closes().clear(), "the frame has no rows"),
        (closes().with_columns(Close=pl.lit("much")), "row 2, column 'Close': 'much' is not a number"),
        (closes(40), "data.split leaves no windows for"),
        ([1, 2, 3], "the bars are a list; they must be a table of polars or pandas"),
        ("nowhere.csv", "nowhere.csv'; there is no such file"),
    ],
)
def test_bars_that_cannot_be_read_are_refused_in_a_sentence(bars, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(refold.RefoldError) as refusal:
        refold.train(bars, **QUICK)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_the_callers_state_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment, levels = (
        dict(os.environ),
        {name: logging.getLogger(name).level for name in ("", "refold", "lightning")},
    )
    random.seed(1)
    expected = random.Random(1).random()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        with pytest.raises(refold.RefoldError):
            refold.train(closes(40), **QUICK)
        refold.compose(["decoder=repeat"])
        assert GlobalHydra.instance().hydra is before
        assert compose("train", overrides=["seed=5"]).seed == 5
    assert dict(os.environ) == environment
    assert {name: logging.getLogger(name).level for name in levels} == levels
    assert logging.getLogger("refold").handlers == []
    assert random.random() == expected


def test_a_configuration_is_composed_as_plain_values():
    settings = refold.compose(["decoder=conditional", "layers.hidden_size=12"])
    assert settings["decoder"]["_target_"].endswith("ConditionalDecoder")
    assert settings["encoder"]["hidden_size"] == 12
    assert "hydra" not in settings
    with pytest.raises(refold.RefoldError, match=r"there is no such key; did you mean layers.hidden_size\?"):
        refold.compose(["layers.hiden_size=12"])


def test_a_file_is_trained_on_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    closes().write_csv("prices.csv")
    run = refold.train(data="prices.csv", overrides=["data.window_size=8", "data.checks.calendar=null"], **{
        key: value for key, value in QUICK.items() if key != "data"
    })  # fmt: skip
    assert Path(run.config.data.path) == tmp_path / "prices.csv"
    assert run.config.data.window_size == 8


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        (pd.Series([1.0]), "the bars are a Series; they must be a table of polars or pandas, or the path of a file"),
        ({"close": [1.0]}, "the bars are a dict; they must be"),
        (np.zeros((3, 2)), "the bars are a ndarray; they must be"),
        (pd.DataFrame([[1, 2]], columns=["close", "close"]), "the frame has the column close twice"),
        (pd.DataFrame({"date": MIXED_ZONES, "close": [1.0, 2.0]}), "the column date holds values of different kinds"),
    ],
)
def test_bars_that_are_no_table_are_refused_by_a_run_too(trained, bars, message):
    with pytest.raises(refold.RefoldError, match=message):
        trained.score(bars)


def test_settings_of_a_scoring_may_be_texts_as_in_training(trained):
    bars = closes(300, seed=1)
    given = trained.score(bars, threshold="quantile", overrides=["threshold.share=0.9"])
    assert given.equals(trained.score(bars, threshold="quantile", overrides={"threshold.share": 0.9}))
    with pytest.raises(refold.ConfigError, match=r"a\.b: it cannot be read as key=value"):
        trained.score(bars, overrides=["a.b"])


def test_nanoseconds_of_pandas_are_kept_where_there_are_any():
    from refold.library.frames import to_polars

    moments = pd.to_datetime(["2020-01-01T00:00:00.000000001", "2020-01-01T00:00:00.000000002", None])
    assert to_polars(pd.DataFrame({"t": moments}))["t"].n_unique() == 3
    assert to_polars(pd.DataFrame({"t": moments.floor("s")}))["t"].dtype == pl.Datetime("us")


@pytest.mark.slow
def test_what_was_dismissed_is_not_raised_again_by_python_and_the_command_alike(trained, tmp_path, script):
    bars = closes(300, seed=1, deviation=0.02)
    bars.write_csv(tmp_path / "new.csv")
    events = trained.events(bars).filter(found_by="model")
    first, second = (
        {"verdict": "unusual", "asset": "bars", "start": str(row["start"]), "end": str(row["end"]), "kind": "regime"}
        for row in events[:2].iter_rows(named=True)
    )
    for asset in ("bars", "new"):  # a single series is named after its file
        told = [{**first, "decision": "false alarm"}, {**second, "decision": "confirmed"}]
        content = {
            "refold_decisions": 1,
            "run": trained.config.run.id,
            "decisions": [{**t, "asset": asset} for t in told],
        }
        (tmp_path / f"{asset}.json").write_text(json.dumps(content))
    left = trained.events(bars, decisions=tmp_path / "bars.json").filter(found_by="model")
    assert left.equals(events[1:])
    before, after = trained.score(bars), trained.score(bars, decisions=tmp_path / "bars.json")
    assert after["score"].equals(before["score"])
    assert before["flagged"].sum() - after["flagged"].sum() == events["bars"][0]
    told = script(
        "score", f"run={trained.directory}", f"data.path={tmp_path / 'new.csv'}", f"decisions={tmp_path / 'new.json'}"
    )
    assert told[0] == 0, told[2]
    assert "1 of 2 unusual events confirmed (precision 0.50)" in told[1]
    facts = json.loads((trained.directory / "scores/new/scoring.json").read_text())
    assert facts["alarms"] == left.height
    assert facts["dismissed_bars"] == events["bars"][0]
    (tmp_path / "new.json").write_text(json.dumps({**content, "run": "another"}))
    told = script(
        "score", f"run={trained.directory}", f"data.path={tmp_path / 'new.csv'}", f"decisions={tmp_path / 'new.json'}"
    )
    assert told[0] == 2
    assert "about the events of run 'another'; these are of run" in told[2]
    with pytest.raises(refold.RefoldError, match="about the events of run 'another'"):
        trained.repair(bars, decisions=tmp_path / "new.json")


def test_two_scores_of_one_verdict_do_not_stand_beside_each_other(trained, tmp_path):
    message = "beside is 'student', whose verdict is unusual as that of Mahalanobis is.*: planted"
    with pytest.raises(refold.RefoldError, match=message):
        trained.report(tmp_path / "report.html", closes(300, seed=1), beside="student")
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(refold.RefoldError, match="score=studnt: there is no such option"):
        trained.report(tmp_path / "report.html", closes(300, seed=1), beside="studnt")
