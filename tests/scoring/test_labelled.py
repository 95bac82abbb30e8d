"""Where the source of the data knows its anomalies, a run says how many of them its score finds."""

import csv
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score

from refold.scoring.labelled import against_labels

DAYS = [date(2020, 1, 1) + timedelta(number) for number in range(50)]


def bars(seed: int = 0) -> pl.DataFrame:
    scores = np.random.default_rng(seed).uniform(0, 1, 100)
    return pl.DataFrame({"timestamp": DAYS * 2, "asset": ["A"] * 50 + ["B"] * 50, "score": scores})


def labels(*rows: tuple[int, str]) -> pl.DataFrame:
    return pl.DataFrame(
        {"timestamp": [DAYS[day] for day, _ in rows], "asset": [asset for _, asset in rows], "kind": "x"}
    )


def test_the_labels_meet_the_bars_by_date_and_asset():
    wrong = np.zeros(100, dtype=bool)
    wrong[[3, 60, 61]] = True
    scored = bars().with_columns(score=pl.when(pl.Series(wrong)).then(2.0).otherwise("score"))
    given = labels((3, "A"), (10, "B"), (11, "B"), (3, "A"))
    assert against_labels(scored, given, level=1.0) == pytest.approx(
        {"average_precision": 1, "vus_pr": 1, "event_f1": 1}, abs=0.2
    )
    assert against_labels(scored, given, level=1.0)["event_f1"] == 1.0
    assert against_labels(scored, given, level=3.0)["event_f1"] == 0.0
    other = bars()
    assert against_labels(other, given, level=1.0)["average_precision"] == pytest.approx(
        average_precision_score(wrong, other["score"])
    )


def test_bars_without_a_score_and_labels_elsewhere_do_not_count():
    scored = bars().with_columns(score=pl.when(pl.int_range(100) < 5).then(np.nan).otherwise("score"))
    assert against_labels(scored, labels((2, "A"), (7, "C")), level=0.5) == {}
    assert against_labels(scored, labels((2, "A"), (7, "B")), level=0.5).keys() == {
        "average_precision", "vus_pr", "event_f1",
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["per_asset", "panel"])
def test_a_run_on_labelled_data_logs_what_it_finds(layout, tiny_run, tmp_path):
    _, result = tiny_run("data=synthetic", "data.source.anomalies=10", f"data.layout={layout}", "trainer.max_epochs=2")
    found = {name: value for name, value in result["metrics"].items() if name.startswith("errors/")}
    assert set(found) == {"errors/average_precision", "errors/vus_pr", "errors/event_f1"}
    assert found["errors/average_precision"] > 0.2  # some 6 % of the bars are anomalous: chance has that
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["errors/average_precision"]) == pytest.approx(found["errors/average_precision"])
