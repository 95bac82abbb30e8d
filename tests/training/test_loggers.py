"""metrics.csv holds all rows of a run in one table, also when it was interrupted; W&B logs offline without a key."""

import csv

from refold.training.loggers import MetricsFile


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_new_columns_join_as_they_appear(tmp_path):
    logger = MetricsFile(tmp_path / "metrics.csv")
    logger.log_metrics({"a": 1.0, "epoch": 0}, step=0)
    logger.log_metrics({"a": 2.0, "epoch": 0}, step=1)
    logger.log_metrics({"b": 3.0, "epoch": 0}, step=1)
    assert rows(tmp_path / "metrics.csv") == [
        {"epoch": "0", "step": "0", "a": "1.0", "b": ""},
        {"epoch": "0", "step": "1", "a": "2.0", "b": ""},
        {"epoch": "0", "step": "1", "a": "", "b": "3.0"},
    ]


def test_a_resumed_run_drops_what_it_repeats_and_keeps_the_rest(tmp_path):
    first = MetricsFile(tmp_path / "metrics.csv")
    for step in range(4):
        first.log_metrics({"a": float(step), "epoch": 0}, step=step)
    resumed = MetricsFile(tmp_path / "metrics.csv")
    resumed.log_metrics({"a": 20.0, "epoch": 0}, step=2)
    assert [(row["step"], row["a"]) for row in rows(tmp_path / "metrics.csv")] == [
        ("0", "0.0"),
        ("1", "1.0"),
        ("2", "20.0"),
    ]


def test_a_cut_last_row_does_no_harm(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,a\n0,0,1.0\n0,")
    MetricsFile(path).log_metrics({"a": 2.0, "epoch": 0}, step=5)
    assert [row["step"] for row in rows(path)] == ["0", "5"]
