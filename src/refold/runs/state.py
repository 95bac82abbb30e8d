"""Record whether a run is training or how it ended, in state.json, which the training process keeps locked.

The lock goes with its process, however that ends, so a killed run never passes for one that is being trained.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from refold.errors import ConfigError, Interrupted, RefoldError, first_line
from refold.secrets import redact

STATE = "state.json"

Ended = Literal["stopped", "failed"]


class RunState(NamedTuple):
    """Say how a run stands that has no result.

    Attributes:
        running: a process trains it now.
        began: a process has trained it, now or before.
        ended: the way it ended, if it said so.
        reason: why it ended, in one line, or nothing.
    """

    running: bool
    began: bool
    ended: Ended | None
    reason: str


@contextlib.contextmanager
def lock_run(directory: Path) -> Iterator[None]:
    """Lock the run directory while its run is training, and record how it ended; the lock ends with the block.

    Args:
        directory: the run directory; it is made if it is not there.

    Raises:
        ConfigError: another process trains the run, or the directory cannot be written.
    """
    file = _open(directory)
    try:
        for _ in range(10):
            if try_lock(file, fcntl.LOCK_EX) is not False:
                break
            time.sleep(0.1)  # it may only be `find_state` that looks at it
        else:
            raise ConfigError(f"{directory} is in use: another process trains this run")
        _write(file, {})
        try:
            yield
        except (Interrupted, KeyboardInterrupt) as stop:
            _write(file, {"ended": "stopped", "reason": _public_reason(stop)})
            raise
        except Exception as error:
            _write(file, {"ended": "failed", "reason": _public_reason(error)})
            raise
    finally:
        os.close(file)


def record_refusal(directory: Path, error: RefoldError) -> None:
    """Record why a job was refused before it began; a run that another process trains there is left alone.

    Args:
        directory: the run directory; it is made if it is not there.
        error: the refusal.
    """
    file = _open(directory)
    if try_lock(file, fcntl.LOCK_EX) is not False:
        _write(file, {"ended": "failed", "reason": _public_reason(error)})
    os.close(file)


def find_state(directory: Path) -> RunState:
    """Read what state.json and its lock say of a run directory."""
    try:
        with (directory / STATE).open() as file:
            running = try_lock(file.fileno(), fcntl.LOCK_SH) is False
            text = file.read()
    except OSError:
        return RunState(running=False, began=False, ended=None, reason="")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # cut while it was written
        content = {}
    content = content if isinstance(content, dict) else {}
    ended = content.get("ended")
    ended = None if running or ended not in ("stopped", "failed") else ended
    return RunState(running, began=True, ended=ended, reason=str(content.get("reason") or ""))


def try_lock(file: int, kind: int) -> bool | None:
    """Lock an open file or folder, without waiting for it.

    Args:
        file: its number.
        kind: fcntl.LOCK_EX, or fcntl.LOCK_SH, which several processes may hold at a time.

    Returns:
        False if another process holds the lock, None on a file system without locks.
    """
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _open(directory: Path) -> int:
    """Open state.json for writing, and make it if needed."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return os.open(directory / STATE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(f"hydra.run.dir is {directory}; it cannot be written: {error.strerror}") from None


def _write(file: int, content: dict[str, str]) -> None:
    """Replace the content of state.json in place: a renamed file would leave the lock behind."""
    with contextlib.suppress(OSError):  # a full disk must not hide why the run ended
        os.ftruncate(file, 0)
        os.pwrite(file, (json.dumps(content) + "\n").encode(), 0)


def _public_reason(error: BaseException) -> str:
    """Return the first line of an error's message without secrets."""
    return redact(first_line(error))
