"""docs/troubleshooting.md: each message is one that is given, and what it says to type composes."""

import errno
import importlib.metadata
import logging
import re
import shlex
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from conftest import CONF, ROOT, compose_run, slow_but
from hydra import compose, initialize_config_dir

from refold.config.arguments import resume_arguments
from refold.config.build import build_data
from refold.config.explain import explain
from refold.config.validate import check
from refold.errors import RefoldError
from refold.export import writer as export
from refold.launch import workers as launch
from refold.launch.hardware import Machine, plan
from refold.library.run import load_run
from refold.runs.checkpoints import read_checkpoint
from refold.runs.directory import LAST_CHECKPOINT, RESULT, full_disk_as_refold_error, refuse_existing_run
from refold.runs.records import find_runs, read_run
from refold.runs.resume import Resume
from refold.runs.settings import to_plain
from refold.runs.state import lock_run
from refold.scoring.unlike import refuse_unlike
from refold.training import loggers
from tests.report.runs_on_disk import measured, settings_of, write_run

TEXT = (ROOT / "docs/troubleshooting.md").read_text()
ROWS = re.findall(r"^\| `(.*?)` \| (?:.*?) \| (.*) \|$", TEXT, flags=re.MULTILINE)


def raised(call: Callable, *arguments) -> str:
    """The message of the mistake that a call ends in."""
    with pytest.raises(RefoldError) as caught:
        call(*arguments)
    return str(caught.value)


# ---- settings --------------------------------------------------------------------------------------------------------


def said(*overrides: str) -> str:
    """What `python train.py` answers to settings: its refusal, or its warnings."""
    try:
        return "\n".join(check(compose_run(list(overrides), definite=False)))
    except RefoldError as error:
        return str(error)
    except Exception as error:  # Hydra's, of a composition
        return explain(error, CONF) or "a traceback"


# ---- data: days of one asset, with one thing wrong -------------------------------------------------------------------

DAYS = [date(2020, 1, 1) + timedelta(number) for number in range(400)]
CLOSES = [10 + number % 7 for number in range(400)]
WIDE = ["date,AAPL", *(f"{day},{close}" for day, close in zip(DAYS, CLOSES, strict=True))]
LONG = ["date,symbol,close", *(f"{day},AAPL,{close}" for day, close in zip(DAYS, CLOSES, strict=True))]
VOLUME = ["date,symbol,close,volume", *(f"{line},{100 + n % 5}" for n, line in enumerate(LONG[1:]))]


def with_line(lines: list[str], row: int, line: str) -> list[str]:
    """The first sixty days of a file with another line; row 1 is the header."""
    return [*lines[: row - 1], line, *lines[row:61]]


AMERICAN = ["date,AAPL", *(f"{day:%m/%d/%Y},{close}" for day, close in zip(DAYS[12:], CLOSES[12:], strict=True))]
STANDING = ["date,symbol,close,last", *(f"{day},AAPL,10,{close}" for day, close in zip(DAYS, CLOSES, strict=True))]

# A part of the message -> a file, the settings that it is read with beside windows of 4 bars, and whether what the page
# says to type suffices to read it.
FILES: dict[str, tuple[list[str], list[str], bool]] = {
    "has no date column": (with_line(WIDE, 1, "day,AAPL"), [], True),
    "is not a number": (with_line(WIDE, 3, "2020-01-02,n/a"), [], False),
    "is not an ISO 8601 date": (AMERICAN, [], True),
    "policies.duplicate is error": ([*with_line(WIDE, 3, WIDE[2]), WIDE[2]], [], True),
    "policies.missing_value is error": (with_line(LONG, 3, "2020-01-02,AAPL,"), [], True),
    "which needs open": (WIDE, ["data.features=[overnight_return]"], True),
    "is -inf": (with_line(VOLUME, 22, "2020-01-21,AAPL,12,0"), ["data.features=[volume_change]"], True),
    "data.window_size is 64": (WIDE[:61], ["data.window_size=64"], False),
    "leaves no windows for val": (WIDE, ["data.window_size=32"], True),
    "which is constant (0)": (STANDING[:61], [], True),
}


