"""What a user sees of `python train.py`: real processes in an empty directory with an empty home."""

import contextlib
import csv
import fcntl
import json
import math
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import ROOT, TINY, clean_environment, run_directories, wait_for

pytestmark = pytest.mark.slow

RUN_FILES = {
    "resolved.yaml",
    "train.log",
    "findings.csv",
    "metrics.csv",
    "result.json",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "figures/loss_curves.png",
    "figures/reconstructions.png",
    "figures/latent_map.png",
}
WANDB = [setting for setting in TINY if not setting.startswith("logger")]


def leet(run_dir: Path) -> dict:
    """The summary of the W&B run in a run directory, as its own tool reads it from the offline file."""
    (offline,) = (run_dir / "wandb").glob("offline-run-*")
    tool = Path(sys.executable).with_name("wandb")
    shown = subprocess.run(
        [tool, "leet", "inspect", "--summary", "--json", offline], capture_output=True, text=True, check=True
    )
    return json.loads(shown.stdout)


def test_a_run_from_the_command_line_to_its_directory(command, tmp_path):
    done = command(*WANDB, "trainer.max_epochs=2", "teacher_forcing=linear")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("] - epoch ") == 2  # one line per epoch off a terminal
    assert done.stdout.count("W&B: offline (no API key") == 1
    (run_dir,) = run_directories(tmp_path)
    assert {path for path in RUN_FILES if not (run_dir / path).is_file()} == set()
    assert (tmp_path / "outputs/latest").resolve() == run_dir
    result = json.loads((run_dir / "result.json").read_text())
    for name, value in (("test/r2", result["metrics"]["test/r2"]), ("pca", result["baselines"]["pca"]["test/r2"])):
        assert f"{value:.4f}" in done.stdout, name
    for line in ("PCA, 4 components", "training mean", "windows per second", "wandb leet "):
        assert line in done.stdout
    assert f"run directory: outputs/{run_dir.name}" in done.stdout
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row for row in rows if row["val/reconstruction_mse"]]

    summary = leet(run_dir)
    assert run_dir.name.endswith(summary["run_id"])
    assert summary["config"]["layers"]["hidden_size"] == 8  # nested, with nothing left to resolve
    assert summary["config"]["encoder"]["hidden_size"] == 8
    assert summary["config"]["run"]["choices"]["teacher_forcing"] == "linear"
    assert "teacher_forcing=linear" in summary["config"]["run"]["overrides"]
    assert set(summary["tags"]) == {"autoregressive", "stocks"}
    best = min(float(row["val/reconstruction_mse"]) for row in rows if row["val/reconstruction_mse"])
    assert summary["summary"]["val/reconstruction_mse"]["min"] == pytest.approx(best)

    loaded = subprocess.run(
        [sys.executable, "-c", LOAD_IN_A_FRESH_PROCESS], cwd=tmp_path, env=clean_environment(tmp_path),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert loaded.returncode == 0, loaded.stderr
    assert float(loaded.stdout) == result["metrics"]["test/reconstruction_mse"]


def test_a_terminal_shows_a_bar_and_a_line_for_each_epoch(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *TINY, "trainer.max_epochs=2"], cwd=tmp_path, stdout=theirs,
        stderr=theirs, env={**clean_environment(home), "TERM": "xterm", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.findall(r"\] - (epoch \d/\d)  train/epoch_loss", text) == ["epoch 1/2", "epoch 2/2"]
    assert set(re.findall(r"Epoch \S+ ", text)) == {"Epoch 1/2 ", "Epoch 2/2 "}  # of the bar
    lines = [line for line in re.split(r"[\r\n]+", text) if "] - epoch " in line]
    assert [line for line in lines if not line.startswith("[") or "━" in line] == []  # none stands within the bar


LOAD_IN_A_FRESH_PROCESS = """
import torch
from refold.config.build import build_data
from refold.library.run import load_run
from refold.training.reconstruction_metrics import ReconstructionError

run = load_run("outputs/latest")
data = build_data(run.config)
error = ReconstructionError(len(run.features))
with torch.no_grad():
    for batch in data.test_dataloader():
        error.update(run.autoencoder(batch.windows, batch.mask), batch.windows, batch.mask)
print(error.compute()["reconstruction_mse"].float().item())
"""


def test_four_devices_without_a_gpu_are_four_processes_and_one_run(command, tmp_path):
    # coins are the same on every process; what dropout drops is not. The decoder brings its own schedule.
    forced = [*TINY, "teacher_forcing.schedule.steps=0.8", "bridge.dropout=0"]
    one = command(*forced)
    four = command(*forced, "decoder=autoregressive", "trainer.devices=4")
    assert (one.returncode, four.returncode) == (0, 0), four.stderr
    assert "training in 4 CPU processes on" in four.stdout
    assert four.stdout.count("] - epoch ") == 1
    alone, together = (json.loads((path / "result.json").read_text()) for path in run_directories(tmp_path))
    assert together["processes"] == 4
    # the same windows in the same batches, shared out: equal up to the order of float32 sums
    for name, value in alone["metrics"].items():
        assert together["metrics"][name] == pytest.approx(value, abs=1e-5), name
    assert together["baselines"] == alone["baselines"]
    for path in run_directories(tmp_path):
        with (path / "metrics.csv").open() as file:
            ratios = [float(row["train/teacher_forcing_ratio"] or "nan") for row in csv.DictReader(file)]
        falling = [ratio for ratio in ratios if not math.isnan(ratio)]
        assert (falling[0], falling[-1]) == (1.0, 0.0)
        assert falling == sorted(falling, reverse=True)


def test_a_sweep_is_as_many_runs_as_it_says(command, tmp_path):
    done = command("-m", *WANDB, "decoder=autoregressive,repeat", "layers=one,two", timeout=600)
    assert done.returncode == 0, done.stderr
    runs = run_directories(tmp_path)
    assert len(runs) == 4
    assert len({path.parent for path in runs}) == 1
    names = {tuple(path.name.split("_", 1)[1].split("-")[:2]) for path in runs}
    assert names == {(decoder, layers) for decoder in ("autoregressive", "repeat") for layers in ("one", "two")}
    ids = set()
    for path in runs:
        (file,) = (path / "wandb").glob("offline-run-*/run-*.wandb")
        ids.add(file.stem)
    assert len(ids) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_the_checkpoint_and_says_how_to_go_on(number, command, tmp_path):
    settings = [*TINY, "trainer.max_epochs=400", "data.stride=4"]
    home = tmp_path / "home"
    home.mkdir()
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *settings], cwd=tmp_path, env=clean_environment(home),
        stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    wait_for(tmp_path / "log", "] - epoch 2/")
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    log.close()
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text
    assert "Go on with: python train.py resume=latest" in text
    (run_dir,) = {path.parents[1] for path in tmp_path.rglob("checkpoints/last.ckpt") if "latest" not in path.parts}
    before = (run_dir / "resolved.yaml").read_bytes()
    refused = command("resume=latest", "encoder.hidden_size=16")
    assert refused.returncode == 2
    assert "a resumed run keeps its settings" in refused.stderr
    assert (run_dir / "resolved.yaml").read_bytes() == before
    done = command("resume=latest", "trainer.max_epochs=4")
    assert done.returncode == 0, done.stderr
    assert run_directories(tmp_path) == [run_dir]


def test_ctrl_c_in_a_terminal_reaches_all_processes_of_a_job_once(tmp_path):
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *TINY, "trainer.devices=2", "trainer.max_epochs=400"],
            cwd=tmp_path, env=clean_environment(home), stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        wait_for(log, "] - epoch 2/")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 130
    text = log.read_text()
    assert "Traceback" not in text
    assert text.count("Go on with: python train.py resume=latest") == 1
    assert list(tmp_path.rglob("last.ckpt"))
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout
    assert left == ""


