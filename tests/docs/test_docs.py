"""The pages in docs/ say what is so: every command in them composes, and every file that they name is there."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from conftest import CONF, ROOT, slow_but
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

import refold.config.build  # noqa: F401  registers the resolvers

PAGES = sorted((ROOT / "docs").glob("*.md"))


def train_commands() -> list[str]:
    """Shown on lines of their own in docs/, or inside the text, in README too (tests/test_readme.py runs its lines)."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        found += re.findall(r"^    .*?python train\.py (.*?)(?:\s{2,}#.*)?$", text, flags=re.MULTILINE)
    for page in (*PAGES, ROOT / "README.md"):
        found += re.findall(r"`python train\.py ([^`]+)`", page.read_text().replace("\n", " "))
    patterns = ("resume=", "KEY=", "...")  # of a run that is not there, and places for the reader's own
    return sorted({line for line in found if not any(part in line for part in patterns)})


def test_commands_are_found():
    assert len(train_commands()) >= 8
    assert any("hydra/launcher=ray" in line for line in train_commands())
    assert "experiment=decoder_study" in train_commands()


@pytest.mark.parametrize("line", slow_but(train_commands()[::3], train_commands()))
def test_every_training_command_composes(line):
    arguments = [argument for argument in shlex.split(line) if argument not in ("-m", "--multirun")]
    if any(argument.startswith("--") for argument in arguments):  # --job, --config-dir: shown by tests of their own
        return
    chosen = []
    for text, override in zip(arguments, OverridesParser.create().parse_overrides(arguments), strict=True):
        if override.is_sweep_override():  # what a sweeper would put in its place: its first value, or any at all
            value = next(override.sweep_string_iterator()) if override.is_choice_sweep() else "0.001"
            text = f"{override.get_key_element()}={value}"
        chosen.append(text)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=chosen, return_hydra_config=True)
    assert cfg.hydra.launcher._target_


def test_every_extra_that_is_named_is_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pages = [page.read_text() for page in (*PAGES, ROOT / "README.md")]
    named = {name for text in pages for name in re.findall(r"(?:\.|refold)\[(\w+)\]['\"]", text)}
    assert named >= {"onnx", "ray", "slurm", "optuna"}
    assert named <= set(extras)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_are_there(page: Path):
    text = page.read_text()
    for target in re.findall(r"\]\(((?!http)[^)#]+)[)#]", text):
        assert (page.parent / target).is_file(), target
    for path in re.findall(r"\b((?:tests|scripts|conf|src)/[\w/.]+\.(?:py|yaml))\b", text):
        assert (ROOT / path).is_file(), path
