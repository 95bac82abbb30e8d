"""What differs between runs, their order, the spread over seeds, and what stands for a run that did not finish."""

import contextlib
import io
import json
import math
from statistics import stdev

import pytest
import yaml
from rich.console import Console
from runs_on_disk import measured, settings_of, write_run

from refold.errors import ConfigError, DataError, Interrupted, RefoldError
from refold.report.comparison_table import print_comparison, short_names
from refold.runs.comparison import compare, what_differs
from refold.runs.directory import ASKED
from refold.runs.records import find_jobs, find_runs, read_metrics
from refold.runs.state import STATE, lock_run

EPOCHS = "trainer.max_epochs=10"


def printed(comparison, **settings) -> str:
    console = Console(file=io.StringIO(), highlight=False, **settings)
    print_comparison(comparison, console)
    return console.file.getvalue()


@pytest.fixture
def sweep(tmp_path):
    """Two decoders at two seeds each, and one run with a lower learning rate."""
    folder = tmp_path / "outputs/sweep_a"
    values = {("repeat", 0): 0.4, ("repeat", 1): 0.6, ("autoregressive", 0): 0.3, ("autoregressive", 1): 0.32}
    for number, ((decoder, seed), value) in enumerate(values.items()):
        cfg = settings_of(f"decoder={decoder}", f"seed={seed}")
        write_run(
            folder / f"{number}_{decoder}-s{seed}", cfg, metrics=measured(value), group="sweep_a", curve=[1, value]
        )
    cfg = settings_of("optimizer.lr=1e-4", "seed=0")
    write_run(folder / "10_slow-s0", cfg, metrics=measured(0.9), group="sweep_a", curve=[1, 0.9])
    return folder


def test_only_what_varies_is_a_column_and_what_a_choice_decides_is_not(sweep):
    runs = find_runs([sweep])
    assert len({run.settings["decoder._target_"] for run in runs}) == 2  # decided by the choice of the decoder
    assert len({run.settings["data.seed"] for run in runs}) == 2  # a copy of the seed
    assert what_differs(runs) == ("decoder", "optimizer.lr")


def test_what_nobody_stated_and_no_choice_decides_is_a_column(tmp_path):
    for number, size in enumerate([16, 32]):
        cfg = settings_of()
        cfg["encoder"]["hidden_size"] = size  # as after a change of the defaults
        write_run(tmp_path / f"{number}_x", cfg, metrics=measured(0.1 * size))
    assert what_differs(find_runs([tmp_path])) == ("encoder.hidden_size",)


@pytest.mark.parametrize(("unit", "other"), [("day", "year"), ("year", "day")])
def test_alarms_are_counted_over_the_time_that_suits_the_bars(tmp_path, unit, other):
    for name, alarms in (("1_many", 3.0), ("2_few", 0.5)):
        rates = {"test/alarms_per_asset_year": 100 * alarms, "test/alarms_per_asset_day": alarms}
        write_run(tmp_path / name, settings_of(f"optimizer.lr={alarms}"), metrics=measured(0.1))
        path = tmp_path / name / "result.json"
        detector = {"alarms_per": unit, "test/flagged_share": 0.01, **rates}
        path.write_text(json.dumps({**json.loads(path.read_text()), "detector": detector}))
    table = compare(find_runs([tmp_path]), "val/reconstruction_mse")
    assert f"test/alarms_per_asset_{unit}" in table.metrics
    assert f"test/alarms_per_asset_{other}" not in table.metrics
    assert f"test/alarms/asset_{unit}" in printed(table, width=300)
    fewest = compare(find_runs([tmp_path]), f"test/alarms_per_asset_{unit}").rows[0].runs[0]
    assert fewest.directory.name == "2_few"


@pytest.fixture
def asked_twice(sweep):
    """Two more jobs of the sweep, which compute the same as its jobs 0 and 1: links to them."""
    for number, seed in ((4, 0), (5, 1)):
        link = sweep / f"{number}_repeat-s{seed}"
        link.symlink_to(sweep / f"{seed}_repeat-s{seed}")
        cfg = settings_of("decoder=repeat", f"seed={seed}", "teacher_forcing.detach_feedback=true")
        link.with_name(link.name + ASKED).write_text(yaml.safe_dump(cfg))
    return sorted(path for path in sweep.iterdir() if path.is_dir())


