"""The README and the pages that it hands reference material to: commands run, tables and trees match the disk."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest
from conftest import CONF, ROOT, TINY, clean_environment, compose_run
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from refold.data.sources import Csv
from refold.studies import decoder_study

README = (ROOT / "README.md").read_text()
OPTIONS = (ROOT / "docs/options.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
STUDY = (ROOT / "docs/decoder_study.md").read_text()
HEAD = ("| decoder", "teacher_forcing", "layers")
COMMANDS = re.findall(r"^    (python (?:train|scripts/\w+)\.py.*?)(?:\s{2,}#.*)?$", README, flags=re.MULTILINE)


def test_the_commands_are_found():
    assert len(COMMANDS) >= 11
    assert "python train.py decoder=autoregressive trainer.devices=4" in COMMANDS


@pytest.fixture(scope="module")
def folder_with_a_run(tmp_path_factory):
    """Where a reader stands who has prices of his own and has trained on them."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "docs").mkdir()
    rows = [f"{date(2020, 1, 1) + timedelta(day)},{100 + day % 7},{50 + day % 5}" for day in range(1000)]
    (folder / "prices.csv").write_text("\n".join(["date,AAPL,MSFT", *rows]) + "\n")
    trained = [*TINY, "data=csv", "data.path=prices.csv", "data.stride=1", "data.scale=pooled"]
    run(folder, "train.py", trained, check=True)
    return folder


def run(folder, script, arguments, *, check=False):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments], cwd=folder, env=clean_environment(folder),
        capture_output=True, text=True, timeout=600, check=check,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in COMMANDS if "resume=" not in line])
def test_every_command_runs(line, folder_with_a_run, tmp_path):
    folder = shutil.copytree(folder_with_a_run, tmp_path / "reader", symlinks=True)
    script, *arguments = shlex.split(line)[1:]
    if script == "train.py" and not any(argument.startswith("--") for argument in arguments):
        keys = {argument.partition("=")[0] for argument in arguments}
        arguments += [setting for setting in TINY if setting.partition("=")[0] not in keys]
    done = run(folder, script, arguments)
    assert done.returncode == 0, done.stderr


def groups() -> dict[str, list[str]]:
    """The rows of the table of options: group -> its second column."""
    rows = re.findall(r"^\| `([\w/]+)` \| (.*?) \| .+ \|$", OPTIONS, flags=re.MULTILINE)
    return {group: options.split() for group, options in rows}


def test_the_table_of_groups_is_what_is_on_disk():
    table = {group: {option.strip("*`") for option in options} for group, options in groups().items()}
    on_disk = {
        str(folder.relative_to(CONF)): {path.stem for path in folder.glob("*.yaml")}
        for folder in CONF.rglob("*")
        if folder.is_dir() and folder.name not in ("base", "sweep")
    }
    assert table == on_disk


def test_the_table_of_groups_marks_the_defaults():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        choices = compose("train", return_hydra_config=True).hydra.runtime.choices
    for group, options in groups().items():
        bold = [option.strip("*`") for option in options if option.startswith("**")]
        chosen = next((option for name, option in choices.items() if name.partition("@")[0] == group), None)
        assert bold == ([chosen] if chosen else []), group


def test_help_lists_the_table_of_groups(tmp_path):
    done = run(tmp_path, "train.py", ["--help"], check=True)
    listed = re.findall(r"^([\w/]+): (.*)$", done.stdout, flags=re.MULTILINE)
    assert {group: set(options.split(", ")) for group, options in listed} == {
        group: {option.strip("*`") for option in options} for group, options in groups().items()
    }


def test_the_tree_is_what_is_on_disk():
    block = ARCHITECTURE.partition("## Where things are")[2].partition("## ")[0]
    names = re.findall(r"^    (  )?([\w.]+/?\w*/?) {2,}", block, flags=re.MULTILINE)
    inside = {name for indent, name in names if indent}
    package = {path.name + "/" * path.is_dir() for path in (ROOT / "src/refold").iterdir() if not path.is_symlink()}
    assert inside == {name for name in package if not name.startswith("__")} - {"README.md"}
    for indent, name in names:
        assert (ROOT / ("src/refold" if indent else "") / name).exists(), name


def test_the_refusal_shown_is_the_refusal_given():
    from refold.config.validate import check
    from refold.errors import ConfigError

    command = re.search(r"\$ python train\.py (.*)\n((?:    - .*\n)+)", README)
    with pytest.raises(ConfigError) as caught:
        check(compose_run(shlex.split(command.group(1))))
    assert str(caught.value).splitlines() == [line.strip() for line in command.group(2).splitlines()]


def test_the_result_shown_is_a_whole_table():
    block = re.search(r"<!-- result: begin -->\n(.*?)<!-- result: end -->", README, flags=re.DOTALL).group(1)
    rows = re.findall(r"│ (LSTM autoencoder|PCA, 16 components|training mean) +│((?: +-?\d\.\d{4} │){4,5})", block)
    assert len(rows) == 3


def test_the_study_shown_is_whole():
    study = OmegaConf.load(CONF / "experiment/decoder_study.yaml").hydra.sweeper.params
    block = STUDY.partition(decoder_study.BEGIN)[2].partition(decoder_study.END)[0]
    rows = {tuple(line.split(" | ")[:3]) for line in block.splitlines() if line.startswith("| ")} - {HEAD}
    decoders, schedules, layers = (text.split(",") for text in (study.decoder, study.teacher_forcing, study.layers))
    fed = [(decoder, schedule) for decoder in decoders for schedule in schedules if decoder != "repeat"]
    assert rows == {(f"| {one}", two, depth) for one, two in [*fed, ("repeat", "none")] for depth in layers}
    for group in decoder_study.GROUPS:
        assert f"- `{group}=" in block


def test_the_layouts_of_files_shown_are_read(tmp_path):
    block = re.search(r"^    (date,AAPL.*)\n    (.*)$", README, flags=re.MULTILINE).groups()
    wide, long = zip(*(line.split() for line in block), strict=True)
    table = instantiate(compose_run(["data=csv", "data.path=prices.csv"]).data.source.table)
    for lines, assets in ((wide, ["AAPL", "MSFT"]), (long, ["AAPL"])):
        (tmp_path / "prices.csv").write_text("\n".join(lines) + "\n")
        bars = Csv(path=str(tmp_path / "prices.csv"), separator=",", table=table).load()
        assert bars["asset"].to_list() == assets
        assert bars["close"][0] == 185.64
        assert ("volume" in bars.columns) == (lines is long)


def test_the_places_it_links_to_are_there():
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        path, _, anchor = target.partition("#")
        assert (ROOT / path).is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], target


def test_the_picture_of_the_schedules_shows_all_of_them():
    figure = runpy.run_path(str(ROOT / "scripts/plot_schedules.py"))["draw"]()
    shown = {line.get_label() for line in figure.axes[0].lines}
    assert shown == {path.stem for path in (CONF / "teacher_forcing").glob("*.yaml")}
    assert (Path(ROOT) / "docs/schedules.png").stat().st_size > 10_000
