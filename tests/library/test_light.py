"""Nothing heavy is imported before it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import compose_run

from refold.config import build as config

LOADED = "import sys; print(*(name for name in {names!r} if name in sys.modules))"


def loaded_after(code: str, *names: str) -> list[str]:
    """Run code in a fresh process. Returns: which of these modules it loaded."""
    program = f"{code}\n{LOADED.format(names=names)}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_the_package_itself_is_light():
    assert loaded_after("import refold; refold.__version__; dir(refold)", "torch", "polars", "hydra", "lightning") == []


@pytest.mark.slow
def test_a_run_is_loaded_and_scores_without_lightning(run_dir: Path, tmp_path: Path):
    bars = config.build_data(compose_run([])).source.load().group_by("asset", maintain_order=True).head(80)
    bars.write_csv(tmp_path / "new.csv")
    code = f"import refold; run = refold.load_run({str(run_dir)!r}); run.score({str(tmp_path / 'new.csv')!r})"
    assert loaded_after(code, "lightning", "wandb", "plotly", "matplotlib", "sklearn", "pandas") == []
