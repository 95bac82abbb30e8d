"""A run directory is data: opening one builds Refold's parts where they belong, and imports and resolves no more."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from conftest import slow_but, train_tiny
from omegaconf import OmegaConf

from refold.cli import main
from refold.errors import ConfigError
from refold.library.run import load_run
from refold.runs.resume import Resume
from refold.runs.settings import read_settings
from refold.runs.trust import known_parts

RAN = "the command ran"
COMMAND = f"__import__('os').environ.__setitem__('REFOLD_RAN', '{RAN}')"


@pytest.fixture
def foreign(run_dir, tmp_path):
    """Copy a run, change its settings: (dotted key, value) -> its directory."""

    def change(key: str, value) -> Path:
        directory = tmp_path / "foreign"
        shutil.copytree(run_dir, directory, dirs_exist_ok=True)
        settings = yaml.safe_load((directory / "resolved.yaml").read_text())
        *parents, last = key.split(".")
        node = settings
        for parent in parents:
            node = node[parent]
        node[last] = value
        (directory / "resolved.yaml").write_text(yaml.safe_dump(settings))
        return directory

    return change


EVIL = [
    {"_target_": "builtins.eval", "_args_": [COMMAND]},
    {"_target_": "sympy.sympify", "_args_": [COMMAND]},
    {"_target_": "torch.load", "f": "x", "weights_only": False},
    {"_target_": "numpy.load", "file": "x", "allow_pickle": True},
    {"_target_": "pandas.read_pickle", "filepath_or_buffer": "x"},
    {"_target_": "torch.hub.load", "repo_or_dir": "x", "model": "y"},
    {"_target_": "pathlib.Path.write_text", "_args_": ["x", "y"]},
    {"_target_": "refold.models.LSTMEncoder"},  # ours, in another place
    {"_target_": ["builtins.eval"]},
    {"_target_": "builtins.eval", "_partial_": True, "_args_": [COMMAND]},
    {"_call_": 1},
    [{"_target_": "builtins.eval", "_args_": [COMMAND]}],
    {"a": [{"b": {"_target_": "builtins.eval", "_args_": [COMMAND]}}]},
]


KEYS = ["encoder.dropout", "threshold.share", "data.source.path", "run.choices", "odd"]


@pytest.mark.parametrize("evil", EVIL, ids=str)
@pytest.mark.parametrize("key", slow_but(KEYS[:2], KEYS))
def test_a_part_has_no_place_where_a_value_belongs(key, evil, foreign, monkeypatch):
    monkeypatch.delenv("REFOLD_RAN", raising=False)
    with pytest.raises(ConfigError, match=r"no part has its place there|is not a setting of|not one of Refold's parts"):
        load_run(foreign(key, evil))
    assert "REFOLD_RAN" not in os.environ


@pytest.mark.parametrize(
    "target",
    ["mine.Decoder", "os.system", "refold.cli.command.run_command", "refold.models.LSTMEncoder", "refold.models", ""],
)
def test_a_part_that_is_not_refolds_is_not_even_imported(target, foreign, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(f"import os\nos.environ['REFOLD_RAN'] = '{RAN}'\nDecoder = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("REFOLD_RAN", raising=False)
    with pytest.raises(ConfigError, match=r"decoder\._target_ is .*, which is not one of Refold's parts.*: trust="):
        load_run(foreign("decoder._target_", target))
    assert "REFOLD_RAN" not in os.environ
    assert "mine" not in sys.modules


@pytest.mark.parametrize("key", ["_args_", "_partial_", "_recursive_", "_convert_", "_anything_"])
def test_what_else_tells_hydra_how_to_build_is_refused(key, foreign):
    with pytest.raises(ConfigError, match=rf"decoder\.{key} is not a setting of"):
        load_run(foreign(f"decoder.{key}", True))


@pytest.mark.parametrize("name", ["score", "encode", "export"])
def test_no_command_builds_what_a_foreign_run_names(name, foreign, script):
    directory = foreign("encoder.dropout", EVIL[0])
    status, _, errors = script(name, f"run={directory}")
    assert status == 2
    assert "encoder.dropout holds a _args_ (builtins.eval), and no part has its place there" in errors


def test_neither_resume_nor_a_job_by_hand_builds_it(foreign, monkeypatch, capsys):
    directory = foreign("encoder.dropout", EVIL[0])
    with pytest.raises(ConfigError, match="no part has its place there"):
        Resume(str(directory)).config([])
    monkeypatch.setattr(sys, "argv", ["train.py", "--job", str(directory / "resolved.yaml")])
    assert main.run_subcommand("train") == 2
    assert "no part has its place there" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "x-${oc.env:HOME}", "${oc.env:HOME,x}"])
def test_no_environment_variable_that_a_foreign_run_names_is_read(value, foreign):
    cfg = read_settings(foreign("data.source.path", value) / "resolved.yaml")
    for _ in range(3):  # going through plain values brings no interpolation to life
        cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    assert "$env{HOME}" in cfg.data.source.path
    assert os.environ["HOME"] not in cfg.data.source.path


@pytest.mark.parametrize(
    "value", ["${encoder}", "${oc.decode:x}", "${oc.env:${oc.env:A}}", "${hydra:runtime.cwd}", "\\${a}", "${oc.env:}"]
)
def test_any_other_interpolation_is_refused(value, foreign):
    with pytest.raises(ConfigError, match=r"decoder holds an interpolation, .*; nothing in a run dir.* is resolved"):
        load_run(foreign("decoder", value))


BOMBS = {
    "aliases": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\ntrainer: {}\n",
    "depth": "trainer: " + "[" * 200_000,
    "depth of blocks": "\n".join(" " * level + "a:" for level in range(500)),
    "size": "trainer: {}\nx: " + "y" * 2_000_000,
    "values": "trainer: [" + "1, " * 100_000 + "1]",
    "a long value": "trainer: {}\nx: " + ":".join("9" * 30_000),
    "a number of 9,000 digits": "trainer: {}\nx: " + "9" * 9_000,
    "a tag": "trainer: !!python/object/apply:os.system [echo]",
    "a key twice": "trainer: {}\ntrainer: {}",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_a_file_that_would_take_time_or_memory_is_refused(text, tmp_path):
    (tmp_path / "resolved.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"resolved\.yaml cannot be read: "):
        read_settings(tmp_path / "resolved.yaml")


def test_every_option_of_conf_is_known_in_its_place():
    places = known_parts()
    assert "refold.models.RepeatDecoder" in places["decoder"][0]
    assert "refold.data.bars.table.Table" in places["data.source.table"][0]
    assert "refold.training.teacher_forcing.Linear" in places["teacher_forcing.schedule"][0]
    assert places["optimizer"] == (
        {"torch.optim.Adam", "torch.optim.AdamW", "torch.optim.SGD"}, {"_target_", "_partial_"}
    )  # fmt: skip
    assert "encoder.dropout" not in places


OWN = """
from refold.models import RepeatDecoder

class Decoder(RepeatDecoder):
    pass
"""


@pytest.mark.slow
def test_a_part_of_ones_own_is_built_where_it_is_trusted(tmp_path, monkeypatch, script):
    (tmp_path / "my_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    train_tiny(tmp_path / "run", "decoder=repeat", "decoder._target_=my_parts.Decoder")  # the user's own choice
    with pytest.raises(ConfigError, match=r"decoder\._target_ is my_parts\.Decoder, .*: trust=my_parts$"):
        load_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="trust=my_parts"):
        load_run(tmp_path / "run", trust=["my"])
    assert type(load_run(tmp_path / "run", trust=["my_parts"]).autoencoder.decoder).__name__ == "Decoder"
    status, _, errors = script("export", f"run={tmp_path / 'run'}")
    assert status == 2
    assert "trust=my_parts" in errors
    status, _, errors = script("score", f"run={tmp_path / 'run'}", "trust=my_parts")
    assert status == 0, errors
    assert Resume(str(tmp_path / "run")).config(["trust=my_parts"], ["my_parts"]).decoder._target_ == "my_parts.Decoder"
