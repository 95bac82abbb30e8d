"""The evaluation that ends a run: names of metrics, warnings, and values that are missing, with their reasons."""

import csv
import json
import math
from datetime import date, timedelta

import polars as pl
import pytest
import torch

from refold.library.doubts import find_divergence, reasons_for_missing, without_infinities
from refold.library.evaluation import last_row
from refold.library.reconstruction_baselines import r2_against_baselines
from refold.report.summary import print_summary
from refold.runs.records import read_run
from refold.training.saving import Checkpoints
from tests.studies.test_scorers import evaluation


def test_r2_against_a_baseline_is_zero_where_the_model_is_as_good():
    metrics = {"val/reconstruction_mse": 0.2, "test/reconstruction_mse": 0.3}
    baselines = {"pca": {"val/reconstruction_mse": 0.4, "test/reconstruction_mse": 0.3}}
    assert r2_against_baselines(metrics, baselines) == {"val/r2_against_pca": 0.5, "test/r2_against_pca": 0.0}


@pytest.mark.parametrize("rounding", [0.0, 1e-31, 1e-13])
def test_r2_against_a_baseline_without_an_error_is_blank(rounding):
    metrics = {"val/reconstruction_mse": 0.2, "test/reconstruction_mse": 0.3}
    baselines = {"pca": {"val/reconstruction_mse": rounding, "test/reconstruction_mse": 0.3}}
    found = r2_against_baselines(metrics, baselines)
    assert found == {"val/r2_against_pca": None, "test/r2_against_pca": 0.0}
    _, missing = without_infinities({"metrics": found}, reasons_for_missing(baselines))
    assert missing == {"metrics.val/r2_against_pca": "PCA has no error left on val"}


def test_loggers_get_what_the_model_finds_of_planted_errors():
    found = {"average_precision": 0.4, "vus_pr": 0.3, "event_f1": 0.5, "auroc": 0.9}
    rows = [
        {"scorer": "robust z of returns", "kind": "all kinds", **dict.fromkeys(found, 0.1)},
        {"scorer": "LSTM autoencoder", "kind": "bad tick", **dict.fromkeys(found, 0.2)},
        {"scorer": "LSTM autoencoder", "kind": "all kinds", **found},
    ]
    metrics = evaluation().metrics({"errors": rows})
    assert metrics == {"errors/average_precision": 0.4, "errors/vus_pr": 0.3, "errors/event_f1": 0.5}
    result = {
        "metrics": {"val/reconstruction_mse": 0.2, "val/r2": 0.1, "test/r2": 0.3, "val/r2_against_pca": 0.0, **metrics},
        "baselines": {"pca": {"test/r2": 0.4}},
        "detector": {"level": 3.0, "test/alarms_per_asset_year": 2.0},
    }
    assert last_row(result, "val/reconstruction_mse") == pytest.approx({
        "best/val/reconstruction_mse": 0.2, "test/r2": 0.3, "val/r2_against_pca": 0.0, "pca/test/r2": 0.4,
        "test/alarms_per_asset_year": 2.0, **metrics,
    })  # fmt: skip
    assert "test/alarms_per_asset_year" not in last_row({**result, "detector": None}, "val/reconstruction_mse")


def test_what_json_cannot_hold_is_null_and_says_why():
    result = {"metrics": {"test/r2": -math.inf, "val/r2": 0.5}, "rows": [{"x": math.nan}, (1, math.inf)], "none": None}
    plain, missing = without_infinities(result, reasons_for_missing({}))
    assert plain == {"metrics": {"test/r2": None, "val/r2": 0.5}, "rows": [{"x": None}, [1, None]], "none": None}
    assert set(missing) == {"metrics.test/r2", "rows.0.x", "rows.1.1"}
    assert "stand still" in missing["metrics.test/r2"]
    assert "nan" in missing["rows.0.x"]
    json.dumps(plain, allow_nan=False)


@pytest.mark.parametrize(("error", "diverged"), [(0.5, False), (1.99, False), (2.1, True), (2213.0, True)])
def test_a_model_far_worse_than_the_training_mean_has_diverged(error, diverged):
    found = find_divergence({"val/reconstruction_mse": error}, {"mean": {"val/reconstruction_mse": 1.0}}, 100.0)
    assert bool(found) == diverged
    if found:
        assert "optimizer.lr = 100" in found
        assert f"{error:.4g}" in found


def strict(path):
    """Parse JSON; NaN and Infinity are refused."""

    def refuse(constant):
        raise ValueError(constant)

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.slow
@pytest.mark.pictures
def test_a_training_that_diverges_says_so(tiny_run, tmp_path, caplog, capsys):
    _, result = tiny_run("optimizer.lr=100", "trainer.max_epochs=3")
    (warning,) = [text for text in result["warnings"] if "diverged" in text]
    assert "optimizer.lr = 100" in warning
    assert warning in caplog.text
    assert strict(tmp_path / "run/result.json")["warnings"] == result["warnings"]
    print_summary(result, tmp_path / "run")
    assert warning in capsys.readouterr().out


