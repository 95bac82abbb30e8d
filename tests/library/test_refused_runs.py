"""A run directory that is broken, or of another version, is refused in a sentence that names the cause."""

import os
import re
import shutil
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import polars as pl
import pytest
import torch

import refold
from refold.runs.directory import BEST_CHECKPOINT, DETECTOR, RESOLVED, atomic_folder
from refold.runs.resume import Resume


@pytest.fixture
def copied(run_dir, tmp_path) -> Path:
    """A copy of a finished run, to be broken."""
    return Path(shutil.copytree(run_dir, tmp_path / "copied"))


def test_a_run_of_another_version_is_refused_by_name(copied):
    settings = (copied / RESOLVED).read_text()
    (copied / RESOLVED).write_text(re.sub(r"(  version: ).*", r"\g<1>9.9.9", settings))
    with pytest.raises(refold.ConfigError, match=rf"of version 9.9.9 of Refold; this is version {refold.__version__}"):
        refold.load_run(copied)
    (copied / RESOLVED).write_text(re.sub(r"  version: .*\n", "", settings).replace("bars.checks.", "checks."))
    for read in (lambda: refold.load_run(copied), lambda: Resume(str(copied)).config([])):
        with pytest.raises(refold.ConfigError, match=r"a version of Refold before 0.2.0; this is version") as refusal:
            read()
        assert "\n" not in str(refusal.value)


def test_a_truncated_detector_is_named(copied):
    with (copied / DETECTOR).open("rb+") as file:
        file.truncate(1000)
    with pytest.raises(refold.ConfigError, match=r"detector.pt cannot be read as a checkpoint"):
        refold.load_run(copied)


@pytest.mark.parametrize(
    ("file", "key"), [(BEST_CHECKPOINT, "state_dict"), (BEST_CHECKPOINT, "WindowDataModule"), (DETECTOR, "score")]
)
def test_a_checkpoint_without_its_keys_is_named(copied, file, key):
    state = torch.load(copied / file, weights_only=True)
    torch.save({name: value for name, value in state.items() if name != key}, copied / file)
    with pytest.raises(refold.ConfigError, match=rf"{Path(file).name} lacks '{key}'"):
        refold.load_run(copied)


def test_weights_that_are_nan_are_the_cause_that_is_named(copied):
    state = torch.load(copied / BEST_CHECKPOINT, weights_only=True)
    name = next(name for name in state["state_dict"] if name.startswith("autoencoder."))
    state["state_dict"][name].fill_(torch.nan)
    torch.save(state, copied / BEST_CHECKPOINT)
    with pytest.raises(refold.ConfigError, match=r"best.ckpt has weights that are NaN or infinite, .* diverged"):
        refold.load_run(copied)


WRITER = """
import sys, time
from pathlib import Path
from refold.runs.directory import atomic_folder
with atomic_folder(Path(sys.argv[1]), "out", ["a"]) as folder:
    (folder / "a").write_text("bars")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "out")]
    killed, living = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    left, written = (Path(process.stdout.readline().strip()) for process in (killed, living))
    assert (left.stat().st_mode & 0o777, left.exists()) == (0o700, True)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    with atomic_folder(tmp_path / "out", "out", ["a"]):
        assert not left.exists()
        assert written.exists()
    living.kill()
    living.communicate()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (r"(encoder:\n  _target_: ).*", r"\1[os.system]", r"encoder._target_ is \['os.system'\], which is not one of"),
        (r"(encoder:\n  _target_: ).*", r"\1{a: 1}", r"encoder._target_ is \{'a': 1\}, which is not one of"),
        (
            r"(bridge:\n(?:  .*\n)*?  latent_dim: ).*",
            r"\g<1>1000000000",
            "bridge.latent_dim is 1000000000; ",
        ),
        (r"encoder:\n(  .*\n)+", "", r"does not build a model; .*encoder"),
        (r"\Z", "null: 2\n", "is not the configuration of a run"),
    ],
)
def test_settings_that_somebody_spoilt_are_refused_in_a_sentence(copied, before, after, message):
    settings = (copied / RESOLVED).read_text()
    spoilt, count = re.subn(before, after, settings, count=1)
    assert count == 1
    (copied / RESOLVED).write_text(spoilt)
    with pytest.raises(refold.ConfigError, match=message):
        refold.load_run(copied)


def test_a_checkpoint_with_objects_is_refused_without_advice_to_load_it(copied):
    torch.save({"model": Path("x")}, copied / BEST_CHECKPOINT)
    with pytest.raises(refold.ConfigError, match="it holds more than plain values and tensors") as refusal:
        refold.load_run(copied)
    assert "weights_only" not in str(refusal.value)


def test_two_assets_without_their_names_are_told_from_another_frequency(run_dir):
    days = pl.date_range(date(2020, 1, 1), date(2021, 1, 1), eager=True)
    prices = pl.Series([100.0 + day % 7 for day in range(len(days))])
    frame = pl.DataFrame({"date": days, **dict.fromkeys(("open", "high", "low", "close", "volume"), prices)})
    with pytest.raises(refold.RefoldError, match=r"with equal times .* data.source.table.columns.asset"):
        refold.load_run(run_dir).score(pl.concat([frame, frame]))


def test_what_is_no_path_is_no_run():
    with pytest.raises(refold.ConfigError, match="the run is a NoneType; it must be the path of a run directory"):
        refold.load_run(None)
