"""A run with a predictor, from its training to what its directory gives back."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from conftest import compose_run, train_tiny

from refold.config.build import build_data
from refold.errors import ConfigError
from refold.library.run import load_run
from refold.report.summary import print_summary, tables

P = 3
SETTINGS = ("decoder=repeat", "predictor=conditional", f"predictor.horizon={P}", "teacher_forcing=constant")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Configuration, result and directory of a tiny run."""
    directory = tmp_path_factory.mktemp("composite") / "run"
    return *train_tiny(directory, *SETTINGS), directory


@pytest.mark.slow
def test_its_metrics_are_those_of_the_model_that_comes_back(trained):
    cfg, result, directory = trained
    run, data = load_run(directory), build_data(cfg)
    data.setup()
    windows = data.test_windows
    assert windows.horizon == run.autoencoder.horizon == P
    index = np.arange(len(windows))
    with torch.no_grad():
        made = run.autoencoder.predict(run.autoencoder.encode(windows.gather(index)))
    bars = windows.ahead(index)[0]
    for step in range(P):
        deviation = (bars[:, step] - bars[:, step].mean(dim=0)).square().sum()
        r2 = 1 - (made - bars)[:, step].square().sum() / deviation
        assert result["metrics"][f"test/prediction_r2_{step + 1}"] == pytest.approx(r2.item(), abs=1e-5)
    assert result["metrics"]["test/prediction_mse"] == pytest.approx((made - bars).square().mean().item(), rel=1e-5)


@pytest.mark.slow
def test_it_stands_beside_the_last_value_the_mean_and_a_regression(trained, capsys):
    _, result, directory = trained
    assert result["prediction"]["horizon"] == P
    baselines = result["prediction"]["baselines"]
    assert list(baselines) == ["last_value", "mean", "ridge"]
    for found in (result["metrics"], *baselines.values()):
        assert {f"{split}/prediction_r2_{n}" for split in ("val", "test") for n in range(1, P + 1)} <= set(found)
    # R2 compares with the mean of the part itself, which no mean that was learned before can beat
    assert baselines["mean"]["test/prediction_r2"] <= 0
    assert baselines["ridge"]["val/prediction_r2"] > baselines["mean"]["val/prediction_r2"]
    assert json.loads((directory / "result.json").read_text())["prediction"] == result["prediction"]
    (caption,) = [name for name in tables(result) if "predicted" in name]
    assert list(tables(result)[caption]) == ["LSTM autoencoder", "last value", "mean", "ridge on the window"]
    print_summary(result, directory)
    assert "ridge on the window" in capsys.readouterr().out


@pytest.mark.slow
def test_every_number_of_it_is_logged(trained):
    _, result, directory = trained
    names, *rows = [line.split(",") for line in (directory / "metrics.csv").read_text().splitlines()]
    last = dict(zip(names, rows[-1], strict=True))
    assert float(last["ridge/test/prediction_r2_1"]) == pytest.approx(
        result["prediction"]["baselines"]["ridge"]["test/prediction_r2_1"]
    )
    assert float(last["test/prediction_r2_3"]) == pytest.approx(result["metrics"]["test/prediction_r2_3"])
    held = {name for row in rows for name, value in zip(names, row, strict=True) if value}
    assert {"train/prediction_loss", "val/prediction_mse", "val/prediction_r2_1"} <= held


@pytest.mark.slow
def test_no_predictor_logs_nothing_of_it(run_dir):
    result = json.loads((run_dir / "result.json").read_text())
    assert "prediction" not in result
    assert not [name for name in result["metrics"] if "prediction" in name]
    assert compose_run([]).predictor is None


@pytest.mark.slow
def test_a_finished_run_judges_bars_by_what_it_predicts_and_one_without_a_predictor_says_why_not(trained, run_dir):
    cfg, _, directory = trained
    bars = build_data(cfg).source.load().group_by("asset", maintain_order=True).head(150)
    said = load_run(directory).score(bars, score="prediction", alignment="last")
    early = said.filter(pl.col("reason") == "no_window_before")
    assert early.height == 32 * bars["asset"].n_unique()
    assert said["score"].count() > 300
    with pytest.raises(ConfigError, match="score is CompositeScore, which needs a model that predicts: train with"):
        load_run(run_dir).score(bars, score="composite")
