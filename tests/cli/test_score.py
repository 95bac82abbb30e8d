"""What a user sees of `python scripts/score.py`: a folder of results, or one message."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from conftest import ROOT, clean_environment, compose_run, slow_but

from refold.cli import command
from refold.config import build as config
from refold.config.change import choose_anew
from refold.errors import ConfigError
from refold.library.run import load_run
from refold.runs.directory import atomic_folder
from refold.runs.records import read_run
from tests.report.test_page import payload

CONF = ROOT / "conf"
FILES = {"scores.parquet", "events.csv", "findings.csv", "scoring.json", "report.html"}


@pytest.fixture
def score(run_dir, script, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """`python scripts/score.py ...` in the folder of the run, in this process: exit status, stdout, stderr."""
    monkeypatch.chdir(run_dir.parent)

    def call(*arguments: str, run: str | None = None) -> tuple[int, str, str]:
        return script("score", f"run={run or run_dir}", *arguments)

    return call


def quoted_bars() -> pl.DataFrame:
    """The embedded stocks as quoted: with three splits in them."""
    return config.build_data(compose_run(["data.source.table.adjusted=false"])).source.load()


@pytest.mark.slow
def test_repairs_are_written_beside_the_scores_and_the_file_stays(run_dir, tmp_path, score):
    quoted_bars().write_csv(tmp_path / "quoted.csv")
    before = (tmp_path / "quoted.csv").read_bytes()
    status, printed, errors = score(f"data.path={tmp_path / 'quoted.csv'}", f"out={tmp_path / 'out'}", "repair=copy")
    assert status == 0, errors
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"repairs.csv", "repaired.parquet"}
    assert (tmp_path / "quoted.csv").read_bytes() == before
    repairs = pl.read_csv(tmp_path / "out/repairs.csv", try_parse_dates=True)
    splits = repairs.filter(explanation="split")
    assert splits["factor"].to_list() == [2.0] * 3
    assert set(splits["asset"]) == {"AAPL", "MSFT"}
    assert "3 split" in printed
    copy = pl.read_parquet(tmp_path / "out/repaired.parquet")
    assert copy.height == quoted_bars().height
    status, _, errors = score(f"data.path={tmp_path / 'quoted.csv'}", f"out={tmp_path / 'out'}", "repair=maybe")
    assert status == 2
    assert "repair is maybe; it must be one of false, true, copy" in errors


@pytest.mark.slow
def test_new_bars_are_scored_into_a_folder_that_is_replaced_whole(run_dir, tmp_path, score):
    quoted_bars().write_csv(tmp_path / "quoted.csv")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/score.py"), f"run={run_dir}", f"data.path={tmp_path / 'quoted.csv'}"],
        cwd=tmp_path, env=clean_environment(tmp_path), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = run_dir / "scores/quoted"
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["quoted"]
    table, facts = pl.read_parquet(folder / "scores.parquet"), json.loads((folder / "scoring.json").read_text())
    assert table.height == facts["bars"] == quoted_bars().height
    assert table["verdict"].sum() == facts["flagged_bars"]
    events = pl.read_csv(folder / "events.csv", try_parse_dates=True)
    columns = ("asset", "start", "end", "peak", "score", "features", "kind", "bars", "found_by", "policy", "done")
    assert set(columns) <= set(events.columns)
    assert events.filter(found_by="model").height == facts["alarms"]
    assert events.filter(found_by="checks")["bars"].sum() == sum(facts["found_by_checks"].values())
    splits = {("AAPL", "2000-06-21"), ("AAPL", "2005-02-28"), ("MSFT", "2003-02-18")}
    peaks = events.filter(kind="split", found_by="model").select("asset", pl.col("peak").dt.date())
    assert splits <= {(asset, str(day)) for asset, day in peaks.iter_rows()}
    for text in (
        f"{facts['flagged_bars']:,} flagged",
        "alarms per asset and year (",
        "of bars flagged) on validation",
        str(folder),
    ):
        assert text in done.stdout
    assert "\r" not in done.stdout  # no progress bar off a terminal
    findings = pl.read_csv(folder / "findings.csv")
    assert {("split_like", "AAPL"), ("split_like", "MSFT")} <= set(findings.select("check", "asset").iter_rows())
    assert re.search(r"split_like \(warn\): AAPL \d", done.stdout)
    rates = facts["thresholds"]
    assert list(rates) == ["budget", "fdr", "mean_std", "pot", "quantile (chosen)", "spot"]
    assert rates["quantile (chosen)"]["level"] == facts["level"]
    assert rates["quantile (chosen)"]["validation"] == facts["val/alarms_per_asset_year"]
    assert rates["quantile (chosen)"]["these bars"] == facts["alarms_per_asset_year"]
    assert rates["pot"]["level"] == rates["spot"]["level"]
    for name in rates:
        assert name in done.stdout
    status, _, errors = score(
        f"data.path={tmp_path / 'quoted.csv'}", "threshold=pot", "score=gauss_d", "alignment=last"
    )
    assert status == 0, errors
    facts = json.loads((folder / "scoring.json").read_text())
    assert (facts["score"], facts["threshold"], facts["alignment"]) == ("GaussDynamic", "PeaksOverThreshold", "last")


@pytest.mark.slow
def test_without_data_the_runs_own_parts_are_scored(run_dir, tmp_path, score):
    status, printed, errors = score(f"out={tmp_path / 'mine'}", "drift.watch_years=1")
    assert status == 0, errors
    table = pl.read_parquet(tmp_path / "mine/scores.parquet")
    assert set(table["part"]) == {"val", "test"}
    result, facts = (json.loads(path.read_text()) for path in (run_dir / "result.json", tmp_path / "mine/scoring.json"))
    assert facts["level"] == result["detector"]["level"]
    assert table.filter(pl.col("score").is_null() != pl.col("reason").is_not_null()).height == 0
    assert facts["drift"]["state"] in ("stable", "watch", "retrain")
    assert sum(facts["drift"]["assets"].values()) == 4  # FB has no bar in the validation part
    assert f"drift: {facts['drift']['state']}" in printed
    own = facts["thresholds"]["quantile (chosen)"]
    assert own["validation"] == result["detector"]["val/alarms_per_asset_year"]
    assert own["test"] == pytest.approx(result["detector"]["test/alarms_per_asset_year"])
    compared = read_run(run_dir).metrics  # by years, since its bars are days
    assert compared["test/alarms_per_asset_year"] == result["detector"]["test/alarms_per_asset_year"]
    assert "test/alarms_per_asset_day" not in compared
    assert pl.read_csv(tmp_path / "mine/findings.csv").equals(pl.read_csv(run_dir / "findings.csv"))
    assert table.filter(part="val")["verdict"].mean() == pytest.approx(0.005, abs=0.002)  # the default quantile


def spoilt_bars() -> pl.DataFrame:
    """Two stocks, one with a name that a spreadsheet would compute: a broken bar, a second one, one without a date."""
    bars = quoted_bars().filter(pl.col("asset").is_in(["FB", "GOOG"]))
    bars = bars.with_columns(pl.col("asset").replace("GOOG", "=GOOG")).with_row_index("row")
    broken = pl.when(pl.col("row").is_in([100, 101])).then(1e6).otherwise("low").alias("low")
    lost = bars[[400]].with_columns(timestamp=pl.lit(None, pl.Date))
    return pl.concat([bars.with_columns(broken), bars[[300]], lost]).drop("row")


@pytest.mark.slow
def test_a_file_with_faulty_bars_is_scored_and_nothing_that_was_found_is_lost(run_dir, tmp_path, score):
    bars = spoilt_bars()
    bars.write_csv(tmp_path / "spoilt.csv")
    status, printed, errors = score(f"data.path={tmp_path / 'spoilt.csv'}", f"out={tmp_path / 'out'}")
    assert status == 0, errors
    table, facts = (
        pl.read_parquet(tmp_path / "out/scores.parquet"),
        json.loads((tmp_path / "out/scoring.json").read_text()),
    )
    assert table.height == facts["bars"] == bars.height
    assert table["score"].null_count() == sum(facts["without_score"].values())
    assert dict(table["reason"].drop_nulls().value_counts().iter_rows()) == facts["without_score"]
    assert table[-1].select("timestamp", "reason", "verdict").row(0) == (None, "missing_timestamp", False)
    assert facts["found_by_checks"]["broken_bar"] == facts["without_score"]["broken_bar"] == 2
    assert "2 broken_bar" in printed
    events = pl.read_csv(tmp_path / "out/events.csv", try_parse_dates=True)
    assert events.filter(found_by="model").height == facts["alarms"] == facts["kinds"].get("regime", 0)
    found = {row["kind"]: row for row in events.filter(found_by="checks").iter_rows(named=True)}
    assert (found["broken_bar"]["bars"], found["broken_bar"]["done"]) == (2, "kept without values")
    assert found["duplicate"]["asset"].lstrip("'") == bars["asset"][300]
    assert found["missing_timestamp"]["start"] is None
    assert "=GOOG" not in set(events["asset"])
    assert "'=GOOG" in set(events["asset"])
    run = load_run(run_dir)  # in memory the same
    verdicts, known = run.score(bars), run.events(bars)
    assert verdicts["reason"].equals(table["reason"])
    np.testing.assert_allclose(verdicts["score"].to_numpy(), table["score"].to_numpy(), rtol=1e-5)
    assert (
        known.select("kind", "bars", "found_by", "done").rows()
        == events.select("kind", "bars", "found_by", "done").rows()
    )
    status, _, errors = score(f"data.path={tmp_path / 'spoilt.csv'}", "data.checks.policies.broken_bar=error")
    assert status == 2
    assert "data.checks.policies.broken_bar is error" in errors


MISTAKES = [
    (["data.path=missing.csv"], "missing.csv'; there is no such file"),
    (["data.path=wide.csv"], "missing open, high, low, volume"),
    (["data.path=few.csv"], "has at most 20 bars of an asset; a window of data.window_size = 32 bars needs 52"),
    (["data.path=quoted.csv", "data.source.table.assets=[XYZ]"], "has no bars of data.source.table.assets ['XYZ']"),
    (
        ["data.path=nan.csv"],
        "no bar could be scored: no unbroken run of bars is as long as a window (12,154 not_fin",
    ),
    (["data.path=nan.csv", "data.checks.policies.not_finite=error"], "a value must be a finite number"),
    (["score=mahalanobi"], "score=mahalanobi: there is no such option; did you mean mahalanobis?"),
    (["alignment=middle"], "alignment is 'middle'; it must be one of mean, median, max, last"),
    (["threshold.shar=0.9"], "threshold.shar: there is no such key; did you mean threshold.share?"),
    (["threshold.share=2"], "threshold.share is 2; it must be in (0, 1)"),
    (["data.window_size=8"], "data.window_size: it cannot be chosen when scoring"),
    (["nonsense"], "nonsense: it cannot be read as key=value"),
    (["out=taken"], "out is taken; other files are there, which are not overwritten"),
    (["device=tpu"], "device is 'tpu'; it must be one of auto, cpu, cuda"),
]


@pytest.mark.parametrize(("arguments", "message"), slow_but(MISTAKES[::3], MISTAKES))
def test_a_mistake_ends_in_its_message_alone(arguments, message, run_dir, score):
    folder = run_dir.parent
    bars = quoted_bars()
    bars.write_csv(folder / "quoted.csv")
    bars.head(20).write_csv(folder / "few.csv")
    bars.with_columns(pl.lit("NaN").alias("volume")).write_csv(folder / "nan.csv")
    bars.pivot("asset", index="timestamp", values="close").write_csv(folder / "wide.csv")
    (folder / "taken").mkdir(exist_ok=True)
    (folder / "taken/notes.txt").write_text("mine")
    before = sorted(folder.rglob("*"))
    status, _, errors = score(*arguments)
    assert status == 2
    assert message in errors
    assert len(errors.strip().splitlines()) <= 2
    assert sorted(path for path in folder.rglob("*") if path.name != "scores") == [
        path for path in before if path.name != "scores"
    ]  # nothing half-written


def test_a_directory_that_is_no_run_or_of_another_version_is_named(run_dir, tmp_path, score):
    assert "is not a finished run" in score(run=str(tmp_path))[2]
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    state = torch.load(other / "checkpoints/detector.pt", weights_only=True)
    torch.save({**state, "format": 0}, other / "checkpoints/detector.pt")
    status, _, errors = score(run=str(other))
    assert status == 2
    assert "the run's detector is of format 0; this version of refold reads 3" in errors
    settings = (other / "resolved.yaml").read_text()
    (other / "resolved.yaml").write_text(re.sub(r"  linear_path: \w+\n", "", settings))
    status, _, errors = score(run=str(other))
    assert status == 2
    assert "resolved.yaml does not build a model; is it of another version of refold? bridge: missing" in errors


def test_the_detector_of_a_run_comes_back(run_dir):
    run = load_run(run_dir)
    result = json.loads((run_dir / "result.json").read_text())
    assert float(run.detector.threshold.level) == result["detector"]["level"]
    data = config.build_data(run.config)
    data.setup()
    scored = run.detector.score_series(data.val_windows.series, data.segments("val")).score
    share = (scored[np.isfinite(scored)] > result["detector"]["level"]).mean()
    assert share == pytest.approx(0.005, abs=0.002)
    (run_dir / "checkpoints/detector.pt").rename(run_dir / "checkpoints/gone.pt")
    assert load_run(run_dir).detector is None
    (run_dir / "checkpoints/gone.pt").rename(run_dir / "checkpoints/detector.pt")


def test_a_file_takes_the_place_of_the_source_and_is_read_as_the_runs_own_file_was(tmp_path):
    own = compose_run(["data=csv", "data.path=old.csv", "data.source.table.columns.close=last"])
    own.data.source.separator = ";"
    own.data.source.table.end = "2015-01-01"
    cfg = choose_anew(own, {"data.path": "new.csv"}, CONF)
    assert cfg.data.source.path == str(Path("new.csv").absolute())
    assert (cfg.data.source.separator, cfg.data.source.table.columns.close) == (";", "last")
    assert cfg.data.source.table.end is None
    cfg = choose_anew(own, {"data.path": "new.parquet", "data.source.table.columns.close": "final"}, CONF)
    assert cfg.data.source._target_.endswith("Parquet")
    assert cfg.data.source.table.columns.close == "final"
    stocks = choose_anew(compose_run([]), {"data.path": "new.csv", "threshold": "pot", "threshold.risk": "1e-4"}, CONF)
    assert not stocks.data.source.table.adjusted  # that was of another file
    assert stocks.threshold.risk == 1e-4


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    nested = tmp_path / "scores" / "new" / "out"
    with pytest.raises(FileNotFoundError), atomic_folder(nested, "out", ["a"]) as folder:
        (folder / "a" / "b").write_text("2")
    with pytest.raises(ConfigError, match="cannot be written"), atomic_folder(nested / ("n" * 300), "out", ["a"]):
        pass
    assert list(tmp_path.iterdir()) == []  # nor the folders that it would have stood in
    with atomic_folder(nested, "out", ["a"]) as folder:
        (folder / "a").write_text("1")
    assert (nested / "a").read_text() == "1"
    shutil.rmtree(tmp_path / "scores")
    out = tmp_path / "out"
    with atomic_folder(out, "out", ["a"]) as folder:
        (folder / "a").write_text("1")
        assert not out.exists()
    assert (out / "a").read_text() == "1"
    with pytest.raises(FileNotFoundError), atomic_folder(out, "out", ["a"]) as folder:
        (folder / "a" / "b").write_text("2")
    assert (out / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (out / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="other files are there"), atomic_folder(out, "out", ["a"]):
        pass


def test_arguments_are_keys_and_values():
    assert command.read_arguments(["a=1", "b=x=y"], "") == {"a": "1", "b": "x=y"}
    for arguments, message in ((["a"], "a: it cannot be read as key=value"), (["a=1", "a=2"], "a is given twice")):
        with pytest.raises(ConfigError, match=re.escape(message)):
            command.read_arguments(arguments, "")


@pytest.mark.slow
def test_the_report_of_the_own_parts_shows_everything_and_opens_without_a_complaint(score, run_dir, open_page):
    assert score(f"out={run_dir.parent / 'shown'}")[0] == 0
    document, console = open_page(run_dir.parent / "shown" / "report.html", "#asset=MSFT")
    assert console == []
    assert 'data-ready="yes"' in document
    for section in ("bars", "events", "windows", "histogram", "features", "latents", "alarms", "baselines"):
        assert f'<section id="{section}">' in document  # not hidden
    assert document.count("highest score") >= 5
    assert "PCA, 4 components" in document
    assert re.search(r"validation, [\d,]+ bars.*test, [\d,]+ bars", document)


HEAD = {"score.copies": 2, "score.windows": 2000, "score.steps": 40}
"""A head in a few seconds."""


@pytest.mark.slow
def test_a_finished_run_names_errors_when_it_is_asked_to(run_dir, tmp_path, score):
    quoted_bars().write_csv(tmp_path / "quoted.csv")
    head = [f"{key}={value}" for key, value in HEAD.items()]
    status, _, err = score("score=planted", *head, f"data.path={tmp_path / 'quoted.csv'}", f"out={tmp_path / 'out'}")
    assert status == 0, err
    events = pl.read_csv(tmp_path / "out/events.csv").filter(pl.col("found_by") == "model")
    assert events["probability"].is_between(0, 1).all()
    splits = events.filter(pl.col("start") <= "2005-02-28", pl.col("end") >= "2005-02-28", pl.col("asset") == "AAPL")
    assert splits["kind"].is_in(["split", "unit"]).to_list() == [True]  # so short a training may take one for the other
    assert pl.read_parquet(tmp_path / "out/scores.parquet")["probability"].is_between(0, 1).any()
    assert '"probability"' in (tmp_path / "out/report.html").read_text()


@pytest.mark.slow
def test_named_and_unusual_events_stand_beside_each_other(run_dir, tmp_path, score):
    quoted_bars().write_csv(tmp_path / "quoted.csv")
    head = [f"{key}={value}" for key, value in HEAD.items()]
    arguments = [f"data.path={tmp_path / 'quoted.csv'}", "score=planted", *head, "beside=student"]
    status, printed, errors = score(*arguments, f"out={tmp_path / 'out'}")
    assert status == 0, errors
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"beside.parquet"}
    events = pl.read_csv(tmp_path / "out/events.csv").filter(found_by="model")
    facts = json.loads((tmp_path / "out/scoring.json").read_text())
    assert dict(events["verdict"].value_counts().iter_rows()) == {
        "named": facts["alarms"], "unusual": facts["beside"]["alarms"],
    }  # fmt: skip
    assert events.filter(verdict="unusual")["probability"].null_count() == facts["beside"]["alarms"]
    second = pl.read_parquet(tmp_path / "out/beside.parquet")
    assert second["verdict"].sum() == facts["beside"]["flagged_bars"]
    assert "beside, unusual: StudentScore, Quantile" in printed
    page = payload(tmp_path / "out/report.html")
    assert (page["events"]["named"]["total"], page["events"]["unusual"]["total"]) == (
        facts["alarms"],
        facts["beside"]["alarms"],
    )
    repaired = [text for text in page["events"]["unusual"]["repair"] if text]
    assert any(text == "split: earlier prices divided by 2" for text in repaired)  # without being asked for
    assert any(asset["repairs"]["splits"]["time"] for asset in page["assets"].values())


@pytest.mark.slow
def test_a_run_with_a_head_comes_back_from_its_directory(tiny_run, tmp_path):
    _, result = tiny_run("score=planted", *(f"{key}={value}" for key, value in HEAD.items()))
    assert result["detector"]["score"] == "PlantedErrors"
    run = load_run(tmp_path / "run")
    assert {"bad tick", "split", "stale"} <= set(run.detector.score_function.names)
    verdicts = run.score(quoted_bars())
    assert verdicts["probability"].is_between(0, 1).any()
    assert verdicts.filter("flagged")["kind"].is_in(run.detector.score_function.names).all()
