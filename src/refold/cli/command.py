"""The parts that all command lines share: a user's mistake ends in its message alone, never in a traceback."""

import io
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import refold
from refold import program
from refold.errors import ConfigError, Interrupted, RefoldError
from refold.secrets import redact, redact_logs

CONF = Path(refold.__file__).parent / "conf"
"""The configuration: a link to conf/ in a checkout, the folder itself in a wheel."""


class UnforeseenError(RefoldError):
    """An error that no part of Refold expected; a log holds its traceback."""

    status = os.EX_SOFTWARE


def run_command(main: Callable[[], Any], conf: Path = CONF, *, says_interrupted: bool = True) -> int:
    """Run a program, and print a mistake or an interruption as one message.

    Args:
        main: the program.
        conf: folder of the configuration, from which messages take the nearest valid names.
        says_interrupted: print why a run stopped; a worker leaves that to the process that started it.

    Returns:
        Exit status: 0, 2 for a user's mistake, 130 after ctrl-C or SIGTERM, 70 for an error that nobody foresaw.
    """
    from refold.launch.workers import sigterm_as_ctrl_c

    for category in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module="lightning")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, and not as Hydra prints them
    redact_logs()
    try:
        with sigterm_as_ctrl_c():
            main()
    except RefoldError as error:
        return print_mistake(error)
    except Interrupted as stop:
        if says_interrupted:
            print(f"\n{stop}", file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from refold.config.explain import explain

        if message := explain(error, conf):
            print(redact(program.as_started(message)), file=sys.stderr)
            return 2
        return print_mistake(unforeseen(error))
    return 0


def unforeseen(error: Exception, log: Path | None = None) -> UnforeseenError:
    """Write the traceback of an unexpected error into a log, and return an error that names the log.

    Args:
        error: the error that was raised.
        log: file to append to; a new file in the folder of temporary files if None, or if it cannot be written.
    """
    text = redact("".join(traceback.format_exception(error)))
    reason = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    try:
        if log is None:
            raise FileNotFoundError
        with log.open("a") as file:
            file.write(text)
    except OSError:
        try:
            with tempfile.NamedTemporaryFile("w", prefix="refold-", suffix=".log", delete=False) as file:
                file.write(text)
            log = Path(file.name)
        except OSError:  # no disk has room
            return UnforeseenError(f"{reason}: Refold did not expect this, and no log could be written\n{text}")
    return UnforeseenError(f"{reason}: Refold did not expect this; the traceback is in {log}")


def print_mistake(error: RefoldError) -> int:
    """Print the message of an error alone, without a traceback, and return its exit status."""
    print(redact(program.as_started(str(error))), file=sys.stderr)
    return exit_status(error)


def exit_status(error: RefoldError) -> int:
    """Return the exit status for an error: its own `status`, or 2."""
    return getattr(error, "status", 2)


_gone: set[int] = set()
"""Numbers of the standard streams whose reader has closed the pipe."""


def reader_is_gone() -> bool:
    """Return whether the reader of standard output has ended: what is written since then is thrown away."""
    return 1 in _gone


class _OutlivesReader(io.FileIO):
    """A file descriptor that throws away what is written after its reader has closed the pipe."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            _gone.add(self.fileno())
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


def outlive_readers() -> None:
    """Let this process end quietly when `head` or another reader of its output ends before it.

    The command does all its work; what it would print is thrown away.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper) or stream.isatty():
            continue  # a test's or a notebook's own stream, or a terminal
        stream.flush()
        raw = _OutlivesReader(stream.fileno(), "wb", closefd=False)
        settings = {"encoding": stream.encoding, "errors": stream.errors, "line_buffering": stream.line_buffering}
        setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), **settings))


def read_arguments(arguments: list[str], usage: str | None) -> dict[str, str]:
    """Read command-line arguments of the form key=value.

    Args:
        arguments: the words of the command line, without the name of the program.
        usage: the module's docstring, printed for -h and --help, after which the program exits.

    Returns:
        Values by key, in the order of the arguments.

    Raises:
        ConfigError: an argument has no `=`, or a key is given twice.
    """
    if {"-h", "--help"} & set(arguments):
        print(program.as_started((usage or "").strip()))
        sys.exit(0)
    from refold.config.arguments import split_settings

    return split_settings(arguments)


def trusted(settings: dict[str, str]) -> list[str]:
    """Return the packages that `trust=mine,ours` names: a run directory may build their parts beside Refold's own."""
    return [name for name in settings.get("trust", "").split(",") if name]


def device(name: str) -> str:
    """Return the torch device that a setting names.

    Args:
        name: auto, cpu or cuda; auto is cuda where there is a GPU.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device is {name!r}; it must be one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda'; this machine has no GPU: device=cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


@contextmanager
def progress_bar(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, and nothing elsewhere.

    Args:
        total: number of steps; None if it is not known.
        what: name of the steps, shown before the bar.

    Yields:
        A callback that advances the bar by the number of steps given to it.
    """
    from rich.progress import MofNCompleteColumn, Progress

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
