"""A run whose bars have labels ends with what it finds of them, beside baselines; so does a scoring."""

import json

import numpy as np
import polars as pl
import pytest

import refold
from refold.errors import DataError
from refold.report.summary import print_summary
from tests.conftest import TINY, train_tiny
from tests.data.makers import random_bars

pytestmark = pytest.mark.slow

METRICS = ("average_precision", "auroc", "vus_pr", "event_f1", "event_precision", "event_recall")
SCORERS = [
    "LSTM autoencoder", "PCA, 4 components", "isolation forest", "robust z", "no model: asinh(z)^2", "random",
    "flag everything",
]  # fmt: skip


def planted(seed: int = 0, lengths: tuple[int, ...] = (900, 900)) -> pl.DataFrame:
    """Bars with bad ticks of a tenth of the price, which a column names."""
    bars = random_bars(lengths, seed=seed)
    generator = np.random.default_rng(seed)
    wrong = np.zeros(bars.height, dtype=int)
    wrong[generator.choice(np.arange(20, bars.height), bars.height // 12, replace=False)] = 1
    factor = pl.Series(np.where(wrong, 1 + 0.15 * generator.choice([-1, 1], bars.height), 1.0))
    prices = [pl.col(name) * factor for name in ("open", "high", "low", "close")]
    return bars.with_columns(*prices, anomaly=pl.Series(wrong))


def overrides(path, *others: str) -> list[str]:
    return [
        "data=csv", f"data.path={path}", "data.source.table.columns.label=anomaly", "data.stride=4",
        "data.features=[log_return]", *others,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    planted().write_csv(folder / "bars.csv")
    _, result = train_tiny(folder / "run", *overrides(folder / "bars.csv"))
    return folder / "run", result


def test_a_run_ends_with_metrics_of_model_and_baselines(trained, capsys):
    directory, result = trained
    assert {f"{part}/detection/{name}" for part in ("val", "test") for name in METRICS} <= set(result["metrics"])
    for part in ("val", "test"):
        found = result["detection"][part]
        assert list(found["scorers"]) == SCORERS
        share = found["anomalous_bars"] / found["bars"]
        everything, random = found["scorers"]["flag everything"], found["scorers"]["random"]
        assert everything["average_precision"] == pytest.approx(share)
        assert everything["auroc"] == 0.5
        assert everything["event_recall"] == 1.0
        assert random["average_precision"] < 2 * share
        own = found["scorers"]["LSTM autoencoder"]
        assert own["average_precision"] > 3 * share
        assert own["average_precision"] == result["metrics"][f"{part}/detection/average_precision"]
        assert len(found["listed_false_alarms"]) == min(20, own["false_alarms"])
    print_summary(result, directory)
    printed = capsys.readouterr().out
    assert "labelled anomalies of test" in printed
    assert "isolation forest" in printed
    assert result == json.loads((directory / "result.json").read_text())


def test_scoring_the_runs_own_parts_gives_the_metrics_of_its_end(trained):
    from refold.library.judge import Judge

    directory, result = trained
    facts = Judge(refold.load_run(directory)).score().facts
    for part in ("val", "test"):
        for name in METRICS:
            wanted = result["metrics"][f"{part}/detection/{name}"]
            assert facts["detection"][part][name] == pytest.approx(wanted), name


def test_scores_without_labels_are_the_same(trained):
    run = refold.load_run(trained[0])
    new = planted(seed=5, lengths=(200, 200))
    with_labels, without = run.score(new), run.score(new.drop("anomaly"))
    assert with_labels["label"].sum() == new["anomaly"].sum()
    assert with_labels.drop("label").equals(without)
    events = run.events(new)
    assert events.drop("labelled_bars").equals(run.events(new.drop("anomaly")))
    assert events["labelled_bars"].max() > 0
    with pytest.raises(DataError, match="the bars have no labels; name the column"):
        run.detection(new.drop("anomaly"))


def test_labels_of_new_bars_may_have_another_name_and_their_metrics_do_not(trained):
    run = refold.load_run(trained[0])
    new = planted(seed=5, lengths=(200, 200))
    found = run.detection(new)
    other = {"data.source.table.columns.label": "wrong"}
    assert run.detection(new.rename({"anomaly": "wrong"}), overrides=other) == found
    shuffled = new.with_columns(pl.col("anomaly").shuffle(seed=1))
    assert run.detection(shuffled)["alarms"] == found["alarms"]
    assert run.detection(shuffled)["average_precision"] < found["average_precision"]
    quiet = run.detection(new.with_columns(anomaly=0))
    assert quiet["average_precision"] is None
    assert "no bar of these bars" in quiet["missing"]["average_precision"]


def test_the_command_prints_and_writes_the_metrics(trained, script, tmp_path):
    planted(seed=5, lengths=(200, 200)).write_csv(tmp_path / "new.csv")
    status, out, err = script(
        "score", f"run={trained[0]}", f"data.path={tmp_path / 'new.csv'}", f"out={tmp_path / 'o'}"
    )
    assert status == 0, err
    assert "labelled anomalies" in out
    facts = json.loads((tmp_path / "o/scoring.json").read_text())
    assert facts["detection"]["these bars"]["average_precision"] > 0
    assert "labelled_bars" in (tmp_path / "o/events.csv").read_text().splitlines()[0]


def test_a_run_does_not_depend_on_the_labels_and_parts_without_anomalies_say_so(trained, tmp_path, capsys):
    planted().with_columns(anomaly=0).write_csv(tmp_path / "bars.csv")
    _, result = train_tiny(tmp_path / "run", *overrides(tmp_path / "bars.csv"))
    same = [name for name in trained[1]["metrics"] if "/detection/" not in name]
    assert {name: result["metrics"][name] for name in same} == {name: trained[1]["metrics"][name] for name in same}
    assert result["data_fingerprint"] == trained[1]["data_fingerprint"]
    assert result["metrics"]["test/detection/vus_pr"] is None
    assert "no bar of the test part" in result["missing"]["metrics.test/detection/vus_pr"]
    print_summary(result, tmp_path / "run")
    assert "no bar of the test part that has a score is labelled 1" in capsys.readouterr().out


def test_a_table_in_memory_of_a_panel_is_trained_with_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ["data.layout=panel", "data.source.table.columns.label=anomaly", *TINY]
    run = refold.train(planted(), overrides=settings)
    found = run.result["detection"]["test"]
    assert list(found["scorers"]) == SCORERS
    assert found["anomalous_bars"] > 0
    assert run.detection(planted(seed=3, lengths=(300, 300)))["anomalous_bars"] > 0
