"""The table of planted errors: from the runs of a sweep to one table and one CSV."""

import csv
import json
from pathlib import Path

import pytest

from refold.studies.scorers_table import RESULTS, TEXT, finish, into_page


def write_run(directory: Path, seed: int, value: float) -> None:
    directory.mkdir(parents=True)
    kinds = ("unit", "all kinds")
    rows = [
        {"scorer": name, "kind": kind, "average_precision": value + add, "event_average_precision": value + add,
         "event_f1": value, "jumps_flagged": 0.25}
        for name, add in (("four rules", 0.0), ("rules + LSTM autoencoder", 0.01 * (seed + 1)))
        for kind in kinds
    ]  # fmt: skip
    natural = {
        "scorer": "four rules", "splits": 3, "splits_flagged": 3, "splits_named": 2, "moves": 1, "moves_flagged": 1,
        "moves_called_error": 0, "others_per_1000_bars": 0.5,
    }  # fmt: skip
    measured = {"seed": seed, "errors": rows, "checks": {"gap": 1.0}, "natural": [natural]}
    (directory / "result.json").write_text(json.dumps({"run": "x", "price_errors": measured}))


@pytest.fixture
def printed(tmp_path, capsys):
    for seed, value in enumerate((0.2, 0.4)):
        write_run(tmp_path / str(seed), seed, value)
    (tmp_path / "stopped").mkdir()
    finish(tmp_path)
    return capsys.readouterr().out


def test_the_table_shows_mean_and_spread_over_the_seeds(printed):
    assert "average precision; 2 seeds, mean and standard deviation" in printed
    assert "0.30 ±0.14" in printed
    assert "25.0%" in printed


def test_what_the_model_adds_to_the_rules_is_said_with_its_sign(printed):
    assert "average precision, all kinds: +0.015 ±0.007, more in 2 of 2 seeds" in printed
    assert "event F1, all kinds: +0.000 ±0.000, more in 0 of 2 seeds" in printed


def test_the_natural_test_is_counted_over_the_seeds(printed):
    assert "6 of 6, 4 named;  2 of 2, 0 called an error;  0.5" in printed


def test_all_rows_are_in_one_csv(printed, tmp_path):
    rows = list(csv.DictReader((tmp_path / RESULTS).read_text().splitlines()))
    assert len(rows) == 8
    assert {row["seed"] for row in rows} == {"0", "1"}


def test_the_text_goes_into_a_page_between_its_marks(printed, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: begin -->\noutdated\n<!-- table: end -->\nafter\n")
    into_page(tmp_path, page)
    text = page.read_text()
    assert text.startswith("before\n<!-- table: begin -->\n    average precision; 2 seeds")
    assert text.endswith("\n<!-- table: end -->\nafter\n")
    assert "outdated" not in text
    assert all(line in printed for line in (tmp_path / TEXT).read_text().splitlines())


def test_a_directory_without_a_result_says_nothing(tmp_path, capsys):
    finish(tmp_path)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / RESULTS).exists()


@pytest.mark.slow
def test_one_command_trains_all_seeds_and_ends_with_one_table(command, tmp_path):
    from conftest import TINY

    small = ["evaluation.kinds=[unit]", "evaluation.natural=null"]
    done = command("experiment=scorers", 'hydra.sweeper.params.seed="0,1"', *small, *TINY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("average precision; 2 seeds") == 1
    (sweep,) = (tmp_path / "outputs").glob("sweep_*")
    rows = list(csv.DictReader((sweep / RESULTS).read_text().splitlines()))
    assert {row["seed"] for row in rows} == {"0", "1"}
    results = [json.loads(path.read_text()) for path in sweep.glob("*/result.json")]
    assert {result["price_errors"]["seed"] for result in results} == {0, 1}
