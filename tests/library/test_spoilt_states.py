"""A checkpoint or a detector.pt with plain values that Refold never writes is refused when its run is opened."""

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import refold
from refold.runs.directory import BEST_CHECKPOINT, DETECTOR, RESOLVED, RESULT

TIMETABLE = {
    "unit": "day", "count": 1, "phase": 0.0, "also": [], "zone": None, "hours": [[0.0, 432000.0]], "regular": True,
    "grid": True, "closed": 10,
}  # fmt: skip
NAN = float("nan")
TIMES = {
    "a unit": {"unit": "eon"},
    "no interval": {"count": 0},
    "a NaN": {"count": NAN},
    "an interval that fills the memory": {"unit": "second", "count": 1e-9},
    "a text": {"count": "x"},
    "a path as a zone": {"zone": "../../etc/passwd"},
    "an escape as a zone": {"zone": "Mars/\x1b[31m"},
    "hours that end before they begin": {"hours": [[5, 1]]},
    "hours without end": {"hours": [[0, 1e300]]},
    "hours of letters": {"hours": "abc"},
    "another key": {"extra": 1},
    "bars of letters": {"also": [NAN, "x"]},
    "days below none": {"closed": -5},
    "no number of days": {"closed": "x"},
}
STATES = {
    "validation, a list": (DETECTOR, "validation", []),
    "validation scores of other bars": (DETECTOR, "validation.scores", torch.zeros(3)),
    "validation scores, a text": (DETECTOR, "validation.scores", "x"),
    "assets without names": (DETECTOR, "validation.asset_names", ["\x1b[31m"]),
    "a span below 0": (DETECTOR, "validation.span_seconds", -1),
    "moments, a text": (DETECTOR, "validation.moments", "many"),
    "tails, a list": (DETECTOR, "validation.tails", [1]),
    "tails of letters": (DETECTOR, "validation.tails", {"": ["a", "b", "c"]}),
    "tails of NaN": (DETECTOR, "validation.tails", {"": [NAN, NAN, NAN]}),
    "columns, a number": (DETECTOR, "columns", 5),
    "a mean of other features": (DETECTOR, "score.mean", torch.zeros(2)),
    "a factor, a text": (DETECTOR, "score.factor", "x"),
    "a score, a number": (DETECTOR, "score", 3),
    "a class, a list": (DETECTOR, "score.class", ["x"]),
    "a level of NaN": (DETECTOR, "threshold.level", torch.tensor(NAN)),
    "a level, a text": (DETECTOR, "threshold.level", "x"),
    "levels of assets, a list": (DETECTOR, "threshold.own", [1]),
    "a level of an asset, a text": (DETECTOR, "threshold.own", {"AAPL": {"level": "x"}}),
    "three levels of an asset": (DETECTOR, "threshold.own", {"AAPL": {"level": torch.zeros(3)}}),
    "weights, a number": (BEST_CHECKPOINT, "state_dict", 5),
    "weights under numbers": (BEST_CHECKPOINT, "state_dict", {5: torch.zeros(1)}),
    "a scaler of letters": (BEST_CHECKPOINT, "WindowDataModule.scaler", {"mean": "a", "std": "b"}),
    "a scaler of zeros": (BEST_CHECKPOINT, "WindowDataModule.scaler", dict.fromkeys(("mean", "std"), torch.zeros(5))),
    "a scaler of one number": (BEST_CHECKPOINT, "WindowDataModule.scaler", {"mean": torch.ones(()), "std": 1}),
    "timetables, a list": (BEST_CHECKPOINT, "WindowDataModule.timetables", [1]),
    "a timetable, a number": (BEST_CHECKPOINT, "WindowDataModule.timetables", {"AAPL": 5}),
    **{
        f"a timetable with {name}": (BEST_CHECKPOINT, "WindowDataModule.timetables", {"AAPL": {**TIMETABLE, **change}})
        for name, change in TIMES.items()
    },
}  # fmt: skip


