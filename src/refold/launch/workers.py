"""Run one job on N processes.

The process that composed the configuration never becomes a rank: it starts N fresh ones that read resolved.yaml, waits
for them, and reads their result. Nothing of a job stays behind in the environment.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from refold.errors import Interrupted, RefoldError
from refold.launch.cluster import LOOPBACK, loopback_store
from refold.launch.hardware import Plan
from refold.launch.worker_process import JOB, PARENT, SIGNS
from refold.runs.directory import LOG, RESOLVED, RESULT, describe_kept

GRACE_S = 60.0
"""Seconds that workers have to write a checkpoint and leave after a signal, before they are killed."""

FAILED_GRACE_S = 5.0
"""Seconds that the other workers have to leave after one has failed; they may be waiting for it for ever."""

START_S = 600.0
"""Seconds that a worker may be later than the first one in being ready to train."""

_DEVICES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Environment variables: the network device on which torch's processes listen for each other."""

INTERRUPTED = Interrupted("").status
"""Exit status of a process that stopped on a signal after it wrote its checkpoint."""


class JobFailedError(RefoldError):
    """A process of the job failed; its own message stands above.

    Attributes:
        status: exit status of the process.
    """

    def __init__(self, message: str, status: int = 1):  # a default: a sweep's launcher may pickle it
        super().__init__(message)
        self.status = status


@contextlib.contextmanager
def restored_environment() -> Iterator[None]:
    """Restore os.environ after the block: a job writes PL_GLOBAL_SEED, MASTER_PORT and others to it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def interruptible(run_dir: Path) -> Iterator[None]:
    """Let ctrl-C and SIGTERM raise `Interrupted` in the block; its message says which checkpoint is kept.

    Args:
        run_dir: the run directory.
    """

    def stop(number: int, frame: Any) -> None:
        raise Interrupted(f"{signal.Signals(number).name}: stopped, {describe_kept(run_dir)}")

    with _handled_by(stop, signal.SIGINT, signal.SIGTERM):
        yield


def sigterm_as_ctrl_c() -> contextlib.AbstractContextManager[None]:
    """Let SIGTERM raise KeyboardInterrupt in the block, as ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    return _handled_by(interrupt, signal.SIGINT, signal.SIGTERM)  # a shell may have had the former ignored


