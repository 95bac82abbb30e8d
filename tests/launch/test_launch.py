"""One job on N processes: what the launcher does when all goes well, when one fails, and when it is told to stop."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY, clean_environment, run_directories, wait_for
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from refold.cli import job, main
from refold.errors import Interrupted
from refold.launch import workers as launch
from refold.launch.hardware import Plan
from refold.launch.worker_process import run_worker
from refold.runs.state import find_state

FAULTY_LOSS = """
import os, signal, time, torch
from refold.training.losses import SquaredErrorLoss

class Loss(SquaredErrorLoss):
    '''Squared error, until the third call on process 1.'''
    calls = 0
    def __call__(self, *arguments):
        self.calls += 1
        if self.calls == 3 and os.environ.get("RANK") == "1":
            {fault}
        return super().__call__(*arguments)
"""
TWO = [*TINY, "trainer.devices=2", "trainer.max_epochs=400"]


def left_behind(where) -> str:
    return subprocess.run(["pgrep", "-f", str(where)], capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ['a b, it\'s = "q"', "(x)[y]{z}$HOME;&"])
def test_two_processes_write_one_log_into_one_directory_of_any_name(name, command, tmp_path):
    quoted = name.replace("\\", "\\\\").replace("'", "\\'")
    (override,) = OverridesParser.create().parse_overrides([f"hydra.run.dir='{quoted}'"])
    assert override.value() == name
    settings = [setting for setting in TINY if not setting.startswith("logger")]
    done = command(*settings, "trainer.devices=2", "trainer.accumulate_grad_batches=2", f"hydra.run.dir='{quoted}'")
    assert done.returncode == 0, done.stderr
    assert run_directories(tmp_path) == [tmp_path / name]
    assert [path.name for path in tmp_path.rglob("*.log") if "wandb" not in path.parts] == ["train.log"]
    assert len([path for path in tmp_path.rglob("wandb/offline-run-*") if path.is_dir()]) == 1
    head = (tmp_path / name / "train.log").read_text()[:2000]
    assert "2 x cpu, strategy ddp, precision 32-true, 128 windows per optimizer step over all" in head
    found = json.loads((tmp_path / name / "result.json").read_text())
    used = {"processes": 2, "devices": 2, "num_nodes": 1, "precision": "32-true", "global_batch_size": 128}
    assert {name: found[name] for name in used} == used
    assert "ddp" in found["strategy"].lower()


@pytest.mark.slow
@pytest.mark.parametrize("others", [[], ["predictor=conditional", "predictor.horizon=4"]])
def test_the_loss_curve_does_not_depend_on_the_number_of_processes(others, command, tmp_path):
    settings = [*TINY, "trainer.max_epochs=3", "teacher_forcing=constant", "data.stride=8", "bridge.dropout=0", *others]
    for processes in (1, 2):
        done = command(*settings, f"trainer.devices={processes}", f"hydra.run.dir={processes}")
        assert done.returncode == 0, done.stderr
    one, two = (_curves(tmp_path / name / "metrics.csv") for name in "12")
    assert one.keys() == two.keys()
    assert len([step for step, name in one if name == "train/loss"]) >= 40
    for key, value in one.items():
        assert two[key] == pytest.approx(value, abs=1e-5), key


def _curves(path) -> dict:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = ("train/loss", "train/epoch_loss", "val/reconstruction_mse", "val/r2", "test/reconstruction_mse")
    kept += ("train/prediction_loss", "val/prediction_r2", "test/prediction_r2")
    return {(row["step"], name): float(row[name]) for row in rows for name in kept if row.get(name)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message", "status", "traceback"),
    [
        ("raise ArithmeticError('of process one')", "process 1 of 2: ArithmeticError: of process one", 70, True),
        ("os.kill(os.getpid(), signal.SIGKILL)", "process 1 of 2 was killed by SIGKILL", 1, False),
    ],
)
def test_a_process_that_fails_ends_the_job_and_is_the_one_shown(
    fault, message, status, traceback, command, module, tmp_path
):
    path = module("faulty", FAULTY_LOSS.format(fault=fault))
    done = command(*TWO, "loss=mse", "loss._target_=faulty.Loss", PYTHONPATH=path)
    assert done.returncode == status
    assert message in done.stderr
    (run_dir,) = (path for path in (tmp_path / "outputs").iterdir() if path.name != "latest")
    assert done.stderr.rstrip().endswith(f"log: {run_dir / 'train.log'}")
    assert "Traceback" not in done.stderr
    # of the first failure, not of the others, which lost their peer
    assert (run_dir / "train.log").read_text().count("Traceback") == traceback
    assert message in find_state(run_dir).reason
    assert left_behind(tmp_path) == ""


@pytest.mark.slow
def test_a_process_that_hangs_at_the_start_is_named_with_where_it_stands(tmp_path, monkeypatch, capfd):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, sys, time\n"
        "from refold.launch.worker_process import report_ready, run_worker\n"
        "def train(cfg, run_dir):\n"
        "    if os.environ['RANK'] == '1':\n"
        "        time.sleep(600)  # hangs here\n"
        "    report_ready()\n"
        "    time.sleep(600)\n"
        "run_worker(pathlib.Path(sys.argv[2]), train)\n"
    )
    (tmp_path / "resolved.yaml").write_text("resume: null\ntrainer: {}\n")
    monkeypatch.setattr(launch, "START_S", 1.0)
    monkeypatch.setattr(launch, "FAILED_GRACE_S", 0.1)
    plan = Plan({"accelerator": "cpu", "strategy": "ddp"}, 2)
    with pytest.raises(launch.JobFailedError, match="process 1 of 2 is not ready to train 1 s after the first one was"):
        launch.run_workers([sys.executable, str(script)], tmp_path, plan, cores=2)
    assert f'"{script}", line 5 in train' in capfd.readouterr().err
    assert left_behind(tmp_path) == ""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_process_of_a_job_listens_beyond_this_machine(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, pathlib, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch.distributed as dist\n"
        "from sockets import listening\n"
        "from refold.launch.worker_process import run_worker\n"
        "def train(cfg, run_dir):\n"
        "    dist.init_process_group('gloo', init_method='env://')\n"
        "    dist.barrier()\n"
        "    found = {who: listening(pid) for who, pid in (('own', os.getpid()), ('parent', os.getppid()))}\n"
        "    dist.barrier()\n"
        "    if dist.get_rank() == 0:\n"
        "        (run_dir / 'result.json').write_text(json.dumps(found))\n"
        "run_worker(pathlib.Path(sys.argv[2]), train)\n"
    )
    (tmp_path / "resolved.yaml").write_text("resume: null\ntrainer: {}\n")
    plan = Plan({"accelerator": "cpu", "strategy": "ddp"}, 2)
    found = launch.run_workers([sys.executable, str(script)], tmp_path, plan, cores=2)
    assert found["parent"]  # the store
    assert found["own"]  # gloo
    assert set(found["parent"]) | set(found["own"]) == {"0100007F"}  # 127.0.0.1


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_the_job_and_is_no_failure(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, pathlib, signal, sys, time\n"
        "from refold.cli import command\n"
        "from refold.launch.worker_process import run_worker\nfrom refold.launch.workers import interruptible\n"
        "def train(cfg, run_dir):\n"
        "    with interruptible(run_dir):\n"
        "        if os.environ['RANK'] == '1':\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(600)\n"
        "work = lambda: run_worker(pathlib.Path(sys.argv[2]), train)\n"
        "sys.exit(command.run_command(work, pathlib.Path('.'), says_interrupted=False))\n"
    )
    (tmp_path / "resolved.yaml").write_text("resume: null\ntrainer: {}\n")
    plan = Plan({"accelerator": "cpu", "strategy": "ddp"}, 2)
    with pytest.raises(Interrupted, match="stopped, before the first checkpoint") as stop:
        launch.run_workers([sys.executable, str(script)], tmp_path, plan, cores=2)
    assert stop.value.status == 130
    assert left_behind(tmp_path) == ""


def test_a_worker_whose_parent_has_ended_before_it_was_there_does_not_train(tmp_path, monkeypatch):
    monkeypatch.setenv("REFOLD_PARENT", "1")
    with pytest.raises(SystemExit, match="the process that started this one has ended"):
        run_worker(tmp_path / "resolved.yaml", lambda *_: pytest.fail("it trained"))


def test_a_failure_reaches_the_sweep_whose_jobs_run_in_other_processes():
    failure = pickle.loads(pickle.dumps(launch.JobFailedError("process 1 of 2 was killed", 3)))
    assert (str(failure), failure.status) == ("process 1 of 2 was killed", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all/resolved.yaml"], "resolved.yaml cannot be read: [Errno 2] No such file"),
        ([], "--job takes a resolved.yaml and nothing else"),
        (["run/resolved.yaml", "trainer.max_epochs=9"], "--job takes a resolved.yaml and nothing else"),
    ],
)
def test_a_job_that_is_not_there_is_named_and_no_setting_beside_it_is_ignored(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "--job", *arguments])
    assert main.run_subcommand("train") == 2
    assert message in capsys.readouterr().err


def test_a_job_by_hand_is_locked_and_is_one_process_whatever_it_was_before(tmp_path):
    seen = []

    def fake_train(cfg, run_dir):
        seen.append((find_state(run_dir).running, cfg.trainer))

    trainer = {"devices": 2, "num_nodes": 1, "strategy": "ddp"}
    job.join(OmegaConf.create({"trainer": trainer}), tmp_path, fake_train)
    assert seen == [(True, {"devices": 1, "num_nodes": 1, "strategy": "ddp"})]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_parent_alone_stops_all_processes(number, tmp_path):
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *TWO], cwd=tmp_path, env=clean_environment(home), stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        wait_for(log, "] - epoch 2/")
        os.kill(process.pid, number)
        assert process.wait(timeout=60) == 130
    assert "Traceback" not in log.read_text()
    assert list(tmp_path.rglob("last.ckpt"))
    assert left_behind(tmp_path) == ""


@pytest.mark.slow
def test_workers_die_with_the_process_that_started_them(tmp_path):
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *TWO], cwd=tmp_path, env=clean_environment(home), stdout=file,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        wait_for(log, "] - epoch 2/")
        process.kill()
        process.wait()
    end = time.monotonic() + 10
    while left := left_behind(tmp_path):
        assert time.monotonic() < end, left
        time.sleep(0.1)


def test_what_a_job_writes_to_the_environment_ends_with_it(monkeypatch):
    monkeypatch.setenv("KEPT", "1")
    before = dict(os.environ)
    with launch.restored_environment():
        os.environ["LOCAL_RANK"] = "1"
        del os.environ["KEPT"]
    assert dict(os.environ) == before
