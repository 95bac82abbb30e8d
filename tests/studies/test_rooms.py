"""A study is loaded by its own experiment alone."""

import json
import re

import pytest
from conftest import ROOT, TINY

WATCHED = """
import json, sys
from refold.cli.main import main
status = main()
print(json.dumps([status, [name for name in sys.modules if name.startswith("refold.")]]))
"""


@pytest.mark.slow
def test_an_ordinary_run_loads_no_study(command, tmp_path):
    (tmp_path / "watched.py").write_text(WATCHED)
    done = command("train", *TINY, script=str(tmp_path / "watched.py"))
    assert done.returncode == 0, done.stderr
    status, loaded = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    assert "refold.library.evaluation" in loaded  # the run went on to its end in this process
    assert [name for name in loaded if name.startswith("refold.studies")] == []


def test_no_other_room_imports_a_study():
    package = ROOT / "src/refold"
    files = [path for path in package.rglob("*.py") if path.parent.name != "studies"]
    assert len(files) > 50
    text = re.compile(r"^\s*(?:from|import) refold\.studies", re.MULTILINE)
    assert [path.name for path in files if text.search(path.read_text())] == ["errors_callback.py"]
