"""docs/tutorial.ipynb and the Python of README and docs/python.md run as they stand."""

import json
import re
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT

import refold

NOTEBOOK = json.loads((ROOT / "docs/tutorial.ipynb").read_text())


def python_of(page: str) -> str:
    """All Python blocks of a page, as one program."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL))


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with prices.csv, in which the test runs, with no key for W&B."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    days = pl.date_range(pl.date(2020, 1, 1), pl.date(2022, 9, 26), eager=True)
    rows = [f"{day},{100 + number % 7},{50 + number % 5}" for number, day in enumerate(days)]
    (tmp_path / "prices.csv").write_text("\n".join(["date,AAPL,MSFT", *rows]) + "\n")
    return tmp_path / "prices.csv"


@pytest.mark.slow
def test_the_tutorial_finds_the_error_that_it_plants(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 7
    names: dict = {}
    for cell in cells:
        exec(cell, names)
    worst = names["verdicts"].sort("score", descending=True, nulls_last=True).row(0, named=True)
    assert worst["flagged"]
    assert abs((worst["timestamp"] - names["spoilt_on"]).days) <= 4  # of the bar itself, or of the way back after it
    assert (tmp_path / "report.html").stat().st_size > 100_000


@pytest.mark.slow
def test_the_python_of_the_readme_runs(prices):
    names: dict = {}
    exec(python_of("README.md"), names)
    assert isinstance(names["run"], refold.Run)
    assert {"timestamp", "asset", "score", "level", "flagged", "kind"} <= set(names["verdicts"].columns)


@pytest.mark.slow
def test_the_python_of_the_library_page_runs(prices, capsys):
    names: dict = {}
    exec(python_of("docs/python.md"), names)
    assert "did you mean autoregressive?" in capsys.readouterr().out
    assert names["reconstruction"].shape == names["windows"].shape
    assert names["codes"].height > 0
    assert Path("report.html").exists()
