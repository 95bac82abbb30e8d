"""The page of a comparison: what it holds, and that a browser draws all of it."""

import base64
import csv
import gzip
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, clean_environment
from runs_on_disk import measured, settings_of, write_run

from refold.report.comparison_page import write_comparison
from refold.runs.comparison import compare
from refold.runs.fixed_windows import FIXED_WINDOWS, FixedWindows
from refold.runs.records import find_runs

CURVE = [0.9, 0.5, 0.4]


def windows(made: float, asset: str = "A") -> FixedWindows:
    present = np.ones((2, 3), dtype=bool)
    present[1, 2] = False
    moments = np.datetime64("2020-01-01") + np.arange(6).reshape(2, 3)
    truth = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    return FixedWindows(truth, truth + made, present, np.array(["x", "y"]), np.array([asset, "B"]), moments)


@pytest.fixture(scope="module")
def sweep_once(tmp_path_factory):
    """Seven settings of two seeds, with reconstructions; one run on other windows, one that was cut."""
    folder = tmp_path_factory.mktemp("runs") / "sweep_a"
    number = 0
    for decoder in ("repeat", "autoregressive"):
        for rate in (1e-3, 2e-3, 4e-3, 8e-3):
            for seed in (0, 1):
                cfg = settings_of(f"decoder={decoder}", f"optimizer.lr={rate}", f"seed={seed}")
                value = (0.2 if decoder == "repeat" else 0.5) + rate + 0.0001 * seed
                directory = write_run(folder / f"{number}_r", cfg, metrics=measured(value), curve=[*CURVE, value])
                (directory / "figures").mkdir()
                windows(0.1 * number, "A" if number else "OTHER").save(directory / FIXED_WINDOWS)
                number += 1
    write_run(folder / "99_cut", settings_of("seed=3", "optimizer.lr=0.002"), metrics=None, curve=CURVE)
    return folder


@pytest.fixture
def sweep(sweep_once, tmp_path):
    return shutil.copytree(sweep_once, tmp_path / "outputs/sweep_a")


def payload(page) -> dict:
    found = re.search(r'<script type="text/plain" id="packed-data">(.*?)</script>', page.read_text(), flags=re.DOTALL)
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


@pytest.mark.slow
def test_the_page_holds_every_run_its_curves_and_the_same_windows(sweep, tmp_path):
    page = tmp_path / "page.html"
    write_comparison(page, compare(find_runs([sweep])), title="a <b>title</b>")
    text, data = page.read_text(), payload(page)
    assert "a &lt;b&gt;title&lt;/b&gt;" in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)  # needs no network
    assert data["facts"]["runs"] == "17"
    assert data["facts"]["finished"] == "16"
    assert [axis["label"] for axis in data["parallel"]["dimensions"]] == [
        "decoder", "lr", "seed", "val/reconstruction_mse",
    ]  # fmt: skip
    assert data["parallel"]["dimensions"][0]["names"] == ["autoregressive", "repeat"]
    assert data["parallel"]["dimensions"][3]["values"][:2] == [0.201, 0.202]  # the best run of each row first
    assert len(data["curves"]["runs"]) == 17
    assert data["curves"]["runs"][0]["curves"]["val/reconstruction_mse"]["y"] == [*CURVE, 0.201]
    names = [run["name"] for run in data["curves"]["runs"]]
    assert [name for name in names if "(" in name] == ["autoregressive · 0.002 · seed 3 (cut)"]
    assert data["importance"]["names"][0] == "decoder"
    assert len(data["table"]["rows"]) == 9
    assert data["table"]["finished"] == [True] * 8 + [False]
    assert data["table"]["best"][0] == 0

    shown = data["windows"]
    assert shown["labels"] == ["OTHER, from 2020-01-01", "B, from 2020-01-04"]  # those of the best run
    assert len(shown["runs"]) == 1
    assert "15 were measured on other windows" in shown["note"]
    windows(0.0).save(sweep / "0_r" / FIXED_WINDOWS)
    write_comparison(page, compare(find_runs([sweep])), title="")
    shown = payload(page)["windows"]
    assert len(shown["runs"]) == 8
    assert shown["truth"] == [[[0, 2, 4], [1, 3, 5]], [[6, 8, None], [7, 9, None]]]  # W x F x T, nothing where absent
    assert shown["runs"][1]["made"][0][0] == pytest.approx([0.2, 2.2, 4.2])


def test_what_there_is_not_is_left_out(tmp_path):
    write_run(tmp_path / "0_a", settings_of(), metrics=measured(0.5))
    write_comparison(tmp_path / "page.html", compare(find_runs([tmp_path])), title="one run")
    data = payload(tmp_path / "page.html")
    assert data["parallel"] is None
    assert data["windows"] is None
    assert "1 finished runs are too few" in data["importance"]["note"]


@pytest.mark.slow
def test_a_browser_draws_all_of_it(sweep, tmp_path, open_page):
    windows(0.0).save(sweep / "0_r" / FIXED_WINDOWS)
    write_comparison(tmp_path / "page.html", compare(find_runs([sweep])), title="runs")
    document, console = open_page(tmp_path / "page.html")
    assert [line for line in console if "WebGL" not in line and "GL Driver" not in line] == []
    assert 'data-ready="yes"' in document
    drawn = set(re.findall(r'id="([\w-]+)-plot"[^>]*class="plot[^"]*js-plotly-plot"', document))
    drawn |= set(re.findall(r'class="plot[^"]*js-plotly-plot"[^>]*id="([\w-]+)-plot"', document))
    assert drawn == {"parallel", "importance", "curves", "windows"}
    assert document.count("<tr") >= 10
    assert "Note: 1 of 17 runs did not finish" in document


@pytest.mark.slow
def test_the_command_prints_writes_and_refuses(sweep, tmp_path):
    def run(*arguments):
        command = [sys.executable, str(ROOT / "scripts/compare.py"), *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=clean_environment(tmp_path), capture_output=True, text=True, check=False
        )

    done = run("outputs", "--html", "page.html", "--csv", "table.csv")
    assert done.returncode == 0, done.stderr
    assert "2 seeds" in done.stdout
    assert "cut: epoch 3 of" in done.stdout
    assert payload(tmp_path / "page.html")["facts"]["runs"] == "17"
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 17
    assert rows[0]["decoder"] == "repeat"
    assert float(rows[0]["val/reconstruction_mse"]) == 0.201
    assert rows[-1]["status"] == "cut"
    refusals = {
        ("nowhere",): "nowhere: there is no directory nowhere",
        ("outputs", "--metric", "test/vus_pr"): "test/vus_pr: ",
        ("outputs", "--csv", "nowhere/table.csv"): "nowhere/table.csv cannot be written",
    }
    for arguments, message in refusals.items():
        refused = run(*arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