def read(part: str, *remedy: str) -> None:
    """Read a file as `python train.py` does."""
    lines, settings, _ = FILES[part]
    Path("prices.csv").write_text("\n".join(lines) + "\n")
    build_data(compose_run(["data=csv", "data.path=prices.csv", "data.window_size=4", *settings, *remedy])).setup()


def without_skfolio(patch: pytest.MonkeyPatch) -> str:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    patch.setattr(importlib.metadata, "distribution", missing)
    return raised(build_data(compose_run(["data=panel"])).setup)


# ---- the machine -----------------------------------------------------------------------------------------------------


def planned(machine: Machine, *overrides: str) -> str:
    return raised(plan, to_plain(compose_run(list(overrides), definite=False).trainer), machine)


CPU, TWO_GPUS = (
    Machine(gpus=0, cores=2, gpu_bf16=False, cpu_bf16=False),
    Machine(gpus=2, cores=8, gpu_bf16=True, cpu_bf16=False),
)
FALLS = "import os, signal, time; os.environ['RANK'] == '1' and os.kill(os.getpid(), signal.SIGKILL); time.sleep(60)"


def killed() -> str:
    workers = launch.Workers([sys.executable, "-c", FALLS], Path())
    workers.start(2, {})
    try:
        return workers.wait().message
    finally:
        workers.reap(0)


def diverged(tiny_run: Callable) -> str:
    settings = ("optimizer=sgd", "optimizer.lr=1e38", "trainer.gradient_clip_val=null", "lr_schedule=constant")
    return raised(tiny_run, *settings)


def on_a_full_disk() -> str:
    def fill() -> None:
        with full_disk_as_refold_error(Path("outputs/run")):
            raise OSError(errno.ENOSPC, "No space left on device")

    return raised(fill)