def test_a_row_with_the_runs_of_another_says_so(asked_twice):
    comparison = compare(find_jobs(asked_twice))
    assert comparison.settings == ("decoder", "optimizer.lr", "teacher_forcing.detach_feedback")
    lines = printed(comparison, width=200).splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert [(row[3], row[4]) for row in rows] == [
        ("False", "2 seeds"), ("False", "2 seeds"), ("True", "as #2"), ("False", "slow-s0")
    ]  # fmt: skip
    assert rows[1][5] == rows[2][5]


def test_a_job_that_was_asked_for_twice_is_one_row(asked_twice, sweep):
    (sweep / f"5_repeat-s1{ASKED}").write_text("no settings")
    (sweep / f"4_repeat-s0{ASKED}").unlink()
    comparison = compare(find_jobs(asked_twice))
    assert len(comparison.runs) == 5
    assert "#" not in printed(comparison)


def test_rows_are_sorted_with_mean_and_spread_over_seeds(sweep):
    rows = compare(find_runs([sweep])).rows
    assert [row.settings[0] for row in rows] == ["autoregressive", "repeat", "autoregressive"]
    assert rows[1].mean("val/reconstruction_mse") == pytest.approx(0.5)
    assert rows[1].spread("val/reconstruction_mse") == pytest.approx(stdev([0.4, 0.6]))
    assert math.isnan(rows[2].spread("val/reconstruction_mse"))
    largest_first = compare(find_runs([sweep]), "test/r2").rows
    assert [row.mean("test/r2") for row in largest_first] == sorted((1 - v for v in (0.31, 0.5, 0.9)), reverse=True)


def test_the_table_marks_the_best_and_names_its_run(sweep):
    text = printed(compare(find_runs([sweep])))
    lines = [line for line in text.splitlines() if line.startswith("│")]
    assert "0.3100 ± 0.0141 *" in lines[0]
    assert [line.count(" *") for line in lines] == [3, 0, 0]  # speeds are equal: none is best
    assert "0.9000 " in lines[2]
    assert "10_slow" not in lines[2]
    assert "slow-s0" in lines[2]
    assert "2 seeds" in lines[0]
    assert f"best run: {sweep / '2_autoregressive-s0'}" in text.replace("\n", "")
    narrow = printed(compare(find_runs([sweep])), force_terminal=True, width=70)
    assert "windows/s" not in narrow
    assert "val/mse" in narrow


def test_a_seed_that_was_run_twice_is_no_spread_over_seeds(tmp_path):
    for number in range(2):
        write_run(tmp_path / f"{number}_a", settings_of("seed=3"), metrics=measured(0.5 + number))
    text = printed(compare(find_runs([tmp_path])))
    assert "2 runs" in text
    assert "one seed more than once" in text
    assert "over seeds" not in text


def test_jobs_are_read_once_in_the_order_of_their_numbers(sweep):
    (sweep.parent / "latest").symlink_to(sweep / "0_repeat-s0")
    names = [run.directory.name for run in find_runs([sweep.parent, sweep / "0_repeat-s0"])]
    assert names == ["0_repeat-s0", "1_repeat-s1", "2_autoregressive-s0", "3_autoregressive-s1", "10_slow-s0"]


def test_a_group_is_found_by_its_name(sweep, monkeypatch):
    write_run(sweep.parent / "2026_alone", settings_of(), metrics=measured(0.2))
    monkeypatch.chdir(sweep.parents[1])
    assert len(find_runs(["group=sweep_a"])) == 5
    assert len(find_runs(["outputs"])) == 6
    with pytest.raises(DataError, match="group=sweep_b: no run below outputs is of that sweep"):
        find_runs(["group=sweep_b"])