@contextlib.contextmanager
def _handled_by(handler: Any, *numbers: int) -> Iterator[None]:
    """Send signals to a handler in the block; in other threads than the main one, Python allows no change."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def needs_workers(plan: Plan) -> bool:
    """Return whether a job needs processes of its own.

    A job of one process needs it too if it names a strategy, because a strategy marks this process as a rank.
    """
    return plan.processes > 1 or plan.settings["strategy"] != "auto"


def run_workers(command: Sequence[str], run_dir: Path, plan: Plan, cores: int) -> dict[str, Any]:
    """Run `command --job resolved.yaml` once per process, and return the result that they write.

    Args:
        command: words that start a process of Refold.
        run_dir: the run directory, with its resolved.yaml.
        plan: the devices, processes and settings of the job on this machine.
        cores: CPU cores that the processes share.

    Returns:
        The content of result.json.

    Raises:
        JobFailedError: a process failed, or has not started.
        Interrupted: a signal came, to this process or to a worker. All workers have left by then.
    """
    with tempfile.TemporaryDirectory(prefix="refold-") as signs, _worker_store() as address, sigterm_as_ctrl_c():
        shared = {**address, SIGNS: signs, JOB: str((run_dir / RESOLVED).resolve()), PARENT: str(os.getpid())}
        if plan.settings["accelerator"] == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            shared["OMP_NUM_THREADS"] = str(max(1, cores // plan.processes))
        # parts of the user's own are found where this process finds them
        places = [sys.path[0] or os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
        shared["PYTHONPATH"] = os.pathsep.join(places)
        workers = Workers([*command, "--job", str(run_dir / RESOLVED)], Path(signs))
        try:
            workers.start(plan.processes, shared)
            failure = workers.wait()
            if failure and failure.status == INTERRUPTED:
                raise KeyboardInterrupt  # the signal went to a worker, as Slurm sends it to all
        except KeyboardInterrupt:
            with _handled_by(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM):  # a second one cuts no clean-up short
                workers.terminate()
            raise Interrupted(f"stopped, {describe_kept(run_dir)}") from None
        finally:
            workers.reap(FAILED_GRACE_S)
    if failure:
        raise _job_failed(failure, run_dir / LOG)
    return json.loads((run_dir / RESULT).read_text())


class Failure(NamedTuple):
    """Why the first process of a job failed.

    Attributes:
        message: the text for the user.
        status: exit status of the process.
        traceback: traceback of its error; empty if there is none to show.
    """

    message: str
    status: int
    traceback: str


def _job_failed(failure: Failure, log: Path) -> JobFailedError:
    """Return the error to raise, and append the traceback to the log unless the user made a mistake.

    The traceback is printed as well if a process hangs.
    """
    if failure.status == 2:
        return JobFailedError(failure.message, failure.status)
    if failure.traceback:
        if failure.status != os.EX_SOFTWARE:
            print(failure.traceback, file=sys.stderr)
        with contextlib.suppress(OSError), log.open("a") as file:  # a full disk may be what it failed of
            file.write(failure.traceback)
    return JobFailedError(f"{failure.message}; log: {log}", failure.status)


class Workers:
    """The processes of a job.

    Args:
        command: the words that start each of them.
        signs: the folder in which they leave files when they are ready, or have failed.
    """

    def __init__(self, command: list[str], signs: Path):
        self.command = command
        self.signs = signs
        self.processes: list[subprocess.Popen] = []
        self.first_ready: float | None = None

    def start(self, count: int, shared: dict[str, str]) -> None:
        """Start the processes.

        Args:
            count: number of processes, at least 1.
            shared: environment variables that all of them get.
        """
        for rank in range(count):
            ranks = {"WORLD_SIZE": str(count), "NODE_RANK": "0", "RANK": str(rank), "LOCAL_RANK": str(rank)}
            # a session of its own: ctrl-C in a terminal reaches this process alone, which then tells the workers once
            worker = subprocess.Popen(self.command, env={**os.environ, **shared, **ranks}, start_new_session=True)
            self.processes.append(worker)

    def wait(self) -> Failure | None:
        """Wait until all processes have left or one has failed; return the failure, if there is one."""
        while None in (codes := [worker.poll() for worker in self.processes]):  # all: the first may wait for a dead one
            if any(codes):
                break
            if late := self._late():
                return self._not_started(late)
            time.sleep(0.05)
        failed = {rank: code for rank, code in enumerate(codes) if code}
        return self._failure(failed) if failed else None

    def _late(self) -> list[int]:
        """Return the ranks that are not ready START_S seconds after the first process was."""
        if self.first_ready is None and any(self.signs.glob("ready-*")):
            self.first_ready = time.monotonic()
        if self.first_ready is None or time.monotonic() - self.first_ready < START_S:
            return []
        return [rank for rank in range(len(self.processes)) if not (self.signs / f"ready-{rank}").exists()]

    def _not_started(self, late: list[int]) -> Failure:
        """Ask late processes where they stand, and return that as a failure."""
        for rank in late:
            self.processes[rank].send_signal(signal.SIGUSR1)  # writes where it stands
        time.sleep(0.5)
        names = ", ".join(map(str, late))
        message = (
            f"process {names} of {len(self.processes)} is not ready to train {START_S:.0f} s after the first one was"
        )
        stands = [path.read_text() for rank in late if (path := self.signs / f"stands-{rank}").exists()]
        return Failure(message, 1, "".join(stands))

    def _failure(self, codes: dict[int, int]) -> Failure:
        """Return the first failure; others, such as a lost connection, follow from it.

        Args:
            codes: rank -> exit status, of the processes that failed.
        """
        records = {
            rank: json.loads(path.read_text())
            for rank in range(len(self.processes))
            if (path := self.signs / f"failed-{rank}").exists()
        }
        killed = [rank for rank, code in codes.items() if code < 0 and rank not in records]
        if killed:
            name = signal.Signals(-codes[killed[0]]).name
            return Failure(f"process {killed[0]} of {len(self.processes)} was killed by {name}", 1, "")
        if not records:
            return Failure(f"the job failed; exit status by process: {codes}", next(iter(codes.values())), "")
        first = min(records, key=lambda rank: records[rank]["time"])
        found = records[first]
        message = (
            found["message"]
            if found["status"] == 2
            else f"process {first} of {len(self.processes)}: {found['message']}"
        )
        return Failure(message, found["status"], found["traceback"])

    def terminate(self) -> None:
        """Ask the processes that still run to write a checkpoint and leave; wait for them."""
        for worker in self.processes:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        self.reap(GRACE_S)

    def reap(self, grace_s: float) -> None:
        """Wait until all processes have left, and kill those that have not after some time.

        Args:
            grace_s: seconds to wait before that.
        """
        end = time.monotonic() + grace_s
        while any(worker.poll() is None for worker in self.processes) and time.monotonic() < end:
            time.sleep(0.05)
        for worker in self.processes:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


@contextlib.contextmanager
def _worker_store() -> Iterator[dict[str, str]]:
    """Open the store at which the workers meet, and yield the environment variables with its address.

    Its port is taken before the workers hear of it. All are on this machine: they listen on the loopback device alone.
    """
    store = loopback_store()
    yield {
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": str(True),  # torch's word for: the store is there, none of you opens it
        **{name: "lo" for name in _DEVICES if sys.platform == "linux" and name not in os.environ},
    }
    del store
