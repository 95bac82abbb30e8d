"""Whether a run is being trained right now, and how it ended: state.json in its directory, locked while it trains.

The lock goes with its process, however that ends, so a killed run never passes for a running one.
"""

import fcntl
import json
import os
import weakref
from pathlib import Path
from typing import Literal, NamedTuple

STATE = "state.json"

Ended = Literal["failed", "stopped"]


class State(NamedTuple):
    """What is known of a run without a result. began: training has begun. ended: how it said that it ended, if it did.
    note: why."""

    running: bool
    began: bool
    ended: Ended | None
    note: str


class Training:
    """Holds the lock of a run from its construction to `end`. A second holder of the same run changes nothing."""

    def __init__(self, directory: Path):
        self.file = os.open(directory / STATE, os.O_RDWR | os.O_CREAT, 0o644)
        self._close = weakref.finalize(self, os.close, self.file)
        if _lock(self.file, fcntl.LOCK_EX):
            self._write({})
        else:
            self._close()

    def end(self, ended: Ended | None, note: str = "") -> None:
        """Say how it ended, None where the result will, and let go. Later calls do nothing."""
        if self._close.alive:
            self._write({} if ended is None else {"ended": ended, "note": note})
            self._close()

    def _write(self, content: dict[str, str]) -> None:
        os.ftruncate(self.file, 0)  # in place: a renamed file would leave the lock behind
        os.pwrite(self.file, (json.dumps(content) + "\n").encode(), 0)


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


def _lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
