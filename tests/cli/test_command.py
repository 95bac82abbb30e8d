"""How a program ends on what its user does."""

import os
import runpy
import signal
import sys

import pytest
from conftest import CONF, ROOT

from refold.cli.command import run_command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_listens_for_it_is_told_apart_from_success_and_failure(number):
    before = signal.getsignal(number)
    assert run_command(lambda: os.kill(os.getpid(), number), CONF) == 130
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("name", ["compare", "encode", "export", "score"])
def test_a_script_that_is_asked_for_help_shows_its_commands(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"scripts/{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / f"scripts/{name}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.count(f"python scripts/{name}.py") >= 2
