"""Judge bars as they come: from a pipe, or from a file that grows. A line of JSON per verdict on standard output.

    feed | refold watch run=outputs/latest                             bars as JSON lines, or CSV with a header
    refold watch run=outputs/latest follow=bars.csv                    a file that grows
    feed | refold watch run=outputs/latest state=live.pt every=1000    saves its state, and goes on from it
    feed | refold watch run=outputs/latest warm=history.parquet        bars of before, without verdicts

score=, threshold=, alignment= (last), drift.* and data.checks.* may be chosen anew, as for refold score. every=N saves
the state each N bars, and when no bar has come for a second. Ctrl-C, SIGTERM and a reader that ends save it too. A
summary goes to standard error. docs/watch.md shows pipes, Kafka and websockets.
"""

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from refold.cli import command
from refold.cli.live import open_feed
from refold.errors import ConfigError

if TYPE_CHECKING:
    from refold.live.feed import Feed
    from refold.live.lines import LineReader

OWN = ("run", "state", "every", "warm", "follow", "trust")


def main() -> None:
    """Load the run, and judge what comes until nothing comes any more or nobody reads."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    settings = command.read_arguments(sys.argv[1:], __doc__)
    if "follow" not in settings and sys.stdin.isatty():
        raise ConfigError("no bars: standard input is a terminal; pipe bars into the command, or give follow=FILE")
    follow = Path(settings["follow"]) if "follow" in settings else None
    if follow is not None and not follow.is_file():
        raise ConfigError(f"follow is {follow}; there is no such file")
    feed = open_feed(settings, OWN, command.trusted(settings))
    from refold.live.lines import LineReader, chunks_of_file, chunks_of_pipe

    wait = 0.1  # seconds
    skipped = feed.live.position if follow is not None else 0  # the state has seen them: the file begins anew
    chunks = chunks_of_file(follow, wait) if follow is not None else chunks_of_pipe(sys.stdin.fileno(), 1.0)
    with suppress(KeyboardInterrupt, BrokenPipeError):
        watch(feed, LineReader(), chunks, write_line, skipped)
    with signals_held_back():
        feed.save()
        print(feed.summary(), file=sys.stderr)


def watch(
    feed: "Feed", reader: "LineReader", chunks: Iterable[bytes], write: Callable[[str], None], skipped: int = 0
) -> None:
    """Judge all bars of some chunks, and write a line for each.

    A state is saved after the verdicts on all its bars are written: whoever replays what came after it loses none.

    Args:
        feed: judges and saves.
        reader: makes bars of bytes.
        chunks: bytes as they come; b"" says that nothing has come for a while.
        write: gets the lines of the verdicts of a chunk.
        skipped: bars at the beginning that were judged before.
    """
    for chunk in chunks:
        with signals_held_back():  # a bar is judged, told and kept, or none of it
            skipped = _judge(feed, reader.feed(chunk), write, skipped)
            feed.save(due=feed.every if chunk else 1)
    with signals_held_back():
        _judge(feed, reader.finish(), write, skipped)


def _judge(feed: "Feed", bars: list, write: Callable[[str], None], skipped: int) -> int:
    """Judge and write bars but the first `skipped`; return how many are still to be skipped."""
    bars, left = bars[skipped:], max(0, skipped - len(bars))
    if bars:
        verdicts = feed.judge(bars)
        write("".join(json.dumps(verdict.to_dict(), ensure_ascii=False) + "\n" for verdict in verdicts))
    return left


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let ctrl-C and SIGTERM raise KeyboardInterrupt after the block instead of within it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {n: signal.signal(n, lambda number, frame: came.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
    if came:
        raise KeyboardInterrupt


def write_line(text: str) -> None:
    """Write to standard output at once.

    Raises:
        BrokenPipeError: nobody reads any more.
    """
    sys.stdout.write(text)
    sys.stdout.flush()
    if command.reader_is_gone():
        raise BrokenPipeError
