"""How a run stands: state.json, locked by the process that answers for the run, for as long as it lasts.

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

from refold.errors import ConfigError, Interrupted, RefoldError

STATE = "state.json"

Ended = Literal["stopped", "failed"]


class State(NamedTuple):
    """What is known of a run without its result. ended: how, if it said so; note: why it ended."""

    running: bool
    began: bool
    ended: Ended | None
    note: str


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Within, the run in this directory is running, and no other process may go on with it; then it says how it ended.

    Raises: ConfigError: another process trains it, or the directory cannot be written.
    """
    file = _open(directory)
    try:
        for _ in range(10):
            if _lock(file, fcntl.LOCK_EX):
                break
            time.sleep(0.1)  # it may only be `find_state` that looks at it
        else:
            raise ConfigError(f"{directory} is in use: another process trains this run")
        _write(file, {})
        try:
            yield
        except (Interrupted, KeyboardInterrupt) as stop:
            _write(file, {"ended": "stopped", "note": _first_line(stop)})
            raise
        except Exception as error:
            _write(file, {"ended": "failed", "note": _first_line(error)})
            raise
    finally:
        os.close(file)


def refuse(directory: Path, error: RefoldError) -> None:
    """Say of a job that was refused before it began why it was; not of a run that another process trains there."""
    file = _open(directory)
    if _lock(file, fcntl.LOCK_EX):
        _write(file, {"ended": "failed", "note": _first_line(error)})
    os.close(file)


def find_state(directory: Path) -> State:
    """What state.json and its lock say of a run directory."""
    try:
        with (directory / STATE).open() as file:
            running = not _lock(file.fileno(), fcntl.LOCK_SH)
            text = file.read()
    except OSError:
        return State(running=False, began=False, ended=None, note="")
    try:
        content = json.loads(text)
    except ValueError:  # cut while it was written
        content = {}
    return State(running, began=True, ended=None if running else content.get("ended"), note=content.get("note", ""))


def _open(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return os.open(directory / STATE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(f"hydra.run.dir is {directory}; it cannot be written: {error.strerror}") from None


def _write(file: int, content: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # a full disk must not hide why the run ended
        os.ftruncate(file, 0)  # in place: a renamed file would leave the lock behind
        os.pwrite(file, (json.dumps(content) + "\n").encode(), 0)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _lock(file: int, kind: int) -> bool:
    """True if the file could be locked; also on a file system without locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
