"""What importing a part of `refold.data` costs: a table is read without torch, windows are cut without Lightning."""

import subprocess
import sys

import pytest

import refold.data

HEAVY = ("torch", "lightning")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "loaded"),
    [
        ("import refold.data.sources, refold.data.bars.checks, refold.data.bars.features", set()),
        ("from refold.data import Batch, Scaler, WindowLoader; import refold.data.pipeline", {"torch"}),
    ],
)
def test_only_what_is_asked_for_is_imported(code, loaded):
    code += f"; import sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert set(printed.split()) == loaded


def test_every_public_name_is_there():
    for name in refold.data.__all__:
        assert getattr(refold.data, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'WindowDataModul'"):
        refold.data.WindowDataModul  # noqa: B018
