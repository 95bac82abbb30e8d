"""Public series of several kinds, as look-alikes, trained and scored with data=series and no code."""

import json
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

import refold
from tests.conftest import TINY

pytestmark = pytest.mark.slow

SKAB = ("Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure", "Temperature", "Thermocouple", "Voltage")
SKAB = (*SKAB, "Volume RateRMS")


def times(rows: int, step: timedelta) -> pl.Series:
    first = datetime(2020, 3, 9, 10, 14, 33)
    return pl.Series([first + step * row for row in range(rows)])


def walk(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).cumsum(axis=0)


def skab(path):
    """Rows come every second, and one of 23 is not there, as in SKAB's files."""
    seconds = times(1150, timedelta(seconds=1))
    seconds = seconds.filter(pl.Series(np.arange(1150) % 23 != 22))
    values = walk(len(seconds), len(SKAB))
    frame = pl.DataFrame({"datetime": seconds, **{name: values[:, n] for n, name in enumerate(SKAB)}})
    frame = frame.with_columns(anomaly=pl.lit(0.0), changepoint=pl.lit(0.0))
    frame.write_csv(path / "skab.csv", separator=";", datetime_format="%Y-%m-%d %H:%M:%S")
    return "skab.csv", []


def nab_exchange(path):
    pl.DataFrame({"timestamp": times(1600, timedelta(hours=1)), "value": np.abs(walk(1600, 1)[:, 0]) / 50}).write_csv(
        path / "exchange.csv", datetime_format="%Y-%m-%d %H:%M:%S"
    )
    return "exchange.csv", []


def tsb_ad(path):
    pl.DataFrame({"Data": np.sin(np.arange(1500) / 20), "Label": np.zeros(1500, dtype=int)}).write_csv(path / "tsb.csv")
    return "tsb.csv", []


def yields(path):
    frame = pl.DataFrame({"Date": times(900, timedelta(days=1)).dt.date(), "yield_2y": walk(900, 1)[:, 0] / 50})
    frame = frame.with_columns(yield_10y=pl.Series(walk(900, 1, 1)[:, 0] / 50))
    assert (frame["yield_2y"] < 0).any()
    frame.write_csv(path / "yields.csv")
    slope = "{name: slope, expression: 'yield_10y - yield_2y', lookback: 1}"
    return "yields.csv", [f"data.features=[yield_10y,'diff(yield_10y)','zscore_20(yield_2y)',{slope}]"]


def order_book(path):
    walked = np.abs(walk(2000, 4))
    columns = {name: walked[:, n] for n, name in enumerate(("bid_px", "bid_size", "ask_px", "ask_size"))}
    pl.DataFrame({"ts_event": times(2000, timedelta(milliseconds=100)), **columns}).write_parquet(path / "book.parquet")
    return "book.parquet", []


@pytest.mark.parametrize("make", [skab, nab_exchange, tsb_ad, yields, order_book], ids=lambda make: make.__name__)
def test_it_is_trained_and_scored(tmp_path, monkeypatch, make, script):
    monkeypatch.chdir(tmp_path)
    name, settings = make(tmp_path)
    run = refold.train(name, data="series", overrides=[*TINY, *settings])
    assert run.result["metrics"]["val/reconstruction_mse"] > 0
    scored = run.score(name)
    assert scored["score"].is_not_null().mean() > 0.9
    assert set(scored["kind"].drop_nulls()) <= {"regime"} | set(scored["kind"].unique()) - {"bad tick", "split", "unit"}
    assert len(run.encode(name)) > 100
    assert set(run.reconstruct(name).columns) >= set(run.features)
    assert script("score", f"run={run.directory}", f"data.path={name}")[0] == 0
    folder = run.directory / "scores" / name.partition(".")[0]
    assert (folder / "report.html").stat().st_size > 10_000
    assert json.loads((folder / "scoring.json").read_text())


SCORERS = {"isolation forest", "robust z", "random", "flag everything"}


@pytest.mark.parametrize(
    ("make", "label"), [(skab, "anomaly"), (nab_exchange, "label"), (tsb_ad, "Label")], ids=["skab", "nab", "tsb"]
)
def test_with_a_label_it_ends_with_what_is_found_of_it(tmp_path, make, label, command):
    """From the command line alone. In the later half every 40th row is labelled, and its values are tripled."""
    name, _ = make(tmp_path)
    separator = ";" if make is skab else ","
    frame = pl.read_csv(tmp_path / name, separator=separator)
    rows = pl.int_range(pl.len())
    marked = (rows >= frame.height // 2) & (rows % 40 == 7)
    values = pl.col(pl.Float64).exclude("anomaly", "changepoint")
    frame = frame.with_columns(
        pl.when(marked).then(values * 3 + 1).otherwise(values), marked.cast(pl.Int8).alias(label)
    )
    frame.write_csv(tmp_path / name, separator=separator)
    chosen = f"data.source.table.columns.label={label}"
    done = command("data=series", f"data.path={name}", chosen, *TINY)
    assert done.returncode == 0, done.stderr
    assert "flag everything" in done.stdout
    run = tmp_path / "outputs" / "latest"
    result = json.loads((run / "result.json").read_text())
    for part in ("val", "test"):
        assert set(result["detection"][part]["scorers"]) >= SCORERS
        assert result["detection"][part]["anomalous_bars"] > 2
        for metric in ("average_precision", "auroc", "vus_pr", "event_f1", "false_alarms"):
            assert np.isfinite(result["metrics"][f"{part}/detection/{metric}"])
    done = command(f"run={run}", f"data.path={name}", script="scripts/score.py")
    assert done.returncode == 0, done.stderr
    assert "this is the model alone" in done.stdout
    folder = run / "scores" / name.partition(".")[0]
    assert json.loads((folder / "scoring.json").read_text())["detection"]["these bars"]["anomalous_bars"] > 10
    scores = pl.read_parquet(folder / "scores.parquet")
    assert scores["label"].sum() == frame[label].sum()
    assert f"contribution/{label}" not in scores.columns
