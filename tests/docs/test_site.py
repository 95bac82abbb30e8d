"""`make docs` builds, and the reference documents the public face."""

import subprocess
import sys

import pytest
from conftest import ROOT

import refold


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "site/reference/index.html").read_text()
    for name in ("refold.api.train", "refold.library.run.Run.score", "refold.models.build"):
        assert f'id="{name}"' in reference, name
    assert refold.__version__
