"""What a run survives: SIGKILL at any moment, a truncated checkpoint, a full disk."""

import csv
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from conftest import TINY, clean_environment

from refold.cli.main import run_subcommand

KILLS = 20
SETTINGS = [
    *TINY, "layers=two", "layers.hidden_size=4", "encoder.dropout=0.2", "teacher_forcing=linear", "data.stride=4",
    "trainer.max_epochs=24", "checkpoint.every_minutes=0.004", "hydra.run.dir=run",
]  # fmt: skip


def train(arguments: list[str], where: Path) -> None:
    """Be `python train.py ...` in a folder; what is printed goes to its file `printed`."""
    os.environ.update(clean_environment(where))
    os.chdir(where)
    with open("printed", "wb") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    sys.argv = ["train.py", *arguments]
    sys.exit(run_subcommand("train"))


def start(where: Path, *arguments: str) -> BaseProcess:
    """Fork a process from one that has imported all that a run needs: twenty times four seconds are saved."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["refold.library.evaluation", "refold.config.validate", "hydra.main", __name__])
    process = context.Process(target=train, args=(list(arguments), where))
    process.start()
    return process


def end_of(process: BaseProcess, where: Path) -> None:
    """Wait until a process ends well."""
    process.join(600)
    assert process.exitcode == 0, (where / "printed").read_text()


def kill_after(process: BaseProcess, seconds: float, started: Path | None) -> bool:
    """SIGKILL a process after so long, counted from the first change of a file; False if it was over before."""
    mark = started.stat().st_mtime_ns if started else None
    end = time.monotonic() + 120
    while started and started.stat().st_mtime_ns == mark and process.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    process.join(seconds)
    process.kill()  # one that has ended keeps its exit status
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_where_an_undisturbed_one_does(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    began = time.monotonic()
    end_of(start(whole, *SETTINGS), whole)
    draw = random.Random(0)
    last = killed / "run/checkpoints/last.ckpt"
    kills = 0
    while True:
        go_on = ["resume=run"] if last.exists() else SETTINGS
        process = start(killed, *go_on)
        # now and then before it writes anything, mostly at any moment of the training or of its checkpoints
        early = draw.random() < 0.2 or not last.exists()
        if kills == KILLS:
            end_of(process, killed)
            break
        seconds = draw.uniform(0, 4) if early else draw.uniform(0, 0.4)
        if kill_after(process, seconds, None if early else last):
            kills += 1
        elif process.exitcode == 0:  # faster than its killer: once more from the last checkpoint is as good
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
