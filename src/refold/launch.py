"""One job on N processes. The process that composed the configuration never becomes a rank: it starts N fresh ones that
read resolved.yaml, waits for them, and reads their result. Nothing of a job stays behind in the environment.
"""

import contextlib
import ctypes
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from refold import run
from refold.errors import Interrupted, RefoldError
from refold.hardware import Plan
from refold.run import RESOLVED, RESULT

GRACE_S = 60.0
"""Seconds that workers have to write a checkpoint and leave after a signal, before they are killed."""

FAILED_GRACE_S = 5.0
"""Seconds that the other workers have to leave after one has failed; they may be waiting for it for ever."""

JOB_LOG_FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"


class JobFailedError(RefoldError):
    """A process of the job failed; its own message stands above. `status` is its exit status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@contextlib.contextmanager
def restored_environment() -> Iterator[None]:
    """What a job writes to os.environ (PL_GLOBAL_SEED, MASTER_PORT, ...) ends with the job."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def interruptible(run_dir: Path) -> Iterator[None]:
    """Within, ctrl-C and SIGTERM raise `Interrupted`, which says what of the run is kept."""

    def stop(number: int, frame: Any) -> None:
        raise Interrupted(f"{signal.Signals(number).name}: stopped, {run.what_is_kept(run_dir)}")

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def needs_workers(plan: Plan) -> bool:
    """True if the job needs processes of its own; also one, where a strategy would mark this process as a rank."""
    return plan.processes > 1 or plan.settings["strategy"] != "auto"


def run_workers(script: Path, run_dir: Path, plan: Plan, cores: int) -> dict[str, Any]:
    """Run `python script --job resolved.yaml` once per process, and return the result that they write.

    Raises: JobFailedError: a process failed. Interrupted: a signal came; the workers have been told, and have left.
    """
    port = free_port()
    N = plan.processes
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(N)}
    if plan.settings["accelerator"] == "cpu":
        shared["OMP_NUM_THREADS"] = str(max(1, cores // N))
    command = [sys.executable, str(script), "--job", str(run_dir / RESOLVED)]
    before = signal.signal(signal.SIGTERM, _interrupt)
    workers: list[subprocess.Popen] = []
    try:
        for rank in range(N):
            # a session of its own: ctrl-C in a terminal reaches this process alone, which then tells the workers once
            env = {**os.environ, **shared, "LOCAL_RANK": str(rank)}
            workers.append(subprocess.Popen(command, env=env, start_new_session=True))
        while any(worker.poll() is None for worker in workers) and not any(worker.poll() for worker in workers):
            time.sleep(0.05)
    except KeyboardInterrupt:
        before_int = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second ctrl-C must not cut the clean-up short
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        _reap(workers, GRACE_S)
        signal.signal(signal.SIGINT, before_int)
        raise Interrupted(f"stopped, {run.what_is_kept(run_dir)}") from None
    finally:
        _reap(workers, FAILED_GRACE_S)
        signal.signal(signal.SIGTERM, before)
    failed = {rank: worker.returncode for rank, worker in enumerate(workers) if worker.returncode}
    if failed:
        status = next((code for code in failed.values() if code > 0), 1)  # who raised, not who was killed for it
        raise JobFailedError(f"the job failed; exit status by process: {failed}; log: {run_dir}/train.log", status)
    return json.loads((run_dir / RESULT).read_text())


def free_port() -> int:
    """A port for the workers to meet at, which the first of them binds seconds later.

    Not one that the system would choose: it hands those out for outgoing connections too, from 32768 or 49152 on, and
    one of them would now and then be taken in the meantime.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _reap(workers: list[subprocess.Popen], grace_s: float) -> None:
    """Wait until all have left; after the grace period, kill those that have not."""
    end = time.monotonic() + grace_s
    while any(worker.poll() is None for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)
    for worker in workers:
        if worker.poll() is None:
            worker.kill()
        worker.wait()


def work(resolved: Path, train: Callable[..., Any]) -> None:
    """What a worker does: log into the job's files, die with its parent, and train.

    Args: resolved: the job's configuration. train: (cfg, run directory) -> None.
    """
    from omegaconf import OmegaConf

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    first = os.environ["LOCAL_RANK"] == "0"
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(resolved.parent / "train.log")]
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format=JOB_LOG_FORMAT, handlers=handlers)
    train(OmegaConf.load(resolved), resolved.parent)
