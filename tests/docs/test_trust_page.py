"""docs/trust.md counts the cases that were tried, and there are as many."""

import re
import subprocess
import sys
from collections import Counter

import pytest
from conftest import ROOT

ROWS = re.findall(r"^\| (tests/\S+\.py) \| (\d+) \|", (ROOT / "docs/trust.md").read_text(), flags=re.MULTILINE)


@pytest.mark.slow
def test_the_cases_that_were_tried_are_counted():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *(name for name, _ in ROWS)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    found = Counter(line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line)
    assert {name: int(cases) for name, cases in ROWS} == dict(found)
    assert sum(found.values()) >= 400
