"""How a program ends on what its user does, and on what nobody foresaw."""

import os
import runpy
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CONF, ROOT, TINY, clean_environment

from refold import program
from refold.cli.command import run_command
from refold.cli.main import COMMANDS
from refold.cli.options import describe_options
from refold.errors import ConfigError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_listens_for_it_is_told_apart_from_success_and_failure(number):
    before = signal.getsignal(number)
    assert run_command(lambda: os.kill(os.getpid(), number), CONF) == 130
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("name", ["check", "compare", "encode", "export", "score"])
def test_a_script_that_is_asked_for_help_shows_its_commands(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"scripts/{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / f"scripts/{name}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.count(f"python scripts/{name}.py") >= 2


# ---- how it was started ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("started", "train", "score"),
    [
        ("train.py", "python train.py", "python scripts/score.py"),
        ("/home/me/refold/scripts/score.py", "python train.py", "python scripts/score.py"),
        ("/usr/bin/refold", "refold train", "refold score"),
        ("refold score", "refold train", "refold score"),
        ("/usr/lib/python3/refold/__main__.py", "refold train", "refold score"),
        ("", "refold train", "refold score"),
    ],
)
def test_commands_in_messages_are_those_that_work_where_they_are_read(started, train, score, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started])
    assert (program.command_words("train"), program.command_words("score")) == (train, score)
    text = "Go on with: python train.py resume=latest, then python scripts/score.py run=outputs/latest"
    assert program.as_started(text) == f"Go on with: {train} resume=latest, then {score} run=outputs/latest"


def test_help_lists_every_option_and_those_of_ones_own_folder(tmp_path):
    (tmp_path / "decoder").mkdir()
    (tmp_path / "decoder/mine.yaml").touch()
    listed = dict(
        line.split(": ", 1) for line in describe_options(["--config-dir", str(tmp_path)], CONF).splitlines()
        if ": " in line
    )  # fmt: skip
    assert "mine" in listed["decoder"].split(", ")
    for folder in (path for path in CONF.rglob("*") if path.is_dir() and path.name not in ("base", "sweep")):
        options = {path.stem for path in folder.glob("*.yaml")} | ({"mine"} if folder.name == "decoder" else set())
        assert set(listed.pop(str(folder.relative_to(CONF))).split(", ")) == options
    assert set(listed) == {"Every key of the chosen options can be set"}


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


HEAVY = ("torch", "polars", "lightning", "hydra", "omegaconf", "pandas", "scipy", "sklearn", "matplotlib", "wandb")


@pytest.mark.parametrize(
    "code",
    [
        "import refold",
        "from refold.cli.main import main; sys.argv = ['refold', '--help']; main()",
        "from refold.cli.main import main; sys.argv = ['refold', 'train', '--help']; main()",
    ],
)
def test_what_needs_nothing_heavy_imports_nothing_heavy(code):
    allowed = ("omegaconf",) if "train" in code else ()
    done = python(f"import sys; {code}; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)")
    assert done.returncode == 0
    assert done.stderr.strip().splitlines()[-1] in ("[]", str(list(allowed)))


def test_the_commands_are_listed():
    done = python("import sys; from refold.cli.main import main; sys.argv = ['refold', '--help']; main()")
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


# ---- what ends in one message ---------------------------------------------------------------------------------------


def fail():
    raise ArithmeticError("one\ntwo")


def test_an_error_that_nobody_foresaw_ends_in_one_sentence_and_a_log(capsys):
    assert run_command(fail) == os.EX_SOFTWARE
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("ArithmeticError: one: Refold did not expect this; the traceback is in ")
    assert len(printed.splitlines()) == 1
    log = Path(printed.rpartition(" ")[2])
    assert "in fail" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    log.unlink()


BREAKS = """
from refold.training.losses import SquaredErrorLoss

class Loss(SquaredErrorLoss):
    '''Squared error that fails in training.'''
    def __call__(self, *arguments):
        raise ArithmeticError("of a part")
"""


@pytest.mark.slow
def test_an_error_in_training_is_kept_in_the_log_of_the_run(command, module, tmp_path):
    done = command(*TINY, "loss=mse", "loss._target_=breaks.Loss", PYTHONPATH=module("breaks", BREAKS))
    assert done.returncode == os.EX_SOFTWARE
    (run_dir,) = (tmp_path / "outputs").iterdir()
    assert done.stderr.strip() == (
        f"ArithmeticError: of a part: Refold did not expect this; the traceback is in {run_dir / 'train.log'}"
    )
    assert "in __call__" in (run_dir / "train.log").read_text()


def test_a_mistake_is_its_message(capsys):
    def refuse():
        raise ConfigError("run has no value")

    assert run_command(refuse) == 2
    assert capsys.readouterr().err == "run has no value\n"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py --help", "train.py --cfg job", "scripts/score.py --help"])
def test_a_reader_may_close_the_pipe(script, tmp_path):
    name, *arguments = script.split()
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, str(ROOT / name), *arguments], stdout=writing, stderr=subprocess.PIPE, text=True,
        cwd=tmp_path, env=clean_environment(tmp_path), timeout=120, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_training_whose_reader_has_left_goes_on_to_its_end(tmp_path):
    with subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *TINY, "trainer.devices=2"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=clean_environment(tmp_path),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=300)) == ("", 0)
    assert list(tmp_path.glob("outputs/*/result.json"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("++trainer.limit_val_batches=0", "trainer.limit_val_batches is 0; it must be greater than 0"),
        ("++trainer.limit_test_batches=0.0", "trainer.limit_test_batches is 0.0; it must be greater than 0"),
        ("++trainer.fast_dev_run=true", "trainer.max_steps=2"),
        ("trainer.devices=100000", "trainer.devices is 100000; this machine has"),
    ],
)
def test_settings_of_the_trainer_under_which_no_run_can_end_are_refused(setting, message):
    from conftest import compose_run

    from refold.config.validate import check

    with pytest.raises(ConfigError, match=message.replace("+", r"\+")):
        check(compose_run(["trainer.accelerator=cpu", setting], definite=False))