def test_every_failed_job_of_a_sweep_is_named(command, tmp_path):
    done = command("decoder=repeat", "-m", *TINY, "optimizer.lr=abc,1e-3,-1")
    assert done.returncode == 2
    assert "optimizer.lr is 'abc'; it must be a valid number" in done.stderr
    assert "Invalid learning rate: -1" in done.stderr
    assert len(run_directories(tmp_path)) == 1


CSV_ROWS = ["date,AAPL,MSFT", *(f"2020-01-{day:02},{100 + day},{50 + day}" for day in range(1, 29))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decodr=repeat"], "decodr: there is no such key; did you mean decoder?"),
        (["decoder=repat"], "did you mean repeat?"),
        (["optimizer.lr=abc"], "optimizer.lr is 'abc'; it must be a valid number"),
        (["data.window_size=5000"], "data.window_size is 5000"),
        (["data=csv", "data.path=missing.csv"], "missing.csv'; there is no such file"),
        (["data=csv", "data.path=short.csv", "data.window_size=20"], "data.split leaves no windows"),
        (["hydra.run.dir=short.csv/run"], "hydra.run.dir: "),
        (["resume=nowhere"], "resume is nowhere; there is no "),
        (["trainer.precision=16-mixed"], "run with trainer.precision=bf16-mixed"),
    ],
)
def test_a_mistake_ends_in_its_message_alone(arguments, message, command, tmp_path):
    (tmp_path / "short.csv").write_text("\n".join(CSV_ROWS) + "\n")
    done = command(*arguments, "logger=csv")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert not list(tmp_path.rglob("last.ckpt"))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--cfg", "job"], ["-sc", "query=bash"], ["decodr=repeat"], ["decoder=repat"]]
)
def test_help_and_mistyped_overrides_answer_without_torch(arguments, tmp_path):
    code = (
        "import atexit, runpy, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); "
        f"sys.argv = ['train.py', *{arguments!r}]; runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean_environment(tmp_path), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stderr.strip().splitlines()[-1] == "False", done.stderr
    assert os.listdir(tmp_path) == []


def test_a_wrong_wandb_key_does_not_stop_the_training(tmp_path):
    environment = {**clean_environment(tmp_path), "WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *WANDB], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("W&B: offline (") == 1
    assert "Traceback" not in done.stderr
