"""Importance finds what a metric was made of, and says when there is nothing to find."""

import numpy as np
import pytest

from refold.runs.importance import FEWEST_RUNS, measure_importance


@pytest.fixture(scope="module")
def runs():
    draw = np.random.default_rng(1)
    N = 60
    settings = {
        "decoder": draw.choice(["repeat", "autoregressive", "conditional"], N).tolist(),
        "optimizer.lr": draw.choice([1e-3, 3e-3, 1e-2], N).tolist(),
        "layers": draw.choice(["one", "two"], N).tolist(),
        "seed": draw.integers(0, 5, N).tolist(),
        "data.stride": [1] * N,
    }
    effect = {"repeat": 0.0, "autoregressive": 1.0, "conditional": 1.1}
    values = [effect[d] + 30 * lr + 0.02 * e for d, lr, e in
              zip(settings["decoder"], settings["optimizer.lr"], draw.standard_normal(N), strict=True)]  # fmt: skip
    return settings, values


def test_what_made_the_metric_comes_first_and_what_did_not_is_worth_no_more_than_the_seed(runs):
    found = measure_importance(*runs)
    assert list(found.shares)[:2] == ["decoder", "optimizer.lr"]
    assert found.shares["decoder"][0] > 5 * found.shares["optimizer.lr"][0]
    assert abs(found.shares["layers"][0]) < 0.02
    assert abs(found.shares["seed"][0]) < 0.02
    assert "data.stride" not in found.shares
    assert found.explained > 0.9


def test_noise_is_called_noise(runs):
    settings, _ = runs
    found = measure_importance(settings, np.random.default_rng(2).standard_normal(60).tolist())
    assert found.explained < 0.2
    assert "noise" in found.note


def test_too_few_runs_are_said(runs):
    settings, values = runs
    few = FEWEST_RUNS - 1
    found = measure_importance({key: column[:few] for key, column in settings.items()}, values[:few])
    assert found.shares == {}
    assert found.note == f"{few} finished runs are too few to say; it takes {FEWEST_RUNS}"
    assert "nothing varies" in measure_importance({"a": [1] * 20}, list(range(20))).note
    assert "nothing varies" in measure_importance({"a": list(range(20))}, [0.5] * 20).note