@pytest.mark.parametrize(("file", "key", "value"), STATES.values(), ids=STATES)
def test_a_value_that_refold_never_writes_is_refused_when_a_run_is_opened(file, key, value, run_dir, tmp_path):
    directory = Path(
        shutil.copytree(run_dir, tmp_path / "copied", ignore=shutil.ignore_patterns("figures", "last.ckpt"))
    )
    state = torch.load(directory / file, weights_only=True)
    *parents, last = key.split(".")
    node = state
    for parent in parents:
        node = node[parent]
    node[last] = value
    torch.save(state, directory / file)
    with pytest.raises(refold.ConfigError, match=rf"{Path(file).name} (lacks|is spoilt: )") as refusal:
        refold.load_run(directory)
    assert str(refusal.value).isprintable()


SETTINGS = {
    "no data": ("data", None),
    "no table": ("data.source.table", None),
    "no checks": ("data.checks", None),
    "no threshold": ("threshold", None),
    "a score, a text": ("score", "x"),
    "windows below none": ("data.window_size", -1),
}


@pytest.mark.parametrize(("key", "value"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_are_no_sections_are_refused_by_name(key, value, run_dir, tmp_path):
    directory = Path(
        shutil.copytree(run_dir, tmp_path / "copied", ignore=shutil.ignore_patterns("figures", "last.ckpt"))
    )
    settings = yaml.safe_load((directory / RESOLVED).read_text())
    *parents, last = key.split(".")
    node = settings
    for parent in parents:
        node = node[parent]
    node[last] = value
    (directory / RESOLVED).write_text(yaml.safe_dump(settings))
    with pytest.raises(refold.ConfigError, match=rf"{RESOLVED}: {key} is "):
        refold.load_run(directory)


RESULTS = {
    "depth": b"[" * 200_000,
    "digits": b'{"a":' + b"9" * 9_000 + b"}",
    "not UTF-8": b"\xff\xfe\x00",
    "nothing": b"",
    "size": b" " * 1_100_000,
}


@pytest.mark.parametrize("content", RESULTS.values(), ids=RESULTS)
def test_a_broken_result_is_one_message(content, run_dir, tmp_path):
    directory = Path(
        shutil.copytree(run_dir, tmp_path / "copied", ignore=shutil.ignore_patterns("figures", "last.ckpt"))
    )
    (directory / RESULT).write_bytes(content)
    with pytest.raises(refold.ConfigError, match=rf"{RESULT} cannot be read: "):
        _ = refold.load_run(directory).result


@pytest.mark.parametrize("file", [BEST_CHECKPOINT, DETECTOR, RESULT], ids=str)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(file, run_dir, tmp_path):
    directory = Path(
        shutil.copytree(run_dir, tmp_path / "copied", ignore=shutil.ignore_patterns("figures", "last.ckpt"))
    )
    (directory / file).unlink()
    os.mkfifo(directory / file)
    with pytest.raises(refold.ConfigError, match="it is not a file"):
        _ = refold.load_run(directory).result


def test_an_escape_sequence_in_the_settings_does_not_reach_the_terminal(run_dir, tmp_path):
    directory = Path(
        shutil.copytree(run_dir, tmp_path / "copied", ignore=shutil.ignore_patterns("figures", "last.ckpt"))
    )
    settings = yaml.safe_load((directory / RESOLVED).read_text())
    settings["alignment"] = "\x1b[31m"
    (directory / RESOLVED).write_text(yaml.safe_dump(settings))
    with pytest.raises(refold.ConfigError, match=r"its settings say .*\\x1b") as refusal:
        refold.load_run(directory)
    assert str(refusal.value).isprintable()


def test_a_run_that_is_still_training_is_no_finished_one(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "copied", ignore=shutil.ignore_patterns("figures", "best.ckpt", "detector.pt"))
    with pytest.raises(refold.ConfigError, match=r"is not a finished run: there is no .*best\.ckpt"):
        refold.load_run(tmp_path / "copied")
