"""A run that is broken, or measured something that is no number, is a row that says so; the others keep their table."""

import csv
import gzip
import json
import os
import sys

import numpy as np
import pytest
from conftest import slow_but
from runs_on_disk import measured, settings_of, write_run
from test_compare import printed
from test_compare_page import payload, windows

from refold.cli import compare as compare_command
from refold.cli.command import run_command
from refold.report.comparison_page import write_comparison
from refold.runs.comparison import compare
from refold.runs.fixed_windows import FIXED_WINDOWS, FixedWindows
from refold.runs.records import find_runs, read_run
from refold.runs.spreadsheet import escape_formula


def change_metric(value: str):
    """Replace test/r2 in result.json by a text, which need not be JSON."""

    def change(directory):
        path = directory / "result.json"
        result = json.loads(path.read_text())
        result["metrics"]["test/r2"] = "HERE"
        path.write_text(json.dumps(result).replace('"HERE"', value))

    return change


def write_file(name: str, content: str | bytes):
    def change(directory):
        (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def change_run(**changes):
    """Change entries of the section run in resolved.yaml, which is JSON then, and so YAML."""

    def change(directory):
        cfg = settings_of()
        cfg["run"] |= changes
        (directory / "resolved.yaml").write_text(json.dumps(cfg))

    return change


def change_result(**changes):
    def change(directory):
        path = directory / "result.json"
        result = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({name: value for name, value in result.items() if value != "LEFT OUT"}))

    return change


def make_folder(name: str):
    def change(directory):
        (directory / name).unlink()
        (directory / name).mkdir()

    return change


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
BROKEN = {
    "string": (change_metric('"good"'), "test/r2 is", "not a finite number"),
    "null": (change_metric("null"), "test/r2 is null", "not a finite number"),
    "null with a reason": (
        change_result(metrics={**measured(0.1), "test/r2": None}, missing={"metrics.test/r2": "flat"}),
        "test/r2 has no value: flat",
    ),
    "reasons": (change_result(metrics={**measured(0.1), "test/r2": None}, missing=[1]), "test/r2 is null"),
    "list": (change_metric("[1, 2]"), "test/r2 is [1, 2]", "not a finite number"),
    "mapping": (change_metric("{}"), "test/r2 is {}", "not a finite number"),
    "true": (change_metric("true"), "test/r2 is true", "not a finite number"),
    "nan": (change_metric("NaN"), "test/r2 is NaN", "not a finite number"),
    "infinite": (change_metric("-Infinity"), "test/r2 is -Infinity", "not a finite number"),
    "large": (change_metric("1" + "0" * 400), "test/r2 is 1000", "not a finite number"),
    "escape": (change_metric('"\\u001b[31m\\ud800"'), "test/r2 is", "not a finite number"),
    "no metrics": (change_result(metrics="LEFT OUT"), "result.json is broken", "no 'metrics'"),
    "metrics null": (change_result(metrics=None), "result.json is broken", "no 'metrics'"),
    "metrics list": (change_result(metrics=[1]), "result.json is broken", "no 'metrics'"),
    "no fingerprint": (change_result(data_fingerprint="LEFT OUT"), "result.json has no data_fingerprint"),
    "fingerprint": (change_result(data_fingerprint={"a": 1}), "result.json has no data_fingerprint"),
    "other version": (write_file("result.json", '{"version": 9, "scores": {}}'), "result.json is broken", "metrics"),
    "a list": (write_file("result.json", "[]"), "result.json is broken", "no 'metrics'"),
    "cut": (write_file("result.json", '{"metrics": {"test'), "result.json is broken"),
    "empty": (write_file("result.json", ""), "result.json is broken"),
    "binary": (write_file("result.json", b"\xff\xfe\x00"), "result.json is broken"),
    "deep": (write_file("result.json", "[" * 100_000), "result.json is broken"),
    "result is a folder": (make_folder("result.json"), "result.json is broken", "not a file"),
    "yaml": (write_file("resolved.yaml", "a: ["), "resolved.yaml cannot be read"),
    "yaml binary": (write_file("resolved.yaml", b"\xff\xfe"), "resolved.yaml cannot be read"),
    "yaml date": (write_file("resolved.yaml", "a: 2020-13-45"), "resolved.yaml cannot be read", "month"),
    "yaml tag": (
        write_file("resolved.yaml", "a: !!python/name:os.system"),
        "cannot be read",
        "constructor",
    ),
    "yaml bomb": (write_file("resolved.yaml", BOMB), "resolved.yaml cannot be read", "alias"),
    "yaml depth": (write_file("resolved.yaml", "- " * 100_000 + "a"), "resolved.yaml cannot be read", "30 levels"),
    "yaml large": (write_file("resolved.yaml", "a: " + "x" * 2_000_000), "resolved.yaml cannot be read", "larger"),
    "yaml values": (
        write_file("resolved.yaml", "a: [" + "1," * 60_000 + "1]"),
        "resolved.yaml cannot be read",
        "values",
    ),
    "yaml list": (write_file("resolved.yaml", "[1]"), "resolved.yaml is not the configuration of a run"),
    "yaml others": (write_file("resolved.yaml", "run: 1\ncheckpoint: {}\ntrainer:"), "not the configuration of a run"),
}


