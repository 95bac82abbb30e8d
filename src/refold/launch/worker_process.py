"""Be one process of a job: read its configuration, train, and tell the process that started it how that went."""

import contextlib
import ctypes
import faulthandler
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from refold.errors import RefoldError
from refold.launch.cluster import find_world
from refold.runs.directory import LAST_CHECKPOINT, LOG, write_atomically
from refold.runs.resume import resume_command
from refold.runs.settings import hide_secrets, read_settings, refuse_withheld, to_plain
from refold.runs.trust import EVERYTHING
from refold.secrets import redact, redact_logs

SIGNS = "REFOLD_SIGNS"
"""Environment variable: the folder in which a worker tells the process that started it that it is ready, or failed."""

JOB = "REFOLD_JOB"
"""Environment variable: the resolved.yaml that the process that started a worker composed, and so trusts."""

PARENT = "REFOLD_PARENT"
"""Environment variable: the number of the process that started a worker, with which it ends."""

JOB_LOG_FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"


def is_worker() -> bool:
    """Return whether `run_workers` started this process."""
    return SIGNS in os.environ


def run_worker(resolved: Path, train: Callable[..., Any], trust: Sequence[str] = ()) -> Any:
    """Read a job's configuration, log into the job's files, and train.

    The process ends when the one that started it ends.

    Args:
        resolved: the job's configuration.
        train: (cfg, run directory) -> result.
        trust: packages of one's own whose parts the configuration may build. One that was composed by the process that
            started this one is trusted entirely.

    Returns:
        What `train` returns.

    Raises:
        ConfigError: the configuration cannot be read, or would build parts that are not trusted.
    """
    _end_with_parent()  # first of all: the imports take seconds
    from lightning.pytorch.utilities import rank_zero_only

    own = os.environ.get(JOB) == str(resolved.resolve()) or tuple(trust) == EVERYTHING
    cfg = read_settings(resolved, EVERYTHING if own else trust)
    hide_secrets(cfg)
    if not own:
        used = {name: section for name, section in to_plain(cfg).items() if name != "run"}
        refuse_withheld(used, "", resume_command(resolved.parent))
    redact_logs()
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(resolved.parent / LOG)]
    level = logging.WARNING if getattr(rank_zero_only, "rank", 0) else logging.INFO
    logging.basicConfig(level=level, format=JOB_LOG_FORMAT, handlers=handlers)
    last = resolved.parent / LAST_CHECKPOINT
    if not cfg.resume and last.exists():
        cfg.resume = str(last)  # restarted, by torchrun or Slurm, after it was cut
    with _failures_recorded():
        return train(cfg, resolved.parent)


def _end_with_parent() -> None:
    """Ask the system to kill this process when the one that started it ends; leave at once if it has ended already.

    A `--job` by hand has no such parent: it outlives its shell under nohup.
    """
    parent = os.environ.get(PARENT)
    if sys.platform == "linux" and (parent or find_world()):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if parent and os.getppid() != int(parent):
        sys.exit("the process that started this one has ended")


@contextlib.contextmanager
def _failures_recorded() -> Iterator[None]:
    """Write an error of the block to a file, with its time, for the process that started this one, and leave."""
    signs = os.environ.get(SIGNS)
    if signs is None:
        yield
        return
    rank = os.environ["RANK"]
    with open(f"{signs}/stands-{rank}", "w") as stands:
        faulthandler.register(signal.SIGUSR1, stands)
        try:
            yield
        except Exception as error:
            known = isinstance(error, RefoldError)
            lines = str(error) if known else "".join(traceback.format_exception_only(error)).strip()
            status = 2 if known else os.EX_SOFTWARE
            record = {"time": time.time(), "status": status, "message": redact(lines)}
            record["traceback"] = "" if known else redact(traceback.format_exc())
            write_atomically(Path(f"{signs}/failed-{rank}"), json.dumps(record))
            sys.exit(status)
        finally:
            faulthandler.unregister(signal.SIGUSR1)


def report_ready() -> None:
    """Tell the process that started this worker that it is about to meet the others; other processes do nothing."""
    if signs := os.environ.get(SIGNS):
        Path(f"{signs}/ready-{os.environ['RANK']}").touch()
