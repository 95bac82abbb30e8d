"""How a program ends on what its user does."""

import os
import signal

import pytest
from conftest import CONF

from refold.command import run_command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_anything_listens_for_it_is_told_apart_from_success_and_failure(number):
    before = signal.getsignal(number)
    assert run_command(lambda: os.kill(os.getpid(), number), CONF) == 130
    assert signal.getsignal(number) is before