@pytest.fixture
def good(tmp_path):
    """Two decoders at two seeds each."""
    for number, (decoder, seed) in enumerate([("repeat", 0), ("repeat", 1), ("conditional", 0), ("conditional", 1)]):
        cfg = settings_of(f"decoder={decoder}", f"seed={seed}")
        write_run(tmp_path / f"runs/{number}_good", cfg, metrics=measured(0.2 + 0.01 * number), curve=[1.0])
    return tmp_path / "runs"


@pytest.mark.parametrize("name", slow_but(list(BROKEN)[::3], BROKEN))
def test_one_bad_run_is_a_row_that_says_what_is_wrong(good, name, tmp_path):
    change, *said = BROKEN[name]
    directory = write_run(good / "9_bad", settings_of("decoder=repeat", "seed=2"), metrics=measured(0.1), curve=[1.0])
    change(directory)
    for metric in (None, "test/r2"):
        comparison = compare(find_runs([good]), metric)
        assert comparison.settings == ("decoder",)  # settings that cannot be read are no difference
        assert [len(row.runs) for row in comparison.rows if row.runs[0].directory != directory] == [2, 2]
        (row,) = [row for row in comparison.rows if row.runs[0].directory == directory]
        assert len(row.runs) == 1
        text = printed(comparison, width=400)
        line = next(line for line in text.splitlines() if "bad" in line)
        assert all(part in line for part in said), line
        assert "\x1b[31m" not in text
    compare_command.write_csv(tmp_path / "table.csv", comparison)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    (found,) = [row for row in rows if row["directory"] == str(directory)]
    assert all(part in found["note"] for part in said)
    write_comparison(tmp_path / "page.html", comparison, title="t")
    cells = [cell for row in payload(tmp_path / "page.html")["table"]["rows"] for cell in row]
    assert any(all(part in cell for part in said) for cell in cells)


@pytest.mark.slow
def test_all_of_them_at_once_keep_the_table(good):
    for number, (change, *_) in enumerate(BROKEN.values(), start=10):
        change(write_run(good / f"{number}_bad", settings_of(f"seed={number}"), metrics=measured(0.1)))
    comparison = compare(find_runs([good]), "test/r2")
    assert len(comparison.runs) == 4 + len(BROKEN)
    text = printed(comparison, width=400)
    assert "runs cannot be read: their rows say why" in text
    assert "finished runs have no test/r2" in text


def test_two_seeds_with_the_same_infinite_metric_are_one_row(good):
    for seed in (5, 6):
        cfg = settings_of("decoder=conditional", f"seed={seed}")
        change_metric("-Infinity")(write_run(good / f"{seed}_inf", cfg, metrics=measured(0.1)))
    comparison = compare(find_runs([good]))
    assert "2 seeds: test/r2 is -Infinity, not a finite number" in printed(comparison, width=400)
    assert [len(row.runs) for row in comparison.rows] == [2, 2, 2]
    assert compare(find_runs([good]), "test/r2").rows[-1].runs[0].directory.name == "5_inf"  # below the others


@pytest.mark.parametrize(
    "changes",
    [
        {"overrides": None}, {"overrides": 3}, {"overrides": [None, 5, "seed=1"]}, {"choices": None},
        {"choices": ["a"]}, {"choices": {"decoder": [1]}}, {"id": None}, {"id": {"a": 1}}, {"group": ["a"]},
    ],
)  # fmt: skip
def test_settings_of_other_kinds_do_no_harm(good, changes, tmp_path):
    change_run(**changes)(write_run(good / "9_odd", settings_of(), metrics=measured(0.1)))
    comparison = compare(find_runs([good]))
    assert len(comparison.runs) == 5
    assert comparison.rows[0].runs[0].directory.name == "9_odd"
    printed(comparison)
    write_comparison(tmp_path / "page.html", comparison, title="t")


