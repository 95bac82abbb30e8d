"""A challenger is trained on newer bars and compared on those that neither run was fitted to; nothing is replaced."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import compose_run, leave_pictures_blank, train_tiny

import refold
from refold.config.build import build_data
from refold.errors import ConfigError, DataError
from refold.library.challenge import _standard_error, challenger_settings, compare_pair, decide, refuse_seen
from refold.library.run import load_run


@pytest.fixture(scope="module")
def champion(run_dir) -> refold.Run:
    return load_run(run_dir)


@pytest.mark.parametrize(
    ("difference", "luck", "drift", "keep", "reason"),
    [
        (-0.1, 0.04, ("stable", "stable"), "challenger", "better, by more than luck: 0.1000"),
        (0.1, 0.04, ("retrain", "stable"), "champion", "better, by more than luck: 0.1000"),
        (-0.1, 0.06, ("stable", "stable"), "champion", "do not differ by more than luck"),
        (0.1, 0.06, ("retrain", "stable"), "challenger", "the bars have drifted away"),
        (0.1, 0.06, ("retrain", "retrain"), "champion", "do not differ by more than luck"),
        (-0.1, float("nan"), (None, None), "champion", "do not differ by more than luck"),
    ],
)
def test_the_rule(difference, luck, drift, keep, reason):
    found = decide(difference, luck, dict(zip(("champion", "challenger"), drift, strict=True)))
    assert found[0] == keep
    assert reason in found[1]


def test_bars_of_the_same_stretch_count_as_one():
    rng = np.random.default_rng(0)
    stretch = rng.standard_normal(40).repeat(20)  # 40 stretches of 20 bars, 5 assets at 4 moments, all alike within
    times = pl.Series(np.arange(160).repeat(5))
    assert _standard_error(stretch, times, 2) == pytest.approx(stretch.std() / np.sqrt(40), rel=0.05)
    assert np.isnan(_standard_error(stretch[:5], times[:5], 2))


@pytest.mark.slow
def test_a_run_does_not_beat_itself(champion):
    outcome = compare_pair(champion, champion, {})
    assert outcome.keep == "champion"
    errors = outcome.measures["share of the variance that is not reconstructed"]
    assert errors["champion"] == errors["challenger"] > 0
    assert outcome.first > champion.result["parts"]["val"]["last"]
    assert outcome.bars > 500
    assert set(outcome.measures["drift since its validation part"].values()) <= {"stable", "watch", "retrain"}


def test_the_challenger_has_the_settings_of_the_run_but_for_data_and_split(champion):
    cfg = challenger_settings(champion, {"data.path": "new.csv", "trainer.max_epochs": "3"})
    assert cfg.data.path == str(Path("new.csv").absolute())
    assert cfg.trainer.max_epochs == 3
    assert cfg.layers == champion.config.layers
    champion.config.data.split = {"_target_": "refold.data.windows.split.ByDate", "val_start": "2009-01-01"}
    try:
        assert challenger_settings(champion, {"data.split.val_fraction": "0.2"}).data.split == {
            "_target_": "refold.data.windows.split.ByFraction",
            "train_fraction": 0.7,
            "val_fraction": 0.2,
            "embargo": 0,
        }
    finally:
        champion.config.data.split = compose_run([]).data.split


def stocks(folder: Path, end: str) -> Path:
    bars = build_data(compose_run([])).source.load()
    bars.filter(pl.col("timestamp") < pl.lit(end).str.to_date()).write_csv(folder / f"{end}.csv")
    return folder / f"{end}.csv"


def test_bars_that_the_run_was_fitted_to_are_refused(champion, tmp_path):
    path = stocks(tmp_path, "2010-12-31")
    with pytest.raises(
        DataError, match=r"2010-12-\d\d, are no newer than those .* up to 2011-\d\d-\d\d: nothing is left"
    ):
        refuse_seen(champion, challenger_settings(champion, {"data.path": str(path)}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "run has no value; give one: run=outputs/latest"),
        (("run={run}", "layers.hidden_size=9"), "layers.hidden_size: a challenger keeps the settings of the run"),
        (("run={run}", "trainr.max_epochs=9"), "did you mean trainer.max_epochs?"),
        (("run={run}", "trainer.max_epochs=x"), "trainer.max_epochs is 'x'; it must be a valid integer"),
        (("run={run}", "data.split.test=1"), "data.split.test: ByFraction has no such setting"),
        (("run={run}", "data.path=nowhere.csv"), "nowhere.csv"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(run_dir, script, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, errors = script("retrain", *(text.format(run=run_dir) for text in arguments))
    assert status == 2
    assert message in errors
    assert "Traceback" not in errors
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_challenger_is_trained_and_nothing_is_replaced(tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    leave_pictures_blank()
    old, new = stocks(tmp_path, "2009-01-01"), stocks(tmp_path, "2013-12-31")
    first = tmp_path / "outputs/first"
    train_tiny(first, "data=csv", f"data.path={old}")
    assert os.readlink("outputs/latest") == "first"
    held = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    status, printed, errors = script("retrain", f"run={first}", f"data.path={new}", "trainer.max_epochs=2")
    assert status == 0, errors
    assert held == {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert os.readlink("outputs/latest") == "first"
    challenger = next(path for path in Path("outputs").iterdir() if "retrain" in path.name)
    for text in ("keep the ch", "bars that neither was fitted to, from 2011-06-", str(challenger), "drift since"):
        assert text in printed, printed
    assert load_run(challenger).config.data.path == str(new)
    assert "data.scale: FB" in (challenger / "train.log").read_text()
    outcome = refold.retrain(first, pl.read_csv(new, try_parse_dates=True), overrides=["trainer.max_epochs=1"])
    assert outcome.keep in ("champion", "challenger")
    assert load_run(outcome.challenger).result["parts"]["test"]["last"].startswith("2013")
    with pytest.raises(ConfigError, match="there is no"):
        refold.retrain("nowhere")
