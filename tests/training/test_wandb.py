"""What a W&B run holds, read back from its offline files as `wandb leet inspect` shows them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY, clean_environment
from wandb_server import WandbServer

pytestmark = pytest.mark.slow

WANDB = [setting for setting in TINY if not setting.startswith("logger")]


def inspect(offline: Path, *flags: str) -> str:
    tool = Path(sys.executable).with_name("wandb")
    arguments = [tool, "leet", "inspect", *flags, "--json", offline]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


def records(offline: Path) -> list[dict]:
    return [json.loads(line) for line in inspect(offline).splitlines()]


def offline_runs(where: Path) -> list[Path]:
    return sorted(path for path in where.rglob("wandb/offline-run-*") if "latest" not in path.parts)


def test_a_resumed_run_is_one_run_with_all_its_numbers_pictures_and_its_model(command, tmp_path):
    done = command(*WANDB, "trainer.max_epochs=2", "lr_schedule=constant", "logger.log_model=true")
    assert done.returncode == 0, done.stderr
    resumed = command("resume=latest", "trainer.max_epochs=4")
    assert resumed.returncode == 0, resumed.stderr
    first, second = offline_runs(tmp_path)
    summaries = [json.loads(inspect(part, "--summary")) for part in (first, second)]
    (run_id,) = {summary["run_id"] for summary in summaries}
    assert [(summary["state"], summary["exit_code"]) for summary in summaries] == [("finished", 0)] * 2

    result = json.loads(next(tmp_path.rglob("result.json")).read_text())
    config, summary = summaries[1]["config"], summaries[1]["summary"]
    assert config["layers"]["hidden_size"] == config["encoder"]["hidden_size"] == 8
    assert config["run"]["choices"]["lr_schedule"] == "constant"
    assert "logger" not in config
    assert "_target_" not in json.dumps(config)
    facts = {key: result[key] for key in ("data_fingerprint", "parts", "parameters", "processes", "precision")}
    assert facts.items() <= config["facts"].items()
    assert config["facts"]["git_commit"] == result["git_commit"]
    for name in ("test/r2", "test/r2_against_pca", "val/r2_against_mean"):
        assert summary[name] == pytest.approx(result["metrics"][name])
    assert summary["pca/test/r2"] == pytest.approx(result["baselines"]["pca"]["test/r2"])
    assert summary["best/val/reconstruction_mse"] == pytest.approx(result["metrics"]["val/reconstruction_mse"])

    logged = [
        (record["history"]["item"]["trainer/global_step"], name)
        for part in (first, second)
        for record in records(part)
        if record["type"] == "history"
        for name in record["history"]["item"]
        if name.startswith(("train/", "val/", "perf/"))
    ]
    assert len(logged) == len(set(logged))  # nothing twice
    assert sorted({step for step, name in logged if name == "train/grad_norm"}) == list(range(28))
    assert [step for step, name in logged if name == "val/exposure_gap"] == [6, 13, 20, 27]
    pictures = [step for step, name in logged if name == "val/reconstructions._type"]
    assert pictures == [6, 13, 27]  # after epochs 1, 2 and 4
    files = [record["files"]["files"][0]["path"] for record in records(second) if record["type"] == "files"]
    for name in ("reconstructions", "latent_map", "error_histogram", "feature_errors"):
        assert any(f"media/images/figures/{name}" in path for path in files), name
    artifacts = [record["artifact"] for record in records(second) if record["type"] == "artifact"]
    assert [artifact["name"] for artifact in artifacts] == [f"model-{run_id}"]
    assert {"best", run_id} <= set(artifacts[0]["aliases"])


def test_a_failed_job_of_a_sweep_is_a_failed_run_and_the_others_are_not(command, tmp_path):
    done = command("-m", *WANDB, "optimizer=sgd", "lr_schedule=constant", "trainer.gradient_clip_val=null",
                   "optimizer.lr=1e38,0.01")  # fmt: skip
    assert done.returncode == 2
    runs = [json.loads(inspect(path, "--summary")) for path in offline_runs(tmp_path)]
    assert [(run["state"], run["exit_code"]) for run in runs] in ([("failed", 1), ("finished", 0)],)
    assert len({run["run_id"] for run in runs}) == 2
    headers = [next(r["run"] for r in records(path) if r["type"] == "run") for path in offline_runs(tmp_path)]
    (group,) = {header["run_group"] for header in headers}
    assert group.startswith("sweep_")
    assert {header["job_type"] for header in headers} == {"train"}


def test_a_full_disk_under_wandb_does_not_stop_the_training(tmp_path):
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("a small file system can be mounted by root on Linux alone")
    folder = tmp_path / "run/wandb"
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr}")
    try:
        command = [sys.executable, str(ROOT / "train.py"), *WANDB, f"hydra.run.dir={tmp_path / 'run'}"]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=clean_environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        subprocess.run(["umount", folder], check=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("W&B: not logged there from here on ([Errno 28] No space left on device") == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run/result.json").exists()
    assert "test/r2" in (tmp_path / "run/metrics.csv").read_text()


ONLINE = """
import logging, sys, time
from pathlib import Path
from refold.training import loggers

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
loggers.FINISH_TIMEOUT_S = 4
settings = {"run": {"choices": {"decoder": "repeat"}}}
logger = loggers.wandb_logger(
    project="p", entity=None, mode="online", tags=[], notes=None, log_model=False, run_dir=Path("."), run_id="run-0",
    settings=settings, group=None,
)
for step in range(400):
    if step == 200:
        print("half", flush=True)
        input()
    logger.log_metrics({"a": float(step)}, step=step)
