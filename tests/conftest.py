"""Compose once per test into a temporary directory; start `train.py` as a user would."""

import base64
import copy
import functools
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from composing import keep_compositions
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

import refold
import refold.config.build

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"

keep_compositions()

TINY = [
    "logger=csv",
    "decoder=autoregressive",
    "data.stride=16",
    "layers.hidden_size=8",
    "layers.latent_dim=4",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
]
"""A whole run in about a second."""


sys.dont_write_bytecode = False  # to rewrite the assertions of 150 files takes 8 CPU seconds: once is enough
gc.set_threshold(50_000, 20, 20)  # the default searches torch's million objects after every few thousand new ones


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what was imported and collected out of every later search for garbage: it stays to the end."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a quick test train without rendering its pictures: that takes four fifths of a tiny run's time."""
    global renders_pictures
    renders_pictures = any(item.get_closest_marker(name) for name in ("slow", "pictures"))


renders_pictures = True
BLANK_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAD0lEQVR4nGP4jwMwDC0JALoev0Ewkwr8AAAAAElFTkSuQmCC"
)
"""A white square, 8 by 8."""


def slow_but(quick: Collection, values: Iterable) -> list[Any]:
    """Parameters of a test, all but a few of them marked slow.

    Args:
        quick: those that `make quick` tries too.
        values: all that `make test` tries; a tuple has a value for each of several names.
    """
    values = list(values)
    assert all(value in values for value in quick)
    several = [value if isinstance(value, tuple) else (value,) for value in values]
    marks = [[] if value in quick else [pytest.mark.slow] for value in values]
    return [pytest.param(*each, marks=chosen) for each, chosen in zip(several, marks, strict=True)]


def leave_pictures_blank() -> None:
    """Let quick tests of this process write a blank picture for each figure that is drawn; slow ones render them."""
    from refold.report import figures

    if not isinstance(figures.save, functools.partial):
        figures.save = functools.partial(_save_or_leave_blank, figures.save)


def _save_or_leave_blank(save: Callable[..., Path], figure: object, path: Path) -> Path:
    if renders_pictures:
        return save(figure, path)
    path.write_bytes(BLANK_PNG)
    return path


@functools.lru_cache(maxsize=256)
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def compose_run(overrides: list[str], *, definite: bool = True) -> DictConfig:
    """The configuration that `train.py` would see, with a run id and, if definite, no `auto` left in the trainer."""
    from refold.launch.hardware import find_machine, plan
    from refold.runs.settings import to_plain

    cfg = copy.deepcopy(_composed(tuple(overrides)))
    with open_dict(cfg):
        names = {"version": refold.__version__, "id": "test-run", "group": None, "settings": None}
        cfg.run = {**names, "choices": {}, "overrides": overrides}
        if definite:
            cfg.trainer = plan(to_plain(cfg.trainer), find_machine()).settings
    return cfg


@pytest.fixture
def tiny_run(tmp_path: Path) -> Callable[..., tuple[DictConfig, dict]]:
    """Train in this process: (*overrides) -> configuration and result; the run directory is tmp_path / "run"."""

    def run(*overrides: str, directory: str = "run") -> tuple[DictConfig, dict]:
        return train_tiny(tmp_path / directory, *overrides)

    return run


def train_tiny(directory: Path, *overrides: str) -> tuple[DictConfig, dict]:
    """Train in this process, into a directory. Returns: configuration and result."""
    from refold.cli import train
    from refold.runs.settings import open_run

    leave_pictures_blank()
    cfg = compose_run([*TINY, *overrides])
    open_run(cfg, directory)
    return cfg, train.train(cfg, directory)


@pytest.fixture(scope="session")
def train_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Train once in this process: (*overrides) -> a copy of the run directory, to be used up."""

    @functools.cache
    def train(*overrides: str) -> Path:
        directory = tmp_path_factory.mktemp("trained") / "run"
        train_tiny(directory, *overrides)
        return directory

    def copied(*overrides: str) -> Path:
        return shutil.copytree(train(*overrides), tmp_path_factory.mktemp("runs") / "run")

    return copied


@pytest.fixture(scope="module")
def run_dir(train_once: Callable[..., Path]) -> Path:
    """A tiny run on the embedded stocks, for the scripts that use runs."""
    return train_once()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """`python scripts/NAME.py ...` in this process: (name, *arguments) -> exit status, stdout, stderr."""
    from refold.cli.command import run_command

    def call(name: str, *arguments: str) -> tuple[int, str, str]:
        main = import_module(f"refold.cli.{name}").main
        monkeypatch.setattr("sys.argv", [f"{name}.py", *arguments])
        status = run_command(main, CONF)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run `python train.py ...` in an empty directory with an empty home."""

    def run(*arguments: str, script: str = "train.py", timeout: float = 300, **env: str) -> subprocess.CompletedProcess:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, str(ROOT / script), *arguments], cwd=tmp_path, env={**clean_environment(home), **env},
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str, str], str]:
    """Make a Python module that a `_target_` can name: (name, code) -> the PYTHONPATH on which it is found."""

    def write(name: str, code: str) -> str:
        folder = tmp_path / "modules"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(code)
        return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])

    return write


def run_directories(where: Path) -> list[Path]:
    """The directories of finished runs."""
    return sorted(path.parent for path in where.rglob("result.json") if "latest" not in path.parts)


def wait_for(log: Path, text: str, seconds: float = 120) -> None:
    """Wait until a text stands in a file."""
    end = time.monotonic() + seconds
    while not log.exists() or text not in log.read_text():
        assert time.monotonic() < end, f"{text!r} did not appear in: {log.read_text()}"
        time.sleep(0.05)


def clean_environment(home: Path) -> dict[str, str]:
    """The environment without W&B's and Hydra's variables, and with a home that holds no key."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "HYDRA", "PYTEST"))}
    fonts = Path(tempfile.gettempdir()) / "refold-tests-matplotlib"  # finding all fonts takes seconds: once is enough
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(fonts)}


@pytest.fixture
def open_page(tmp_path):
    """(page, fragment) -> its document after its scripts ran, and what they wrote to the console."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")

    def show(path: Path, fragment: str = "") -> tuple[str, list[str]]:
        profile = tmp_path / "profile"
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0", "--window-size=1300,2000",
             "--virtual-time-budget=30000", "--dump-dom", path.as_uri() + fragment],
            capture_output=True, text=True, timeout=180, check=True,
        )  # fmt: skip
        shutil.rmtree(profile)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return show