def test_a_run_that_did_not_finish_is_shown_as_what_it_is(tmp_path):
    write_run(tmp_path / "0_done", settings_of("seed=0", EPOCHS), metrics=measured(0.5), curve=[0.5])
    reasons = {"failed": RefoldError("optimizer.lr is too high"), "stopped": Interrupted("SIGTERM: stopped at 19")}
    running = contextlib.ExitStack()
    for number, name in enumerate(["running", "failed", "stopped", "cut"], start=1):
        directory = write_run(
            tmp_path / f"{number}_{name}", settings_of(f"seed={number}", EPOCHS), metrics=None, curve=[0.4, 0.2]
        )
        if name == "running":
            running.enter_context(lock_run(directory))
        elif name == "cut":
            (directory / STATE).write_text("{}\n")  # as it is when the process that held it was killed
        else:
            with pytest.raises(type(reasons[name])), lock_run(directory):
                raise reasons[name]
    write_run(tmp_path / "5_waiting", settings_of("seed=5", EPOCHS), metrics=None)
    with running:
        runs = find_runs([tmp_path])
    assert [run.status for run in runs] == ["finished", "running", "failed", "stopped", "cut", "not started"]
    comparison = compare(runs)
    assert comparison.rows[0].finished  # although others have reached a lower value so far
    assert len(comparison.rows[0].runs) == 1
    text = printed(comparison)
    for shown in (
        "running: epoch 2 of 10",
        "failed: optimizer.lr is too high",
        "stopped: SIGTERM",
        "cut: epoch 2 of 10",
    ):
        assert shown in text
    assert "5 of 6 runs did not finish" in text


@pytest.mark.slow
def test_a_resumed_run_is_running_again(tmp_path):
    directory = write_run(tmp_path / "0_a", settings_of(), metrics=None)
    with pytest.raises(Interrupted), lock_run(directory):
        raise Interrupted("SIGINT")
    with lock_run(directory):
        assert find_runs([directory])[0].status == "running"
        with pytest.raises(ConfigError, match="is in use: another process trains this run"), lock_run(directory):
            pass
        assert (directory / STATE).read_text() == "{}\n"


def test_different_data_is_said(tmp_path):
    write_run(tmp_path / "0_a", settings_of(), metrics=measured(0.5))
    write_run(tmp_path / "1_b", settings_of(), metrics=measured(0.4), fingerprint="beef")
    comparison = compare(find_runs([tmp_path]))
    assert len(comparison.rows) == 2  # no mean over different data
    assert "measured on different data" in printed(comparison)
    write_run(tmp_path / "c/2_c", settings_of("data.window_size=16"), metrics=measured(0.4))
    assert "different windows" in printed(compare(find_runs([tmp_path / "0_a", tmp_path / "c"])))
    write_run(tmp_path / "d/3_d", settings_of("predictor=repeat"), metrics=measured(0.4))  # its windows leave room
    assert "different windows" in printed(compare(find_runs([tmp_path / "0_a", tmp_path / "d"])))


def test_what_cannot_be_compared_is_refused_in_one_message(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        DataError, match=r"empty is not a run and holds none: there is no resolved\.yaml in it or below"
    ):
        find_runs([empty])
    with pytest.raises(DataError, match="there is no directory nowhere"):
        find_runs(["nowhere"])
    write_run(tmp_path / "0_a", settings_of(), metrics=measured(0.5))
    write_run(tmp_path / "1_b", settings_of(), metrics={"val/reconstruction_mse": 1.0, "test/vus_pr": 0.5})
    with pytest.raises(DataError, match=r"test/r3: .*0_a has no such metric.*all of them have: val/reconstruction_mse"):
        compare(find_runs([tmp_path]), "test/r3")
    cfg = settings_of("checkpoint.monitor=val/reconstruction_mae")
    write_run(tmp_path / "2_c", cfg, metrics={"val/reconstruction_mae": 1.0})
    with pytest.raises(DataError, match=r"checkpoint\.monitor differs between these runs: .*choose with --metric"):
        compare(find_runs([tmp_path]))


def test_a_row_that_is_being_written_does_no_harm(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,a\n0,1,2.5\n0,2,x\n0,")
    assert read_metrics(tmp_path / "metrics.csv")["a"] == [(1, 2.5)]
    assert read_metrics(tmp_path / "none.csv") == {}


def test_names_are_as_short_as_they_can_be():
    assert short_names(["decoder", "encoder.hidden_size", "decoder.hidden_size", "optimizer.lr"]) == [
        "decoder", "encoder.hidden_size", "decoder.hidden_size", "lr",
    ]  # fmt: skip
