"""What a run's numbers are called, and what they say."""

import pytest

from refold.library.evaluation import against, last_row
from tests.studies.test_price_errors import evaluation


def test_r2_against_a_baseline_is_zero_where_the_model_is_as_good():
    metrics = {"val/reconstruction_mse": 0.2, "test/reconstruction_mse": 0.3}
    baselines = {"pca": {"val/reconstruction_mse": 0.4, "test/reconstruction_mse": 0.3}}
    assert against(metrics, baselines) == {"val/r2_against_pca": 0.5, "test/r2_against_pca": 0.0}
    baselines["pca"]["val/reconstruction_mse"] = 0.0
    assert against(metrics, baselines) == {"test/r2_against_pca": 0.0}


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
