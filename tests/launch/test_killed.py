"""What a run survives: SIGKILL at any moment, a truncated checkpoint, a full disk."""

import csv
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, clean_environment

KILLS = 20
SETTINGS = [
    *TINY, "layers=two", "layers.hidden_size=4", "encoder.dropout=0.2", "teacher_forcing=linear", "data.stride=4",
    "trainer.max_epochs=24", "checkpoint.every_minutes=0.004", "hydra.run.dir=run",
]  # fmt: skip


def start(where: Path, *arguments: str) -> subprocess.Popen:
    home = where / "home"
    home.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments], cwd=where, env=clean_environment(home),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def kill_after(process: subprocess.Popen, seconds: float, started: Path | None) -> bool:
    """SIGKILL a process after so long, counted from the first change of a file; False if it was over before."""
    mark = started.stat().st_mtime_ns if started else None
    end = time.monotonic() + 120
    while started and started.stat().st_mtime_ns == mark and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    return False


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_where_an_undisturbed_one_does(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    began = time.monotonic()
    undisturbed = start(whole, *SETTINGS)
    text = undisturbed.communicate(timeout=600)[0]
    assert undisturbed.returncode == 0, text
    draw = random.Random(0)
    last = killed / "run/checkpoints/last.ckpt"
    kills, share = 0, 0.0
    while True:
        go_on = ["resume=run"] if last.exists() else SETTINGS
        process = start(killed, *go_on)
        # now and then before it writes anything, mostly at any moment of the training or of its checkpoints
        early = draw.random() < 0.2 or not last.exists()
        if kills == KILLS:
            text = process.communicate(timeout=600)[0]
            assert process.returncode == 0, text
            break
        share = draw.uniform(0, 0.4)
        if kill_after(process, draw.uniform(0, 12) if early else share, None if early else last):
            kills += 1
        elif process.returncode == 0:  # faster than its killer: once more from the last checkpoint is as good
            (killed / "run/result.json").unlink()
        assert time.monotonic() - began < 3000
    _same_end(whole / "run", killed / "run")


def _same_end(whole: Path, other: Path) -> None:
    for name in ("last", "best"):
        expected, found = (
            torch.load(path / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"] for path in (whole, other)
        )
        assert all(torch.equal(weights, found[key]) for key, weights in expected.items())
    results = [json.loads((path / "result.json").read_text()) for path in (whole, other)]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert _curves(whole / "metrics.csv") == _curves(other / "metrics.csv")


def _curves(path: Path) -> list[tuple]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["step"], row.get("train/loss"), row.get("val/reconstruction_mse")) for row in rows]


@pytest.mark.slow
def test_a_truncated_checkpoint_falls_back_to_the_one_before(command, tmp_path):
    settings = [*TINY, "trainer.max_epochs=4", "lr_schedule=constant", "hydra.run.dir=run"]
    assert command(*settings).returncode == 0
    before = json.loads((tmp_path / "run/result.json").read_text())
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert (tmp_path / "run/checkpoints/previous.ckpt").exists()
    os.truncate(last, last.stat().st_size // 2)
    done = command("resume=run")
    assert done.returncode == 0, done.stderr
    assert "last.ckpt cannot be read as a checkpoint" in done.stdout
    assert "going on from the one before it, previous.ckpt" in done.stdout
    assert json.loads((tmp_path / "run/result.json").read_text())["metrics"] == before["metrics"]


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("a small disk can be mounted by root alone")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_a_full_disk_leaves_the_older_checkpoint_whole(command, small_disk):
    settings = [*TINY, "layers.hidden_size=32", f"hydra.run.dir={small_disk}/run"]
    assert command(*settings, "trainer.max_epochs=1").returncode == 0
    last = small_disk / "run/checkpoints/last.ckpt"
    before = last.read_bytes()
    free = os.statvfs(small_disk)
    room = free.f_bavail * free.f_frsize - last.stat().st_size // 2
    (small_disk / "ballast").write_bytes(bytes(room))
    done = command(f"resume={small_disk}/run", "trainer.max_epochs=3")
    assert done.returncode == 2
    assert "cannot be written: No space left on device, the one before it is kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert last.read_bytes() == before
    assert not list(small_disk.rglob("*.partial"))
    (small_disk / "ballast").unlink()
    done = command(f"resume={small_disk}/run", "trainer.max_epochs=3")
    assert done.returncode == 0, done.stderr
