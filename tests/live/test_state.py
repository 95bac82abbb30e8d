"""The state of live bars: from a run, saved and loaded, and what survives a SIGKILL at any moment."""

import json
import multiprocessing
import os
import random
import re
import signal
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from conftest import ROOT, leave_pictures_blank

import refold
from refold.errors import ConfigError
from refold.live.verdict import Verdict
from tests.data.makers import random_bars
from tests.live.live_bars import in_time

BARS = random_bars([700, 700], seed=1)
QUICK = {
    "logger": "csv",
    "layers": {"hidden_size": 8, "latent_dim": 4},
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1},
    "data": {"window_size": 8, "stride": 8},
    "threshold": "spot",
}
NEW = random_bars([120, 120], seed=9)
KILLS = 20


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> refold.Run:
    leave_pictures_blank()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("live"))
        return refold.train(
            BARS,
            **QUICK,
            overrides=["data.features=[log_return,parkinson_range]", "threshold.start=0.9"],
        )


@pytest.fixture(scope="module")
def live(run):
    return run.live(alignment="last")


def test_a_run_goes_live_and_agrees_with_its_scores(run, live, tmp_path):
    scored = run.score(NEW, alignment="last")
    fresh = run.live(alignment="last", fitted=live.origin.fitted)
    fresh.warm(NEW.filter(pl.col("timestamp") < NEW["timestamp"][40]))
    verdicts = fresh.push_many(NEW.filter(pl.col("timestamp") >= NEW["timestamp"][40]))
    by_bar = {(row["asset"], row["timestamp"]): row for row in scored.iter_rows(named=True)}
    for one in verdicts:
        row = by_bar[one.asset, one.timestamp]
        assert one.score == pytest.approx(row["score"], rel=1e-5)
        assert one.level == pytest.approx(row["level"], rel=1e-5)
        assert one.reason == row["reason"]
    assert len(verdicts) == 160
    assert isinstance(fresh, refold.LiveDetector)


@pytest.mark.slow
def test_what_goes_on_from_a_file_is_what_never_stopped(run, live, tmp_path):
    whole, stopped = (run.live(alignment="last", fitted=live.origin.fitted) for _ in range(2))
    bars = in_time(NEW)
    expected = [whole.push(bar) for bar in bars]
    said = []
    for start in range(0, len(bars), 60):
        said += [stopped.push(bar) for bar in bars[start : start + 60]]
        stopped.save(tmp_path / "live.state")
        stopped = refold.LiveDetector.load(tmp_path / "live.state", run)
        assert stopped.position == len(said)
    assert said == expected
    assert stopped.counts == whole.counts
    assert [path.name for path in tmp_path.iterdir()] == ["live.state"]


def test_a_revision_after_loading_is_what_it_was_before(run, live, tmp_path):
    whole = run.live(alignment="last", fitted=live.origin.fitted)
    whole.push_many(NEW)
    whole.save(tmp_path / "live.state")
    loaded = refold.LiveDetector.load(tmp_path / "live.state", run)
    bar = {**NEW.row(110, named=True), "close": 51.0}
    assert whole.revise(bar) == loaded.revise(bar)
    whole.adjust("A", 0.5)
    loaded.adjust("A", 0.5)
    following = {**NEW.row(119, named=True), "timestamp": NEW["timestamp"][119] + timedelta(days=1)}
    assert whole.push(following) == loaded.push(following)


def spoilt(path: Path, how: str) -> None:
    content = torch.load(path, weights_only=True)
    if how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
        return
    if how == "empty":
        path.write_bytes(b"")
        return
    if how == "foreign":
        content = {"weights": torch.zeros(3)}
    if how == "another version":
        content["version"] = "9.9"
    if how == "another run":
        content["run"] = "0" * 32
    if how == "lacks":
        del content["arrays"]["raw"]
    if how == "other shapes":
        content["arrays"]["raw"] = content["arrays"]["raw"][:, :3]
    if how == "other columns":
        content["columns"] = ["volume"]
    torch.save(content, path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "is truncated"), ("empty", "is truncated"), ("foreign", "is no state"), ("lacks", "is spoilt"),
        ("another version", "refold 9.9"), ("another run", "of another run"), ("other shapes", "is spoilt"),
        ("other columns", "is spoilt"),
    ],
)  # fmt: skip
def test_a_spoilt_or_foreign_state_is_refused_in_one_message(run, live, tmp_path, how, message):
    path = tmp_path / "live.state"
    whole = run.live(alignment="last", fitted=live.origin.fitted)
    whole.push_many(NEW[:20])
    whole.save(path)
    spoilt(path, how)
    with pytest.raises(ConfigError, match=message) as refused:
        refold.LiveDetector.load(path, run)
    assert "\n" not in str(refused.value)


def test_where_no_state_is_or_can_be(run, live, tmp_path):
    with pytest.raises(ConfigError, match="there is no state"):
        refold.LiveDetector.load(tmp_path / "none", run)
    with pytest.raises(ConfigError, match="cannot be written"):
        live.save(tmp_path / "no folder" / "live.state")
    with pytest.raises(ConfigError, match="alignment is mean"):
        run.live()


