"""The README says what is so: its commands run, its tables and its tree match the disk."""

import re
import runpy
import shlex
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest
from conftest import CONF, ROOT, TINY, clean_environment

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^    (python (?:train|scripts/\w+)\.py.*?)(?:\s{2,}#.*)?$", README, flags=re.MULTILINE)


def test_the_commands_are_found():
    assert len(COMMANDS) >= 11
    assert "python train.py decoder=autoregressive trainer.devices=4" in COMMANDS


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if "resume=" not in line])
def test_every_command_runs(line, tmp_path):
    (tmp_path / "docs").mkdir()
    rows = [f"{date(2020, 1, 1) + timedelta(day)},{100 + day % 7},{50 + day % 5}" for day in range(1000)]
    (tmp_path / "prices.csv").write_text("\n".join(["date,AAPL,MSFT", *rows]) + "\n")
    script, *arguments = shlex.split(line)[1:]
    if any(argument.startswith("run=") for argument in arguments):  # of a run such as whoever types it has
        trained = [*TINY, "data=csv", "data.path=prices.csv", "data.stride=1"]
        command = [sys.executable, str(ROOT / "train.py"), *trained]
        subprocess.run(command, cwd=tmp_path, env=clean_environment(tmp_path), capture_output=True, check=True)
    if script == "train.py" and not any(argument.startswith("--") for argument in arguments):
        keys = {argument.partition("=")[0] for argument in arguments}
        arguments += [setting for setting in TINY if setting.partition("=")[0] not in keys]
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments], cwd=tmp_path, env=clean_environment(tmp_path),
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_table_of_groups_is_what_is_on_disk():
    table = {
        group: set(re.findall(r"`([\w]+)`", options))
        for group, options in re.findall(r"^\| `([\w/]+)` \| (.*) \|$", README, flags=re.MULTILINE)
    }
    on_disk = {
        str(folder.relative_to(CONF)): {path.stem for path in folder.glob("*.yaml")}
        for folder in CONF.rglob("*")
        if folder.is_dir() and folder.name not in ("base", "sweep")
    }
    assert table == on_disk


def test_the_tree_is_what_is_on_disk():
    block = README.partition("## Where things are")[2].partition("###")[0]
    names = re.findall(r"^    (  )?([\w.]+/?\w*/?) {2,}", block, flags=re.MULTILINE)
    inside = {name for indent, name in names if indent}
    package = {path.name + "/" * path.is_dir() for path in (ROOT / "src/refold").iterdir()}
    assert inside == {name for name in package if not name.startswith("__")} - {"README.md"}
    for indent, name in names:
        assert (ROOT / ("src/refold" if indent else "") / name).exists(), name


def test_the_refusal_shown_is_the_refusal_given():
    from conftest import compose_run

    from refold.check import check
    from refold.errors import ConfigError

    command = re.search(r"\$ python train\.py (.*)\n((?:    - .*\n)+)", README)
    with pytest.raises(ConfigError) as caught:
        check(compose_run(shlex.split(command.group(1))))
    assert str(caught.value).splitlines() == [line.strip() for line in command.group(2).splitlines()]


def test_the_result_shown_is_a_whole_table():
    block = re.search(r"<!-- result: begin -->\n(.*?)<!-- result: end -->", README, flags=re.DOTALL).group(1)
    rows = re.findall(r"│ (LSTM autoencoder|PCA, 16 components|training mean) +│((?: +-?\d\.\d{4} │){4,5})", block)
    assert len(rows) == 3


def test_the_python_shown_runs(tiny_run, tmp_path, monkeypatch):
    tiny_run()
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/latest").symlink_to(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(import torch.*?)```", README, flags=re.DOTALL).group(1)
    names: dict = {}
    exec(code, names)
    assert names["reconstruction"].shape == names["windows"].shape


def test_the_files_it_links_to_are_there():
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_the_picture_of_the_schedules_shows_all_of_them():
    figure = runpy.run_path(str(ROOT / "scripts/plot_schedules.py"))["draw"]()
    shown = {line.get_label() for line in figure.axes[0].lines}
    assert shown == {path.stem for path in (CONF / "teacher_forcing").glob("*.yaml")}
    assert (Path(ROOT) / "docs/schedules.png").stat().st_size > 10_000