@pytest.mark.slow
def test_weights_that_became_nan_are_said(tiny_run, monkeypatch):
    def spoil(self, trainer, module):
        epoch_end(self, trainer, module)  # best.ckpt is written with weights that are numbers
        with torch.no_grad():
            module.autoencoder.decoder.projection.bias.fill_(torch.nan)

    epoch_end = Checkpoints.on_train_epoch_end
    monkeypatch.setattr(Checkpoints, "on_train_epoch_end", spoil)
    _, result = tiny_run()
    assert any("decoder.projection.bias became NaN" in text for text in result["warnings"])
    assert result["metrics"]["test/reconstruction_mse"] > 0


def test_a_validation_error_that_is_no_number_or_grows_tenfold_is_said_once(tmp_path, caplog):
    checkpoints = Checkpoints(run_dir=tmp_path, monitor="val/reconstruction_mse", every_minutes=1)
    checkpoints.best_value = 0.5
    for value in (0.4, 4.9, 5.1, math.nan):
        checkpoints._warn_of_divergence(value, 3)
    assert caplog.text.count("training diverges") == 1
    assert "epoch 3: training diverges: val/reconstruction_mse is 5.1, its best was 0.5" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["linear", "cosine", "exponential", "inverse_sigmoid"])
def test_a_schedule_that_did_not_reach_its_end_is_said(schedule, tiny_run):
    key, steps = {
        "linear": ("steps", 1000), "cosine": ("steps", 1000), "exponential": ("half_life_steps", 300),
        "inverse_sigmoid": ("half_life_steps", 500),
    }[schedule]  # fmt: skip
    _, result = tiny_run(f"teacher_forcing={schedule}", f"teacher_forcing.schedule.{key}={steps}")
    (warning,) = [text for text in result["warnings"] if "teacher forcing" in text]
    steps = result["optimizer_steps"]
    assert f"the training had {steps:,}" in warning
    wanted = {"linear": "1,000", "cosine": "1,000", "exponential": "1,994"}
    assert wanted.get(schedule, "0.00 after") in warning
    assert "ended at a ratio of" in warning


@pytest.mark.slow
def test_a_share_is_of_the_steps_that_the_run_plans(tiny_run, tmp_path):
    settings = ["teacher_forcing=linear", "teacher_forcing.schedule.steps=0.5", "trainer.accumulate_grad_batches=2"]
    tiny_run(*settings, "trainer.max_steps=4", "trainer.max_epochs=9")
    with (tmp_path / "run/metrics.csv").open() as file:
        ratios = [row["train/teacher_forcing_ratio"] for row in csv.DictReader(file)]
    assert [float(text) for text in ratios if text] == [1.0, 0.5, 0.0, 0.0]


@pytest.mark.slow
def test_a_schedule_that_reached_its_end_or_feeds_nobody_is_not_spoken_of(tiny_run):
    _, reached = tiny_run("teacher_forcing=linear", "teacher_forcing.schedule.steps=2", directory="reached")
    _, unfed = tiny_run("teacher_forcing=linear", "decoder=repeat", directory="unfed")
    assert not [text for text in reached["warnings"] + unfed["warnings"] if "teacher forcing" in text]


@pytest.mark.slow
@pytest.mark.pictures
def test_a_test_part_that_stands_still_has_no_r2_and_says_why(tiny_run, tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    steps = 0.01 * torch.randn(600, generator=generator)
    steps[400:] = 0.0
    days = [date(2015, 1, 1) + timedelta(number) for number in range(600)]
    prices = pl.DataFrame({"timestamp": days, "asset": "STILL", "close": 100 * steps.cumsum(0).exp().numpy()})
    prices.write_csv(tmp_path / "prices.csv")
    _, result = tiny_run(
        "data=csv", f"data.path={tmp_path / 'prices.csv'}", "data.features=[log_return]", "data.window_size=8",
        "data.stride=1", "layers.latent_dim=8",
    )  # fmt: skip
    written = strict(tmp_path / "run/result.json")
    assert written["metrics"]["test/r2"] is None
    assert "test part stand still" in written["missing"]["metrics.test/r2"]
    assert written["metrics"]["test/neighbours"] is None
    assert written["metrics"]["test/reconstruction_mse"] >= 0
    assert written["metrics"]["test/r2_against_pca"] is None  # 8 numbers for 8 values
    assert "PCA has no error left" in written["missing"]["metrics.test/r2_against_pca"]
    print_summary(result, tmp_path / "run")
    assert "test/r2 has no value: the windows of the test part stand still" in capsys.readouterr().out
    assert "test/r2" not in read_run(tmp_path / "run").metrics
