"""Where a column of labels or the source says what is anomalous, scores and verdicts are measured against it."""

import csv
import warnings
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from refold.scoring.labelled import (
    MAX_BUFFER,
    NEED_ANOMALIES,
    LabelledBars,
    LabelledTable,
    against_labels,
    detection_metrics,
    false_alarms,
    label_counts,
    runs_of,
    why_missing,
)

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


def labelled_bars(seed: int = 0, bars: int = 600) -> LabelledBars:
    """Random scores of two assets, higher at labelled bars; some bars have none."""
    generator = np.random.default_rng(seed)
    label = np.repeat(generator.random(bars // 4) < 0.1, 4)
    score = generator.normal(0, 1, bars) + 1.5 * label
    score[generator.random(bars) < 0.05] = np.nan
    with np.errstate(invalid="ignore"):
        flagged = score > 2
    return LabelledBars(score, flagged, label, np.repeat([0, 1], bars // 2))


@pytest.mark.parametrize("seed", range(4))
def test_ranking_is_that_of_scikit_learn_over_the_bars_with_a_score(seed):
    bars = labelled_bars(seed)
    there = ~np.isnan(bars.score)
    got = detection_metrics(bars)
    assert got["average_precision"] == pytest.approx(average_precision_score(bars.label[there], bars.score[there]))
    assert got["auroc"] == pytest.approx(roc_auc_score(bars.label[there], bars.score[there]))
    assert label_counts(bars)["bars"] == there.sum()


@pytest.mark.slow
def test_volume_under_the_surface_is_that_of_the_published_package():
    reason = "the published implementation is not installed: pip install --no-deps vus"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = pytest.importorskip("vus.utils.metrics", reason=reason, exc_type=ImportError)
    bars = labelled_bars()
    bars = bars._replace(score=np.nan_to_num(bars.score), asset=np.zeros(600, dtype=int))
    *_, pr = metrics.metricor().RangeAUC_volume_opt(bars.label.astype(int), bars.score, windowSize=MAX_BUFFER)
    assert detection_metrics(bars)["vus_pr"] == pytest.approx(pr, abs=1e-9)


def test_random_scores_and_flagging_everything_are_what_they_should_be():
    label = np.random.default_rng(1).random(20_000) < 0.05
    asset, share = np.zeros(20_000, dtype=int), label.mean()
    score = np.random.default_rng(2).random(20_000)
    random = detection_metrics(LabelledBars(score, score > 0.999, label, asset))
    assert random["average_precision"] == pytest.approx(share, abs=0.01)
    assert random["auroc"] == pytest.approx(0.5, abs=0.02)
    everything = detection_metrics(LabelledBars(np.ones(20_000), np.ones(20_000, dtype=bool), label, asset))
    assert everything["average_precision"] == pytest.approx(share)
    assert everything["auroc"] == 0.5
    assert everything["event_recall"] == 1.0
    assert (everything["alarms"], everything["false_bars"]) == (1, (~label).sum())
    events = len(runs_of(label, asset))
    assert everything["event_precision"] == pytest.approx(events / (events + (~label).sum()))


def test_alarms_that_touch_no_labelled_bar_are_false_the_highest_first():
    asset = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    flagged = np.array([1, 0, 1, 1, 1, 1, 0, 1, 1, 0], dtype=bool)
    label = np.array([0, 0, 0, 1, 0, 0, 0, 0, 0, 1], dtype=bool)
    score = np.array([5, 0, 3, 3, 3, 4, 0, 9, 6, 0], dtype=float)
    bars = LabelledBars(score, flagged, label, asset)
    assert runs_of(flagged, asset).tolist() == [[0, 0], [2, 4], [5, 5], [7, 8]]  # no run crosses into another asset
    assert false_alarms(bars).tolist() == [[7, 8], [0, 0], [5, 5]]
    found = detection_metrics(bars)
    assert (found["alarms"], found["false_alarms"], found["false_bars"]) == (4, 3, 6)


def test_bars_without_anomalies_have_no_ranking_and_say_why():
    bars = labelled_bars()
    bars = bars._replace(label=np.zeros_like(bars.label))
    found, reasons = detection_metrics(bars), why_missing(bars, "the test part")
    assert {name for name, value in found.items() if np.isnan(value)} == set(NEED_ANOMALIES)
    assert all("no bar of the test part that has a score is labelled 1" in reasons[name] for name in NEED_ANOMALIES)
    assert found["false_alarms"] == found["alarms"] > 0
    only_unscored = bars._replace(label=np.isnan(bars.score))
    assert np.isnan(detection_metrics(only_unscored)["average_precision"])
    assert "every bar" in why_missing(bars._replace(label=~bars.label), "test")["auroc"]


def test_a_table_in_pieces_is_measured_as_a_whole():
    one = labelled_bars()
    days = pl.date_range(date(2020, 1, 1), date(2020, 1, 1) + timedelta(299), eager=True)
    table = pl.DataFrame(
        {
            "timestamp": pl.concat([days, days]),
            "asset": ["A"] * 300 + ["B"] * 300,
            "score": pl.Series(one.score).fill_nan(None),
            "verdict": one.flagged,
            "label": one.label.astype(np.int8),
        }
    )
    rows = LabelledTable()
    for first, last in ((0, 130), (130, 400), (400, 600)):
        rows.add(table[first:last], "these bars")
    found = rows.measure()["these bars"]
    assert {name: found[name] for name in detection_metrics(one)} == pytest.approx(detection_metrics(one))
    assert found["missing"] == {}
    assert len(found["listed_false_alarms"]) == min(20, found["false_alarms"])
    events = pl.DataFrame({"asset": ["A", "B", "C"], "start": [days[0]] * 3, "end": [days[-1]] * 3})
    assert rows.count_in(events).to_list() == [int(one.label[:300].sum()), int(one.label[300:].sum()), 0]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["per_asset", "panel"])
def test_a_run_on_labelled_data_logs_what_it_finds(layout, tiny_run, tmp_path):
    _, result = tiny_run("data=synthetic", "data.source.anomalies=10", f"data.layout={layout}", "trainer.max_epochs=2")
    found = {name: value for name, value in result["metrics"].items() if name.startswith("errors/")}
    assert set(found) == {"errors/average_precision", "errors/vus_pr", "errors/event_f1"}
    assert found["errors/average_precision"] > 0.2  # some 6 % of the bars are anomalous: chance has that
    with (tmp_path / "run/metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["errors/average_precision"]) == pytest.approx(found["errors/average_precision"])
