"""Jobs whose processes torchrun or srun started: one directory, one log, the same result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY, clean_environment, run_directories

from refold.errors import ConfigError
from refold.launch.cluster import World, find_world
from refold.launch.hardware import Machine, adopt, plan

LAPTOP = Machine(gpus=0, cores=2, gpu_bf16=False, cpu_bf16=False)
SETTINGS = {"accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "auto"}
TORCHRUN = Path(sys.executable).with_name("torchrun")


def test_a_process_on_its_own_is_in_no_world(monkeypatch):
    assert find_world() is None
    monkeypatch.setenv("SLURM_NTASKS", "4")  # inside an allocation, but not started by srun
    assert find_world() is None


def test_worlds_are_read_from_what_torchrun_and_srun_set(monkeypatch):
    with monkeypatch.context() as patch:
        for name, value in {"RUN_ID": "x", "USE_AGENT_STORE": "True"}.items():
            patch.setenv(f"TORCHELASTIC_{name}", value)
        for name, value in {"RANK": "3", "WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}.items():
            patch.setenv(name, value)
        assert find_world() == World(rank=3, processes=4, nodes=2, starter="torchrun")
    for name, value in slurm(rank=1, tasks=2).items():
        monkeypatch.setenv(name, value)
    assert find_world() == World(rank=1, processes=2, nodes=1, starter="srun")


def test_the_number_of_processes_is_the_starters():
    world = World(rank=0, processes=4, nodes=2, starter="torchrun")
    found = plan(SETTINGS, LAPTOP, world)
    assert (found.processes, found.settings["devices"], found.settings["num_nodes"]) == (4, 2, 2)
    assert found.settings["strategy"] == "ddp"
    assert plan({**SETTINGS, "devices": 2, "num_nodes": 2}, LAPTOP, world).settings == found.settings
    with pytest.raises(ConfigError, match=r"trainer\.devices is 4; torchrun started 4 processes on 2 nodes: leave"):
        plan({**SETTINGS, "devices": 4}, LAPTOP, world)
    assert adopt({**SETTINGS, "devices": 3}, world)["devices"] == 2


@pytest.mark.parametrize(("started", "script"), [("/usr/bin/refold", "-m refold train"), ("train.py", "train.py")])
def test_several_machines_need_somebody_to_start_them(started, script, monkeypatch):
    monkeypatch.setattr("sys.argv", [started])
    wanted = rf"trainer.num_nodes is 2; .* torchrun --nnodes=2 --nproc-per-node=1 .*:29500 {script}, and the same"
    with pytest.raises(ConfigError, match=wanted):
        plan({**SETTINGS, "num_nodes": 2}, LAPTOP)


def slurm(rank: int, tasks: int, port: int = 29_000) -> dict[str, str]:
    """What srun sets for one of its tasks on one node, as far as anybody asks."""
    values = {
        "JOB_ID": str(port - 15_000), "JOB_NAME": "train", "NODELIST": "127.0.0.1", "NNODES": "1", "NODEID": "0",
        "NTASKS": str(tasks), "NTASKS_PER_NODE": str(tasks), "PROCID": str(rank), "LOCALID": str(rank),
        "STEP_NUM_TASKS": str(tasks),
    }  # fmt: skip
    return {f"SLURM_{name}": value for name, value in values.items()}


def together(commands: list[list[str]], where: Path, environments: list[dict] | None = None) -> list[tuple[int, str]]:
    """Run commands at the same time. Returns: exit status and output of each."""
    home = where / "home"
    home.mkdir(exist_ok=True)
    started = [
        subprocess.Popen(
            command, cwd=where, env={**clean_environment(home), **extra}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for command, extra in zip(commands, environments or [{}] * len(commands), strict=True)
    ]  # fmt: skip
    return [(process.communicate(timeout=300)[0], process.returncode)[::-1] for process in started]


def check_one_run(outputs: list[tuple[int, str]], where: Path, nodes: int = 1) -> Path:
    text = "\n".join(output for _, output in outputs)
    assert [status for status, _ in outputs] == [0] * len(outputs), text
    assert text.count("] - epoch ") == 1
    assert text.count("run directory: ") == 1
    (run_dir,) = run_directories(where)
    assert [path for path in (where / "outputs").iterdir() if path.name != "latest"] == [run_dir]
    assert json.loads((run_dir / "result.json").read_text())["processes"] == 2
    assert f"num_nodes: {nodes}" in (run_dir / "resolved.yaml").read_text()
    return run_dir


@pytest.mark.slow
def test_two_nodes_of_torchrun_are_one_run_and_go_on_with_a_cut_one(tmp_path):
    nodes = [
        [str(TORCHRUN), "--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}", "--rdzv-backend=c10d",
         "--rdzv-endpoint=127.0.0.1:29417", "--rdzv-id=refold", "--local-addr=127.0.0.1", str(ROOT / "train.py")]
        for rank in range(2)
    ]  # fmt: skip
    run_dir = check_one_run(together([[*node, *TINY] for node in nodes], tmp_path), tmp_path, nodes=2)
    before = json.loads((run_dir / "result.json").read_text())
    (run_dir / "result.json").unlink()
    outputs = together([[*node, "--job", f"{run_dir}/resolved.yaml"] for node in nodes], tmp_path)
    assert [status for status, _ in outputs] == [0, 0], outputs
    assert json.loads((run_dir / "result.json").read_text())["metrics"] == before["metrics"]


@pytest.mark.slow
def test_tasks_of_srun_are_one_run(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), *TINY]
    check_one_run(together([command] * 2, tmp_path, [slurm(rank, 2) for rank in range(2)]), tmp_path)


@pytest.mark.slow
def test_tasks_of_srun_that_are_slow_to_start_hear_that_there_is_no_run(tmp_path):
    first = "cluster.dismiss(cluster.find_world())"
    second = "import time; cluster.find_world(); time.sleep(4); print(cluster.wait_for_run())"
    commands = [[sys.executable, "-c", f"from refold.launch import cluster; {code}"] for code in (first, second)]
    outputs = together(commands, tmp_path, [slurm(rank, 2, port=29_100) for rank in range(2)])
    assert outputs == [(0, ""), (0, "None\n")]


@pytest.mark.slow
def test_a_mistake_under_torchrun_ends_all_processes_with_one_message(tmp_path):
    launcher = [str(TORCHRUN), "--standalone", "--nproc-per-node=2", str(ROOT / "train.py")]
    ((status, output),) = together([[*launcher, *TINY, "optimizer.lr=abc"]], tmp_path)
    assert status != 0
    assert output.count("optimizer.lr is 'abc'") == 1
    ((status, output),) = together([[*launcher, "-m", "seed=1,2"]], tmp_path)
    assert status != 0
    assert "-m starts its own processes: run a sweep without torchrun" in output


@pytest.mark.slow
def test_a_job_inside_a_slurm_allocation_starts_its_own_processes(command, tmp_path):
    """`sbatch` runs a script with SLURM_* set, which Lightning by itself takes for a task of srun."""
    environment = {**slurm(0, 2), "SLURM_STEP_NUM_TASKS": "1"}
    done = command(*TINY, "trainer.devices=2", **environment)
    check_one_run([(done.returncode, done.stdout + done.stderr)], tmp_path)
