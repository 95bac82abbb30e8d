"""Sweeps: each job right whatever came before it, jobs that are skipped or go on, and every launcher and sweeper."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY, clean_environment, run_directories
from omegaconf import OmegaConf

from refold.cli import sweep
from refold.errors import DataError
from refold.runs import comparison

pytestmark = pytest.mark.slow

PROBE = """
import os, pathlib, torch

def adamw(params, lr, **others):
    '''AdamW that notes on each process what it was given.'''
    if "RANK" in os.environ:  # the check that comes first builds it too
        with open(os.environ["PROBE"], "a") as file:
            file.write(f"{os.environ['MASTER_PORT']} {os.environ['RANK']} {lr}\\n")
    return torch.optim.AdamW(params, lr=lr, **others)
"""


def results(where: Path) -> list[dict]:
    return [json.loads((path / "result.json").read_text()) for path in run_directories(where)]


def probed(module, tmp_path) -> dict[str, str]:
    return {"PYTHONPATH": module("probe", PROBE), "PROBE": str(tmp_path / "probe.txt")}


def learning_rates(tmp_path) -> dict[str, dict[str, str]]:
    """Job -> process -> learning rate."""
    jobs: dict[str, dict[str, str]] = {}
    for line in (tmp_path / "probe.txt").read_text().splitlines():
        job, rank, lr = line.split()
        jobs.setdefault(job, {})[rank] = lr
    return jobs


def test_jobs_on_one_two_and_one_processes_are_each_right(command, tmp_path):
    done = command("-m", *TINY, "bridge.dropout=0", "trainer.devices=1,2,1", "sweep.skip_finished=false")
    assert done.returncode == 0, done.stderr
    found = results(tmp_path)
    assert [result["processes"] for result in found] == [1, 2, 1]
    assert found[0]["metrics"] == found[2]["metrics"]
    assert found[1]["metrics"] == pytest.approx(found[0]["metrics"], abs=1e-5)
    assert len(list((tmp_path / "outputs").glob("sweep_*"))) == 1
    again = command("-m", *TINY, "bridge.dropout=0", "trainer.devices=2,1")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("finished already") == 2
    assert again.stdout.count("] - epoch ") == 0


def test_optuna_gives_both_processes_of_a_job_the_same_settings(command, module, tmp_path):
    done = command(
        "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.sampler.seed=1",
        *TINY, "optimizer._target_=probe.adamw", "optimizer.lr=tag(log, interval(1e-4, 1e-1))", "trainer.devices=2",
        **probed(module, tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = learning_rates(tmp_path).values()
    assert [set(job) for job in jobs] == [{"0", "1"}] * 3
    assert [len(set(job.values())) for job in jobs] == [1] * 3
    assert len({lr for job in jobs for lr in job.values()}) == 3
    (best,) = tmp_path.rglob("optimization_results.yaml")
    value = yaml.safe_load(best.read_text())["best_value"]
    assert value == pytest.approx(min(result["metrics"]["val/reconstruction_mse"] for result in results(tmp_path)))


@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local"],
        [
            "hydra/launcher=ray",
            "+hydra.launcher.ray.init.num_cpus=2",
            "+hydra.launcher.ray.init.include_dashboard=false",
        ],
    ],
)
def test_other_launchers_run_the_same_jobs(launcher, command, tmp_path):
    done = command("-m", *launcher, *TINY, "trainer.devices=2", "seed=1,2", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [result["processes"] for result in results(tmp_path)] == [2, 2]
    seeds = {OmegaConf.load(path / "resolved.yaml").seed for path in run_directories(tmp_path)}
    assert seeds == {1, 2}
    ids = {result["run"].rpartition("-")[0].rpartition("-")[2] for result in results(tmp_path)}
    assert len(ids) == 1  # the sweep's letters


def test_jobs_are_found_whatever_their_directories_are_called(tmp_path):
    names = ["10_a", "9_a", "lr=0.1", ".submitit"]
    for name in names:
        (tmp_path / name).mkdir()
    for name in names[:3]:
        (tmp_path / name / "state.json").write_text("{}")
    assert [path.name for path in sweep.job_directories(tmp_path)] == ["9_a", "10_a", "lr=0.1"]


def test_jobs_that_cannot_be_compared_are_no_failure_of_the_sweep(tmp_path, monkeypatch, capsys):
    for name in "12":
        (tmp_path / name).mkdir()
        (tmp_path / name / "resolved.yaml").write_text("of another version")
    monkeypatch.setattr(sweep.Sweep, "directory", tmp_path)
    sweep.print_sweep_outcome()
    assert "2 of 2 runs cannot be read" in capsys.readouterr().out

    def monitors_differ(runs):
        raise DataError("checkpoint.monitor differs between these runs")

    monkeypatch.setattr(comparison, "compare", monitors_differ)
    sweep.print_sweep_outcome()
    assert "no table of this sweep: checkpoint.monitor differs" in capsys.readouterr().err


def test_two_sweeps_of_the_same_second_do_not_meet(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, str(ROOT / "train.py"), "-m", *TINY, "seed=1,2"]
    started = [
        subprocess.Popen(command, cwd=tmp_path, env=clean_environment(home), stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    sweeps = list((tmp_path / "outputs").glob("sweep_*"))
    assert len(sweeps) == 2
    assert {len(sweep.job_directories(path)) for path in sweeps} == {2}


def test_a_sweep_that_was_cut_goes_on_where_it_was(tmp_path, command):
    settings = ["-m", *TINY, "trainer.max_epochs=40", "data.stride=8", "seed=1,2"]
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *settings], cwd=tmp_path, env=clean_environment(home),
            stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
        while process.poll() is None and not list(tmp_path.glob("outputs/sweep_*/1_*/checkpoints/last.ckpt")):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert "The same command goes on with the sweep" in log.read_text()
    done = command(*settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished already") + done.stdout.count("going on with") == 2
    (first, second) = sorted((tmp_path / "outputs").glob("sweep_*"))
    assert all(sweep.read_result(path) for path in sweep.job_directories(second))
    assert all(path.is_symlink() for path in sweep.job_directories(second)[:1])
    assert {path.resolve().parent for path in sweep.job_directories(second)} <= {first, second}


def test_settings_without_effect_make_no_other_job(command, tmp_path):
    done = command("-m", *TINY, "decoder=repeat", "teacher_forcing=none,linear", "optimizer.lr=1e-3,1e-2")
    assert done.returncode == 0, done.stderr
    assert len(run_directories(tmp_path)) == 2
    (directory,) = (tmp_path / "outputs").glob("sweep_*")
    jobs = sweep.job_directories(directory)
    assert [job.is_symlink() for job in jobs] == [False, False, True, True]
    assert [job.resolve() for job in jobs[2:]] == jobs[:2]
    table = done.stdout[done.stdout.index("what differed, best first") :].splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in table if line.startswith("│")]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]  # one for each job that was asked for
    assert [row[1] for row in rows] == ["none", "linear"] * 2
    assert [row[3] for row in rows][1::2] == ["as #1", "as #3"]


def test_a_failed_job_does_not_stop_the_others_unless_asked(command, tmp_path):
    settings = ["-m", *TINY, "optimizer.lr=1e-3,-1,1e-4"]
    done = command(*settings)
    assert done.returncode == 2
    assert len(run_directories(tmp_path)) == 2
    (listed,) = (line for line in done.stderr.splitlines() if line.startswith("failed: "))
    assert "1_autoregressive-one-s0: optimizer: Invalid learning rate: -1" in listed
    values = sorted(result["metrics"]["val/reconstruction_mse"] for result in results(tmp_path))
    table = done.stdout[done.stdout.index("what differed, best first") :]
    places = [table.index(f"{value:.4f}") for value in values]
    assert places == sorted(places)
    assert "Traceback" not in done.stderr
    asked = command(
        *settings, "sweep.stop_on_failure=true", "sweep.skip_finished=false", "hydra.sweep.dir=outputs/asked"
    )
    assert asked.returncode == 2
    assert len(run_directories(tmp_path / "outputs/asked")) == 1
