"""The wheel alone, away from the checkout, is enough: it carries options, data and pages, and every command runs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, TINY, clean_environment, run_directories

pytestmark = pytest.mark.slow

SHORT = [*TINY, "data.stride=64", "++trainer.limit_train_batches=4"]

LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")

START = "import sys; from refold.cli.main import main; sys.argv[0] = 'refold'; sys.exit(main())"
"""What the console script holds."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"  # a copy: what an earlier build left in build/ would go into the wheel
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=LEFT_OUT)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(sources)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder into which the wheel alone is installed."""
    folder = tmp_path_factory.mktemp("installed")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    return folder


@pytest.fixture(scope="module")
def user(installed, tmp_path_factory):
    """(*arguments, modules) -> what `refold ...` does in a folder of its own where the checkout is not to be found."""
    folder = tmp_path_factory.mktemp("user")

    def run(*arguments: str, code: str = START, modules: str = "") -> subprocess.CompletedProcess:
        path = os.pathsep.join(filter(None, [str(installed), modules]))
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments], cwd=folder,
            env={**clean_environment(folder), "PYTHONPATH": path}, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done

    run.folder = folder
    return run


def in_sources(*patterns: str) -> set[str]:
    """Files of the package that match, as the wheel calls them."""
    found = {path for pattern in patterns for path in (ROOT / "src/refold").glob(pattern)}
    return {str(path.relative_to(ROOT / "src")) for path in found if "__pycache__" not in path.parts}


def test_the_wheel_holds_all_that_the_package_reads(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    options = {f"refold/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    others = in_sources("**/*.py", "report/*.html", "report/*.css", "report/*.js", "data/embedded/*", "py.typed")
    assert len(options) > 50
    assert {"refold/py.typed", "refold/report/page.html"} <= others
    assert options | others <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_commands_run_from_another_folder(user, installed):
    where = user(code="import refold; print(refold.__file__)").stdout.strip()
    assert Path(where).parent.parent == installed
    alone = user("train", *SHORT)
    assert "Traceback" not in alone.stderr
    user("train", *SHORT, "trainer.devices=2")
    sweep = user("train", "-m", *SHORT, "decoder=autoregressive,repeat")
    assert "what differed, best first" in sweep.stdout
    runs = run_directories(user.folder)
    assert len(runs) == 4
    scored = user("score", "run=outputs/latest")
    assert "scores, events and report: " in scored.stdout
    assert list(user.folder.rglob("report.html"))
    user("encode", "run=outputs/latest")
    exported = user("export", "run=outputs/latest", "format=torch_export")
    assert "model.pt2" in exported.stdout
    user("compare", "outputs")


def test_options_of_ones_own(user):
    (user.folder / "my_conf/loss").mkdir(parents=True)
    (user.folder / "my_conf/loss/twice.yaml").write_text("_target_: mine.Twice\n")
    (user.folder / "mine.py").write_text(
        "from refold.training.losses import SquaredErrorLoss\n\n\n"
        "class Twice(SquaredErrorLoss):\n"
        "    def __call__(self, *arguments):\n"
        "        return 2 * super().__call__(*arguments)\n"
    )
    listed = user("train", "--config-dir", "my_conf", "--help").stdout
    assert "loss: huber, mae, mse, twice, window_log" in listed
    assert "refold train decoder=conditional" in listed
    assert "python train.py" not in listed
    user("train", "--config-dir", "my_conf", "loss=twice", *SHORT, modules=str(user.folder))
