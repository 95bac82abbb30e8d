"""Bars as lines of text, JSON or CSV, from a pipe or from a file that grows."""

import csv
import io
import json
import os
import select
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from refold.errors import ConfigError

LONGEST_LINE = 1 << 20
"""Bytes of a line; what is longer is no bar."""

AT_ONCE = 1 << 18
"""Bytes that are read at a time: what has come meanwhile is judged together."""


class LineReader:
    """Turn chunks of bytes into bars; a chunk may end within a line.

    The first line decides: one that begins with a brace or a bracket is JSON, any other is the header of a CSV file.
    """

    def __init__(self) -> None:
        self.lines = 0
        self._rest = b""
        self._too_long = False
        self._names: list[str] | None = None
        self._is_json: bool | None = None

    def feed(self, chunk: bytes) -> list[Any]:
        """Return the bars of the lines that a chunk completes: mappings, or a sentence for each line that is no bar."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        found = [bar for line in whole if (bar := self._read(line)) is not None]
        if len(self._rest) > LONGEST_LINE:
            self._rest, self._too_long = b"", True
        return found

    def finish(self) -> list[Any]:
        """Return the bar of the last line, which has no end."""
        rest, self._rest = self._rest, b""
        bar = self._read(rest) if rest.strip() or self._too_long else None
        return [] if bar is None else [bar]

    def _read(self, line: bytes) -> Any:
        """Read a line: a mapping, a sentence that says why it is none, or None for a blank line and a header."""
        self.lines += 1
        if self._too_long or len(line) > LONGEST_LINE:
            self._too_long = False
            return f"line {self.lines} is longer than {LONGEST_LINE:,} bytes"
        text = line.decode("utf-8", errors="replace").strip("\ufeff\r\n \t")
        if not text:
            return None
        if self._is_json is None:
            self._is_json = text[0] in "{["
        return self._from_json(text) if self._is_json else self._from_csv(text)

    def _from_json(self, text: str) -> Any:
        try:
            bar = json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"line {self.lines} is no JSON: {str(error).splitlines()[0]}"
        return bar if isinstance(bar, dict) else f'line {self.lines} is no JSON object, such as {{"close": 1.0}}'

    def _from_csv(self, text: str) -> Any:
        try:
            cells = next(csv.reader(io.StringIO(text)))
        except (csv.Error, StopIteration) as error:
            return f"line {self.lines} is no CSV: {error}"
        if self._names is None:
            self._names = cells
        if cells == self._names:  # also the header of another file in the same pipe
            return None
        if len(cells) != len(self._names):
            return f"line {self.lines} has {len(cells)} cells; the header has {len(self._names)}"
        return dict(zip(self._names, cells, strict=True))


def chunks_of_pipe(number: int, idle: float) -> Iterator[bytes]:
    """Yield bytes as they come, and b"" when none have come for some time; it ends with the pipe.

    Args:
        number: of the file descriptor, such as 0 of standard input.
        idle: seconds.
    """
    while True:
        if not select.select([number], [], [], idle)[0]:
            yield b""
        elif chunk := os.read(number, AT_ONCE):
            yield chunk
        else:
            return


def chunks_of_file(path: Path, idle: float) -> Iterator[bytes]:
    """Yield what a file holds and what is added to it, and b"" when nothing was; it never ends.

    A file that was replaced or cut is read from its beginning.

    Args:
        path: of the file.
        idle: seconds between two looks.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"follow is {path}; it cannot be read: {error.strerror}") from None
    try:
        while True:
            if chunk := file.read(AT_ONCE):
                yield chunk
                continue
            yield b""
            time.sleep(idle)
            with suppress(FileNotFoundError):  # between two files of a rotation
                now = path.stat()
                if now.st_ino != os.fstat(file.fileno()).st_ino or now.st_size < file.tell():
                    file.close()
                    file = path.open("rb")
    finally:
        file.close()
