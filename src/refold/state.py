"""Whether a run is being trained right now, and how it ended: state.json in its directory, locked while it trains.

The lock goes with its process, however that ends, so a killed run never passes for a running one.
"""

import fcntl
import json
from pathlib import Path
from typing import IO, Literal, NamedTuple

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
        self.file: IO[str] | None = (directory / STATE).open("a+")
        if not _lock(self.file, fcntl.LOCK_EX):
            self.file.close()
            self.file = None
        self._write({})

    def end(self, ended: Ended | None, note: str = "") -> None:
        """Say how it ended, None where the result will, and let go. Later calls do nothing."""
        self._write({} if ended is None else {"ended": ended, "note": note})
        if self.file is not None:
            self.file.close()
            self.file = None

    def _write(self, content: dict[str, str]) -> None:
        if self.file is not None:
            self.file.truncate(0)  # in place: a renamed file would leave the lock behind
            self.file.write(json.dumps(content) + "\n")
            self.file.flush()


def find_state(directory: Path) -> State:
    """What state.json and its lock say of a run directory."""
    try:
        with (directory / STATE).open() as file:
            running = not _lock(file, fcntl.LOCK_SH)
            text = file.read()
    except OSError:
        return State(running=False, began=False, ended=None, note="")
    try:
        content = json.loads(text)
    except ValueError:  # cut while it was written
        content = {}
    return State(running, began=True, ended=None if running else content.get("ended"), note=content.get("note", ""))


def _lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