def logged_offline(patch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> str:
    patch.setattr(loggers.wandb, "login", lambda **_: False)
    patch.setattr(loggers.wandb, "init", lambda **_: None)
    with caplog.at_level(logging.INFO):
        loggers._start_online({"dir": Path("outputs/run")}, None)
    return caplog.messages[-1]


def logged_no_more(caplog: pytest.LogCaptureFixture) -> str:
    def fail(*_, **__) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with caplog.at_level(logging.WARNING):
        loggers.WandbRun(SimpleNamespace(id="r", log=fail), Path(), logged=(-1, set()), log_model=False).log_metrics(
            {"a": 1.0}, 1
        )
    return caplog.messages[-1]


# ---- going on, and afterwards ----------------------------------------------------------------------------------------


def finished(directory: str = "run") -> Path:
    """A run directory with settings, a result and an empty last.ckpt."""
    path = write_run(Path(directory), settings_of(), metrics=measured(0.5))
    (path / "checkpoints").mkdir()
    (path / LAST_CHECKPOINT).touch()
    return path


def held_twice() -> None:
    with lock_run(Path("run")), lock_run(Path("run")):
        pass


def broken_result() -> str:
    path = finished()
    (path / RESULT).write_text('{"metrics": ')
    return read_run(path).note


def without_onnx(patch: pytest.MonkeyPatch) -> str:
    patch.setitem(sys.modules, "onnxscript.function_libs.torch_lib.ops.core", None)
    return raised(export._save_onnx, None, Path("model.onnx"), {})


def scored_on_closes() -> str:
    names = ["overnight_return"]
    recipe = SimpleNamespace(entries=names, features=names, layout="per_asset")
    bars = pl.DataFrame({"timestamp": [1], "asset": ["A"], "close": [1.0]})
    return raised(refuse_unlike, SimpleNamespace(recipe=recipe), bars, "prices.csv")


# A part of the message -> what brings it about; `use` gives fixtures.
GIVEN: dict[str, Callable] = {
    "optimizer.momentm": lambda use: said("optimizer.momentm=0.8"),
    "decoder=lstm": lambda use: said("decoder=lstm"),
    "data.path has no value": lambda use: said("data=csv"),
    "cannot be read as key=value": lambda use: said("data.path=prices(1).csv"),
    "a run has one option": lambda use: said("decoder=repeat,conditional"),
    "these are several values": lambda use: said("seed=0,1"),
    "decoder.dropout is 0.1": lambda use: said("decoder.dropout=0.1"),
    "teacher_forcing has no effect": lambda use: said("decoder=repeat", "teacher_forcing=linear"),
    "sweep=wandb": lambda use: said("+sweep=wandb"),
    "there is no such file": lambda use: raised(build_data(compose_run(["data=csv", "data.path=prices.csv"])).setup),
    **{part: lambda use, part=part: raised(read, part) for part in FILES},
    "skfolio": lambda use: without_skfolio(use("monkeypatch")),
    "has no GPU": lambda use: planned(CPU, "trainer=gpu"),
    "this machine has 2 GPUs": lambda use: planned(TWO_GPUS, "trainer=gpu", "trainer.devices=4"),
    "trainer.num_nodes is 2": lambda use: planned(TWO_GPUS, "trainer.num_nodes=2"),
    "a CPU has no float16": lambda use: planned(CPU, "trainer.precision=16-mixed"),
    "was killed by SIGKILL": lambda use: killed(),
    "never a number": lambda use: diverged(use("tiny_run")),
    "No space left on device": lambda use: on_a_full_disk(),
    "W&B: offline": lambda use: logged_offline(use("monkeypatch"), use("caplog")),
    "W&B: not logged": lambda use: logged_no_more(use("caplog")),
    "resume is latest": lambda use: raised(resume_arguments, ["resume=latest"]),
    "keeps its settings": lambda use: raised(Resume(str(finished())).config, ["optimizer.lr=0.1"]),
    "a run is there already": lambda use: raised(refuse_existing_run, compose_run([]), finished()),
    "is in use": lambda use: raised(held_twice),
    "cannot be read as a checkpoint": lambda use: raised(read_checkpoint, finished() / LAST_CHECKPOINT),
    "is not a finished run": lambda use: raised(load_run, finished()),
    "missing open": lambda use: scored_on_closes(),
    "is not a run and holds none": lambda use: raised(find_runs, ["."]),
    "result.json is broken": lambda use: broken_result(),
    "format is onnx": lambda use: without_onnx(use("monkeypatch")),
}  # fmt: skip


def test_every_row_is_held_to_one_that_is_given():
    for message, _ in ROWS:
        assert len([part for part in GIVEN if part in message]) == 1, message
    assert len(ROWS) == len(GIVEN)
    assert len(ROWS) == len(re.findall(r"^\| `", TEXT, flags=re.MULTILINE))


@pytest.mark.parametrize("message", [message for message, _ in ROWS])
def test_the_message_is_given(message, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    give = next(give for part, give in GIVEN.items() if part in message)
    wanted = ".*".join(re.escape(part) for part in message.split("..."))
    assert re.fullmatch(wanted, give(request.getfixturevalue).replace("`", ""), flags=re.DOTALL)


@pytest.mark.parametrize("part", [part for part, (*_, suffices) in FILES.items() if suffices])
def test_what_to_type_mends_it(part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (remedy,) = [remedy for message, remedy in ROWS if part in message]
    read(part, *shlex.split(re.search(r"`([^`]+)`", remedy).group(1)))


def settings_to_type() -> list[str]:
    spans = [span for _, remedy in ROWS for span in re.findall(r"`([^`]+)`", remedy)]
    return sorted({span for span in spans if re.match(r"'?[a-z_/.]+=(?![A-Z])", span)})


def test_settings_to_type_are_found():
    assert len(settings_to_type()) >= 15


@pytest.mark.parametrize("settings", slow_but(settings_to_type()[::2], settings_to_type()))
def test_what_to_type_is_right(settings):
    overrides = ["data=csv", "data.path=prices.csv", *shlex.split(settings)]
    if any(text.startswith("resume=") for text in overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            compose("train", overrides=overrides)
    else:
        check(compose_run(overrides, definite=False))
