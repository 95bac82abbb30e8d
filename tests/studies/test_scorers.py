"""The evaluation on planted errors: what counts, where thresholds come from, and the natural test."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from refold.data.recipe import Recipe
from refold.data.sources import Stocks
from refold.scoring.baselines import PCA, Chance, Components, Everything
from refold.scoring.rules import RobustReturn, SpikeReversal, SplitRatio, StaleRun, UnitRatio
from refold.scoring.scores import Mahalanobis
from refold.studies.inject import KINDS
from refold.studies.scorers import ALL, CompareScorers, NaturalTest, all_scorers, part_bars, spoil
from tests.data.makers import checks, fractions, random_bars, ready, table
from tests.scoring.test_detector import detector, small_autoencoder

BARS = random_bars([900, 900], seed=5)
RECIPE = Recipe(("log_return",), "per_asset", 1.0, 8, 0, fractions(), 0, checks(), "keep", "pooled", 2)
PARTS = part_bars(BARS, RECIPE)


def evaluation(**others) -> CompareScorers:
    settings = {"kinds": ["bad tick", "stale", "split", "unit"], "per_thousand": 10.0, "max_buffer": 4, "natural": None}
    return CompareScorers(**{**settings, **others})


def measured(scorers, **others):
    """(scorer, kind) -> its row."""
    result = evaluation(**others).measure(PARTS, scorers, checks(), warm_up=20, seed=0)
    return {(row["scorer"], row["kind"]): row for row in result["errors"]}


def test_parts_are_the_bars_of_the_split():
    assert pl.concat(PARTS.values()).sort("asset", "timestamp").equals(BARS)
    assert PARTS["train"]["timestamp"].max() < PARTS["val"]["timestamp"].min()
    assert PARTS["val"]["timestamp"].max() < PARTS["test"]["timestamp"].min()
    assert {part: bars.height for part, bars in PARTS.items()} == {"train": 1080, "val": 360, "test": 360}


def test_what_counts():
    one = spoil(PARTS["test"], "stale", per_thousand=10, warm_up=20, generator=np.random.default_rng(0))
    scores = np.arange(360.0)
    scores[50] = np.nan
    series = list(one.series(scores))
    assert len(series) == 2
    assert np.isneginf(series[0][0]).sum() == 1  # a bar without a score is kept, as the least strange
    assert series[0][0][np.isfinite(series[0][0])].min() == 20  # the warm-up is not
    rows = np.concatenate([known for known, _ in series])
    after = np.flatnonzero(one.error[:-1] & ~one.error[1:]) + 1
    assert len(after) == 3
    assert not set(after) & set(rows)  # nor the bar after an error
    assert one.jump.sum() == 3
    assert set(np.flatnonzero(one.jump)) <= set(rows)
    assert not (one.jump & one.error).any()
    labels = np.concatenate([labels for _, labels in series])
    assert labels.sum() == one.error.sum()


def test_a_rule_finds_its_own_kind_and_chance_finds_nothing():
    rows = measured({"stale": StaleRun(), "unit": UnitRatio(), "chance": Chance(0), "all": Everything()})
    assert rows["unit", "unit"]["average_precision"] == 1
    assert rows["stale", "stale"]["average_precision"] == pytest.approx(1)
    assert rows["stale", "stale"]["event_recall"] == 1
    assert rows["stale", "unit"]["average_precision"] < 0.1
    assert rows["chance", ALL]["auroc"] == pytest.approx(0.5, abs=0.1)
    assert rows["all", ALL]["event_recall"] == rows["all", ALL]["jumps_flagged"] == 1
    assert rows["all", ALL]["event_f1"] < 0.05


def test_real_jumps_are_flagged_by_size_and_not_by_what_comes_back():
    rows = measured({"z": RobustReturn(), "back": SpikeReversal()}, kinds=["bad tick"], per_thousand=30.0)
    assert rows["z", "bad tick"]["event_recall"] >= 0.4
    assert rows["z", "bad tick"]["jumps_flagged"] > 0.3
    assert rows["back", "bad tick"]["event_recall"] >= 0.4
    assert rows["back", "bad tick"]["jumps_flagged"] < 0.1


def test_the_threshold_is_that_of_validation_whatever_the_test_part_holds():
    other = {**PARTS, "test": random_bars([250, 250], seed=9)}
    thresholds = [
        evaluation().measure(parts, {"z": RobustReturn()}, checks(), warm_up=20, seed=0)["errors"][0]["threshold"]
        for parts in (PARTS, other)
    ]
    assert thresholds[0] == thresholds[1]


def test_scorers_are_fitted_to_clean_bars_and_never_to_the_test_part():
    class Spy(RobustReturn):
        def fit(self, train, val):
            assert train.equals(PARTS["train"])
            assert val.equals(PARTS["val"])
            return super().fit(train, val)

    assert measured({"spy": Spy()})


def test_what_the_checks_find_is_said():
    result = evaluation(kinds=["unit"]).measure(PARTS, {"unit": UnitRatio()}, checks(), warm_up=20, seed=0)
    gap = result["checks"].pop("gap")
    assert 0.8 <= gap <= 1  # a bar that both assets miss is none that the calendar expects
    assert result["checks"] == {"broken bar": 1.0, "duplicate": 1.0}
    closes = {part: bars.select("timestamp", "asset", "close") for part, bars in PARTS.items()}
    result = evaluation(kinds=["unit"]).measure(closes, {"unit": UnitRatio()}, checks(), warm_up=20, seed=0)
    assert set(result["checks"]) == {"duplicate", "gap"}


def test_the_same_seed_repeats_itself():
    one, two, other = (
        evaluation(kinds=["bad tick"]).measure(PARTS, {"z": RobustReturn()}, checks(), warm_up=20, seed=seed)["errors"]
        for seed in (0, 0, 1)
    )
    assert one == two
    assert one != other


@pytest.mark.parametrize("kinds", [["gap"], ["spike"], []])
def test_kinds_that_no_scorer_sees_are_refused(kinds):
    with pytest.raises(ValueError, match=r"evaluation\.kinds .*; it must .*bad tick, wick, stale, split, unit"):
        evaluation(kinds=kinds)


def test_the_natural_test_counts_splits_moves_and_other_flags():
    splits = [["AAPL", "2000-06-21"], ["AAPL", "2005-02-28"], ["MSFT", "2003-02-18"]]
    natural = NaturalTest(source=Stocks(table=table(adjusted=False)), splits=splits, moves=[["AAPL", "2000-09-29"]])
    bars = natural.source.load()
    by_ratio = natural.judge(SplitRatio(), 1.0)
    assert (by_ratio["splits"], by_ratio["splits_flagged"], by_ratio["splits_named"]) == (3, 3, 3)
    assert (by_ratio["moves"], by_ratio["moves_flagged"], by_ratio["others_per_1000_bars"]) == (1, 0, 0)
    by_size = natural.judge(RobustReturn().fit(bars, bars), 2.5)
    assert by_size["moves_flagged"] == 1
    assert by_size["moves_called_error"] == 0
    everything = natural.judge(Everything(), 0.5)
    assert everything["others_per_1000_bars"] == pytest.approx(1000 * (bars.height - 4) / bars.height)


def test_components_are_the_pca_as_an_autoencoder():
    data = ready(BARS)
    pca = PCA(4, seed=0).fit(data.train_windows)
    model = Components(pca, data.train_windows)
    windows = data.test_windows.gather(torch.arange(5))
    codes = model.encode(windows)
    assert codes.shape == (5, 4)
    assert torch.allclose(model.decode(codes, 8), pca.reconstruct(windows).float())


@pytest.mark.slow
def test_the_model_and_all_that_it_is_held_against_on_its_own_data():
    data = ready(BARS)
    result = evaluation(kinds=["unit"]).run(detector(data, autoencoder=small_autoencoder()), data, seed=3)
    assert result["seed"] == 3
    scores = {row["scorer"]: row["average_precision"] for row in result["errors"] if row["kind"] == ALL}
    assert set(scores) == {
        "LSTM autoencoder", "PCA, 3 components", "robust z of returns", "isolation forest",
        "no model: asinh(z)^2", "spike-reversal rule",
        "stale-run rule", "split-ratio rule", "unit-ratio rule", "random", "flag everything", "four rules",
        "rules + robust z", "rules + PCA", "rules + LSTM autoencoder",
    }  # fmt: skip
    assert scores["LSTM autoencoder"] > 3 * scores["random"]  # even untrained: a hundredfold price is hard to miss
    assert scores["LSTM autoencoder"] != scores["PCA, 3 components"]
    assert scores["rules + LSTM autoencoder"] == pytest.approx(scores["four rules"], abs=0.2)


def test_the_page_shows_all_scorers_and_kinds():
    page = (Path(__file__).parents[2] / "docs/scorers.md").read_text()
    data = ready(BARS)
    for name in all_scorers(detector(data, autoencoder=small_autoencoder()), data, seed=0):
        shown = name.replace("PCA, 3", "PCA, 16")
        assert len(re.findall(rf"^ +{re.escape(shown)}  +[\d-]", page, flags=re.MULTILINE)) == 4, shown
    assert re.findall(r"^\| ([a-z ]+) \| .* \| .* \|$", page, flags=re.MULTILINE)[1:] == list(KINDS)


def test_the_detector_of_the_run_is_left_as_it_was():
    data = ready(BARS)
    given = detector(data, autoencoder=small_autoencoder(), score=Mahalanobis())
    for scorer in all_scorers(given, data, seed=0).values():
        scorer.fit(PARTS["train"], PARTS["val"])
    assert not hasattr(given.score_function, "mean")
