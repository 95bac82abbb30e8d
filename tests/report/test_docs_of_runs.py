"""docs/logging.md names what a run logs, docs/compare.md shows commands that run."""

import csv
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, clean_environment
from runs_on_disk import measured, settings_of, write_run

LOGGING, COMPARE = ((ROOT / f"docs/{name}.md").read_text() for name in ("logging", "compare"))
COMMANDS = re.findall(r"^    (python scripts/compare\.py .*?)(?:\s{2,}#.*)?$", COMPARE, flags=re.MULTILINE)


@pytest.mark.slow
def test_the_table_names_all_that_a_run_logs_and_nothing_else(tiny_run, tmp_path):
    cells = re.findall(r"^\| (`[^|]+`[^|]*) \|", LOGGING, flags=re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"`(\w+/[\w/]+)`", cell)}
    tiny_run("predictor=repeat", "predictor.horizon=1")
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        columns = set(csv.DictReader(file).fieldnames) - {"epoch", "step"}
    families = {name for name in columns if name.startswith(("pca/", "mean/", "last_value/", "ridge/"))}
    assert {"pca/test/r2", "mean/val/reconstruction_mse", "ridge/test/prediction_r2_1"} <= families
    assert columns - families == documented


def test_the_commands_are_found():
    assert len(COMMANDS) == 5


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_runs(line, tmp_path):
    for seed in (0, 1):
        write_run(
            tmp_path / f"outputs/{seed}_r", settings_of(f"seed={seed}"), metrics=measured(0.5 + seed), curve=[1.0]
        )
    script, *arguments = shlex.split(line)[1:]
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments], cwd=tmp_path, env=clean_environment(tmp_path),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in re.findall(r"--(?:html|csv) (\S+)", line):
        assert (tmp_path / name).stat().st_size > 0