def test_values_that_json_lacks_do_no_harm_as_settings(good, tmp_path):
    for number, value in enumerate([".inf", ".nan", "2020-01-01", "!!binary aGVsbG8=", "!!set {a, b}", "9" * 400]):
        directory = write_run(good / f"{number + 5}_odd", settings_of(f"seed={number}"), metrics=measured(0.5))
        text = (directory / "resolved.yaml").read_text()
        (directory / "resolved.yaml").write_text(text + f"extra:\n  value: {value}\n")
    comparison = compare(find_runs([good]))
    assert "extra.value" in comparison.settings
    write_comparison(tmp_path / "page.html", comparison, title="t")
    assert payload(tmp_path / "page.html")["parallel"]


@pytest.mark.parametrize("file", ["resolved.yaml", "result.json"])
def test_without_a_run_that_can_be_read_there_is_the_table_and_a_status(file, tmp_path, script):
    for name in ("0_a", "1_b"):
        directory = write_run(tmp_path / name, settings_of(), metrics=measured(0.5))
        (directory / file).write_text("a: [")
    table = tmp_path / "table.csv"
    status, printed, errors = script("compare", str(tmp_path), "--csv", str(table), "--html", str(tmp_path / "p.html"))
    assert (status, errors) == (2, "no run can be read: the rows above say why\n")
    assert [text.count(f"{file} ") for text in (printed, table.read_text())] == [2, 2]


@pytest.mark.parametrize(
    "content", [b"", b"a\x00b,step\n1,2\n", b"\xff,step\n", b"step\n" + b"9" * 5000, b"epoch,step\nnan,1\n"]
)
def test_a_broken_metrics_csv_does_no_harm(good, content):
    directory = write_run(good / "9_cut", settings_of(), metrics=None)
    (directory / "metrics.csv").write_bytes(content)
    assert len(compare(find_runs([good])).runs) == 5


@pytest.mark.parametrize("content", ["[]", "null", '{"ended": 3, "reason": ["x"]}', "[" * 100_000, '"x"'])
def test_a_broken_state_does_no_harm(good, content):
    directory = write_run(good / "9_cut", settings_of(), metrics=None)
    (directory / "state.json").write_text(content)
    assert read_run(directory).status == "cut"
    printed(compare(find_runs([good])))


def test_broken_reconstructions_are_left_out(good, tmp_path):
    (good / "0_good/figures").mkdir()
    (good / "1_good/figures").mkdir()
    path = good / "0_good" / FIXED_WINDOWS
    windows(0.0).save(good / "1_good" / FIXED_WINDOWS)
    windows(0.0).save(path)
    packed = path.read_bytes()
    arrays = vars(FixedWindows.load(path))
    odd = {"truth": np.zeros(3), "made": np.zeros((1, 1, 1)), "features": np.array([b"x", b"y"])}
    for content in (b"", b"x", packed[:200], gzip.compress(b"x"), *odd):
        if isinstance(content, str):
            np.savez(path, **{**arrays, content: odd[content]})
        else:
            path.write_bytes(content)
        write_comparison(tmp_path / "page.html", compare(find_runs([good])), title="t")
        assert len(payload(tmp_path / "page.html")["windows"]["runs"]) == 1


def test_no_cell_is_a_formula_for_a_spreadsheet(good, tmp_path):
    for name in ("=1+1", "+1", "-x", "@x", "\tx", "\rx"):
        assert escape_formula(name) == "'" + name
    assert escape_formula("a=1") == "a=1"
    directory = write_run(good / "9_odd", settings_of(), metrics={**measured(0.1), "@a": -1.5})
    change_run(id="=HYPERLINK(0)")(directory)
    compare_command.write_csv(tmp_path / "table.csv", compare(find_runs([good])))
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["run"] == "'=HYPERLINK(0)"
    assert float(rows[0]["'@a"]) == -1.5  # a number is no formula


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_read_is_a_row(good):
    directory = write_run(good / "9_closed", settings_of(), metrics=measured(0.1))
    directory.chmod(0)
    try:
        assert "cannot be read" in printed(compare(find_runs([good])), width=400)
    finally:
        directory.chmod(0o755)


def test_the_command_ends_with_status_0_beside_a_bad_run(good, tmp_path, monkeypatch, capsys):
    (good / "0_good/result.json").write_text("[")
    monkeypatch.setattr(sys, "argv", ["compare", str(good), "--csv", str(tmp_path / "table.csv")])
    assert run_command(compare_command.main) == 0
    assert "result.json is broken" in capsys.readouterr().out
