"""`refold score on=ray` and `refold encode on=ray` write what one process writes, and list what they could not do."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT, clean_environment, compose_run
from rich.console import Console

from refold.cli.score import print_facts
from refold.config import build as config
from refold.library import judge
from tests.cli.test_score import FILES, spoilt_bars
from tests.library.test_on_ray import processes_under

ON_RAY = ("on=ray", "workers=2")


@pytest.fixture
def pieces(monkeypatch):
    """Let a table of some thousand bars be cut into several shards."""
    monkeypatch.setattr(judge, "PIECE", 1000)
    pytest.importorskip("ray")


@pytest.mark.slow
def test_scores_on_two_workers_are_those_of_one_process(run_dir, tmp_path, script, pieces):
    spoilt_bars().write_csv(tmp_path / "spoilt.csv")
    arguments = [f"run={run_dir}", f"data.path={tmp_path / 'spoilt.csv'}"]
    status, alone, errors = script("score", *arguments, f"out={tmp_path / 'alone'}")
    assert status == 0, errors
    status, shared, errors = script("score", *arguments, f"out={tmp_path / 'shared'}", *ON_RAY)
    assert status == 0, errors
    assert errors == ""  # Ray itself is silent
    assert shared == alone.replace(str(tmp_path / "alone"), str(tmp_path / "shared"))
    assert {path.name for path in (tmp_path / "shared").iterdir()} == FILES
    assert len(list((tmp_path / "shared/scores.parquet").iterdir())) == 3  # two assets, and the row without a date
    one, two = (pl.read_parquet(tmp_path / name / "scores.parquet") for name in ("alone", "shared"))
    assert one["score"].count() > 2000
    assert one.equals(two)
    for name in FILES - {"scores.parquet", "report.html"}:
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "shared" / name).read_bytes()
    assert (tmp_path / "shared/report.html").stat().st_size > 100_000
    # once more into the same place: the folder is replaced, as one with a file is
    status, _, errors = script("score", *arguments, f"out={tmp_path / 'shared'}")
    assert status == 0, errors
    assert pl.read_parquet(tmp_path / "shared/scores.parquet").equals(one)


@pytest.mark.slow
def test_an_asset_that_no_worker_can_encode_is_listed_and_the_rest_is_done(run_dir, tmp_path, script, pieces):
    bars = config.build_data(compose_run([])).source.load()
    broken = pl.when((pl.col("asset") == "GOOG") & (pl.int_range(pl.len()).over("asset") == 100)).then(1e6)
    bars.with_columns(broken.otherwise("low").alias("low")).write_parquet(tmp_path / "new.parquet")
    arguments = [f"run={run_dir}", f"data.path={tmp_path / 'new.parquet'}"]
    status, _, errors = script("encode", *arguments, f"out={tmp_path / 'alone'}")
    assert status == 0, errors
    arguments.append("data.checks.policies.broken_bar=error")
    status, printed, errors = script("encode", *arguments, f"out={tmp_path / 'shared'}", *ON_RAY)
    assert status == 0, errors
    assert "GOOG has no codes: GOOG 20" in printed
    assert "data.checks.policies.broken_bar is error" in printed
    one, two = (pl.read_parquet(tmp_path / name / "latents.parquet") for name in ("alone", "shared"))
    assert f"{two.height:,} windows, 4 numbers each: {tmp_path / 'shared/latents.parquet'}" in printed
    assert one.filter(pl.col("asset") != "GOOG").equals(two)
    assert one.height > two.height > 9000


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("score", ["on=ray"], "on is ray, which scores a table: data.path=FILE; the run's own parts need on=local"),
        ("score", ["on=dask"], "on is 'dask'; it must be local or ray"),
        ("encode", ["workers=2"], "workers is 2; it goes with on=ray: one process does all otherwise"),
        ("encode", ["on=ray", "workers=-1"], "workers is '-1'; it must be a whole number of at least 1"),
    ],
)
def test_a_mistake_ends_in_its_message_and_leaves_nothing(name, arguments, message, run_dir, script):
    before = sorted(run_dir.rglob("*"))
    status, _, errors = script(name, f"run={run_dir}", *arguments)
    assert status == 2
    assert message in errors
    assert sorted(run_dir.rglob("*")) == before


@pytest.mark.slow
def test_after_ctrl_c_nothing_is_left(run_dir, tmp_path):
    pytest.importorskip("ray")
    spoilt_bars().write_csv(tmp_path / "spoilt.csv")
    (tmp_path / "results").mkdir()
    arguments = [f"run={run_dir}", f"data.path={tmp_path / 'spoilt.csv'}", f"out={tmp_path / 'results/mine'}", *ON_RAY]
    command = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/score.py"), *arguments],
        cwd=tmp_path, env=clean_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not list(tmp_path.glob("results/.mine.*/scores.parquet")):  # Ray has started, and its workers are about to
        assert time.monotonic() < end
        assert command.poll() is None
        time.sleep(0.02)
    started = processes_under(command.pid)
    command.send_signal(signal.SIGINT)
    printed, _ = command.communicate(timeout=60)
    assert command.returncode == 130
    assert printed.splitlines()[1:] == []  # the first is a warning of an asset that the run does not know
    assert list((tmp_path / "results").iterdir()) == []
    assert len(started) > 3
    while left := [pid for pid in started if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


@pytest.mark.slow
def test_a_panel_is_not_shared_out(train_once, script):
    directory = train_once("data=panel", "data.stride=64")
    status, _, errors = script("encode", f"run={directory}", "on=ray")
    assert status == 2
    assert "on is ray, which shares assets out; a window of a panel holds all of them: on=local" in errors


def test_assets_without_scores_are_printed(run_dir):
    facts = json.loads((run_dir / "result.json").read_text())["detector"]
    facts |= {"kinds": {}, "thresholds": {}, "bars": 9, "scored_bars": 5, "flagged_bars": 0, "alarms": 0}
    facts |= {"without_score": {"refused": 4}, "found_by_checks": {}, "score": "S", "threshold": "T"}
    facts |= {"refused_assets": {"GOOG": "its worker ended 3 times"}, "alignment": "mean", "flagged_share": 0.0}
    facts |= {name.removeprefix("val/"): value for name, value in facts.items() if name.startswith("val/")}
    out = io.StringIO()
    print_facts(Console(file=out, soft_wrap=True), facts)
    assert "4 bars without a score: 4 refused\nGOOG has no scores: its worker ended 3 times\n" in out.getvalue()