# ---- SIGKILL ---------------------------------------------------------------------------------------------------------


def watch(directory: Path, state: Path, verdicts: Path) -> None:
    """Be a feed's reader: a line per verdict, the state every few bars, and on from both after any end."""
    torch.set_num_threads(1)
    run = refold.load_run(directory)
    live = refold.LiveDetector.load(state, run)
    text = verdicts.read_text()
    whole = text[: text.rfind("\n") + 1]  # a line that was cut is written again
    os.truncate(verdicts, len(whole.encode()))
    written = whole.count("\n")
    bars = in_time(NEW)
    with verdicts.open("a") as file:
        for number in range(live.position, len(bars)):
            said = live.push(bars[number])
            if number >= written:
                file.write(json.dumps(said.to_dict()) + "\n")
                file.flush()
            if number % 7 == 0:
                live.save(state)
            time.sleep(0.002)


@pytest.mark.slow
def test_killed_twenty_times_it_says_what_an_undisturbed_one_says(run, live, tmp_path):
    first = run.live(alignment="last", fitted=live.origin.fitted)
    expected: list[Verdict] = []
    state, verdicts = tmp_path / "live.state", tmp_path / "verdicts.jsonl"
    first.save(state)
    verdicts.touch()
    expected = [first.push(bar) for bar in in_time(NEW)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["refold.library.going_live", "refold.library.run", __name__])
    draw, kills, began = random.Random(0), 0, time.monotonic()
    while time.monotonic() - began < 900:
        size = verdicts.stat().st_size
        process = context.Process(target=watch, args=(run.directory, state, verdicts))
        process.start()
        if kills < KILLS:
            end = time.monotonic() + 60
            while verdicts.stat().st_size == size and process.is_alive() and time.monotonic() < end:
                time.sleep(0.005)
            process.join(draw.uniform(0, 0.05))
            process.kill()
        process.join(300)
        kills += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert kills >= KILLS
    lines = [json.loads(line) for line in verdicts.read_text().splitlines()]
    assert lines == [json.loads(json.dumps(one.to_dict())) for one in expected]


def test_the_python_of_the_page_runs(run, live, tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/live.md").read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    names = {"history": NEW[:100]}
    exec(code[1].replace('"outputs/latest"', repr(str(run.directory))), names)
    assert names["verdict"].accepted
    assert names["live"].position == 101


# ---- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_exported_file_scores_the_last_bar_as_the_run_and_the_live_detector_do(run, live, tmp_path):
    """Each asset by its own scale, and one that the run does not know by that of all."""
    assert run.scaler.kind == "per_asset"
    path = run.export(tmp_path / "model.onnx", alignment="last", overrides={"threshold.start": "0.8"})
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["assets"]) == ["A", "B"]
    stranger = NEW.filter(asset="B").with_columns(asset=pl.lit("C"))
    bars = pl.concat([NEW, stranger])
    scored = run.score(bars, alignment="last", overrides={"threshold.start": "0.8"})
    by_bar = {(row["asset"], row["timestamp"]): row["score"] for row in scored.iter_rows(named=True)}
    scores = {}
    for asset, number in (("A", 0), ("B", 1), ("C", -1)):
        fresh = run.live(alignment="last", overrides={"threshold.start": "0.8"})
        seen = []
        for bar in in_time(bars.filter(asset=asset)):
            verdict = fresh.push(bar)
            if verdict.features is None:
                continue
            if not seen:  # SPOT has not learnt yet
                assert float(notes["threshold_level"]) == verdict.level
            seen = [*seen, list(verdict.features.values())][-8:]
            if len(seen) < 8:
                continue
            given = {"features": np.array([seen], dtype=np.float32), "asset": np.array([number])}
            reconstruction, _, score = session.run(None, given)
            assert score[0, -1] == pytest.approx(verdict.score, rel=1e-5)
            assert score[0, -1] == pytest.approx(by_bar[asset, verdict.timestamp], rel=1e-5)
            np.testing.assert_allclose(reconstruction[0, -1], list(verdict.expected.values()), rtol=1e-5, atol=1e-5)
            scores.setdefault(asset, []).append(score[0, -1])
        assert len(scores[asset]) > 100
    assert not np.allclose(scores["B"], scores["C"], rtol=1e-3)
    assert (notes["alignment"], notes["threshold"]) == ("last", "StreamingPeaks")


@pytest.mark.slow
def test_the_command_says_what_was_fitted_anew(run, script, tmp_path):
    out = f"out={tmp_path / 'model.onnx'}"
    status, printed, error = script("export", f"run={run.directory}", "alignment=last", "threshold=spot", out)
    assert status == 0, error
    assert "fitted anew, to the run's own data: " in printed
    assert "and StreamingPeaks (alignment=last), level" in printed
    assert "LiveDetector goes on learning" in printed
    status, _, error = script("export", f"run={run.directory}", "data.path=x.csv")
    assert (status, "there is no such key" in error) == (2, True)