print("logged", flush=True)
began = time.monotonic()
loggers.finish_loggers(0)
print("finished", time.monotonic() - began < 60, flush=True)
"""


@pytest.mark.parametrize("network", ["stays", "goes"])
def test_a_network_that_goes_in_the_middle_is_said_once_and_loses_nothing(network, tmp_path):
    server = WandbServer()
    environment = {**clean_environment(tmp_path), "WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": server.url}
    process = subprocess.Popen(
        [sys.executable, "-c", ONLINE], cwd=tmp_path, env=environment, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    shown = [process.stdout.readline()]
    while shown[-1] and shown[-1] != "half\n":
        shown.append(process.stdout.readline())
    if network == "goes":
        server.stop()
    output, errors = process.communicate("\n", timeout=120)
    assert process.returncode == 0, errors
    assert errors == ""
    assert "finished True" in output
    assert f"W&B: {server.url}/me/p/runs/run-0\n" in "".join(shown)
    (part,) = (tmp_path / "wandb").glob("run-*-run-0")
    kept = [record["history"]["item"]["a"] for record in records(part) if record["type"] == "history"]
    assert kept == [float(step) for step in range(400)]
    if network == "goes":
        assert output.count("W&B: the server was gone; upload what it did not get with `wandb sync ") == 1
        assert len(server.rows) < 400
    else:
        assert "W&B" not in output
        assert [row["a"] for row in server.rows] == kept
        server.stop()


def test_make_sync_uploads_every_offline_run_once(tmp_path):
    code = "import wandb; wandb.init(mode='offline', id='{0}', dir='{1}'); wandb.log({{'a': 1.0}}); wandb.finish()"
    environment = clean_environment(tmp_path)
    for name, folder in (("one", "outputs/a run"), ("two", "outputs/sweep_x/0_b")):
        (tmp_path / folder).mkdir(parents=True)
        subprocess.run(
            [sys.executable, "-c", code.format(name, tmp_path / folder)], env=environment, check=True,
            capture_output=True,
        )  # fmt: skip
    server = WandbServer()
    environment |= {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": server.url}
    sync = ["make", "-f", ROOT / "Makefile", "-o", ".venv/installed", "sync", f"BIN={Path(sys.executable).parent}"]
    for _ in range(2):  # the second time there is nothing left to do
        done = subprocess.run(sync, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert [row["a"] for row in server.rows] == [1.0, 1.0]
    server.stop()


def test_make_leet_opens_all_runs_at_once(tmp_path):
    for folder in ("a run/wandb/offline-run-1-one", "sweep_x/0_b/wandb/offline-run-2-two", "c/wandb/run-3-three"):
        (tmp_path / "outputs" / folder).mkdir(parents=True)
    tool = tmp_path / "bin/wandb"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$@"\n')
    tool.chmod(0o755)
    leet = [
        "make",
        "--no-print-directory",
        "-f",
        ROOT / "Makefile",
        "-o",
        ".venv/installed",
        "leet",
        f"BIN={tool.parent}",
    ]
    for _ in range(2):
        done = subprocess.run(leet, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "leet outputs/.leet\n"
        links = sorted((tmp_path / "outputs/.leet").iterdir())
        assert [path.name for path in links] == ["offline-run-1-one", "offline-run-2-two", "run-3-three"]
        assert all(path.is_dir() for path in links)
