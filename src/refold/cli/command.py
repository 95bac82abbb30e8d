"""What all command lines share: a user's mistake ends in its message alone, never in a traceback."""

import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import refold
from refold.config.check import explain
from refold.errors import ConfigError, Interrupted, RefoldError
from refold.launch.workers import sigterm_as_ctrl_c

CONF = Path(refold.__file__).parent / "conf"
"""The configuration: a link to conf/ in a checkout, the folder itself in a wheel."""


def run_command(main: Callable[[], Any], conf: Path, *, says_interrupted: bool = True) -> int:
    """Run a program. Args: conf: the folder of the configuration, for the nearest valid names. says_interrupted: print
    why a run stopped; a worker leaves that to the process that started it.

    Returns: exit status; 2 for a user's mistake, that of the signal after ctrl-C or SIGTERM.
    """
    for category in (UserWarning, FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module="lightning")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to us, and not as Hydra prints them
    try:
        with sigterm_as_ctrl_c():
            main()
    except RefoldError as error:
        return report(error)
    except Interrupted as stop:
        if says_interrupted:
            print(f"\n{stop}", file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if message := explain(error, conf):
            print(message, file=sys.stderr)
            return 2
        raise
    return 0


@contextmanager
def help_of_options(arguments: list[str]) -> Iterator[None]:
    """Within, Hydra's help leaves out folders of conf/ that it takes for groups and that hold no options: what options
    share (`base`), and sweeps for W&B."""
    if not {"-h", "--help"} & set(arguments):
        yield
        return
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            yield
    finally:
        print(re.sub(r"^(?:\S+/base|sweep): .*\n", "", text.getvalue(), flags=re.MULTILINE), end="")


def report(error: RefoldError) -> int:
    """Print a user's mistake: its message alone. Returns: exit status."""
    print(f"\n{error}", file=sys.stderr)
    return report_status(error)


def report_status(error: RefoldError) -> int:
    """Exit status for an error."""
    return getattr(error, "status", 2)


def settings(arguments: list[str], usage: str) -> dict[str, str]:
    """Command-line arguments of the form key=value, in their order. Args: usage: what -h and --help print, and exit.

    Raises: ConfigError: one has no `=`, or a key is given twice.
    """
    if {"-h", "--help"} & set(arguments):
        print(usage.strip())
        sys.exit(0)
    found: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise ConfigError(f"{argument}: it cannot be read as key=value")
        if key in found:
            raise ConfigError(f"{key} is given twice, as {found[key]} and as {value}")
        found[key] = value
    return found


def device(name: str) -> str:
    """Raises: ConfigError: there is no such device."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device is {name!r}; it must be one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda'; this machine has no GPU: device=cpu")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


@contextmanager
def progress_bar(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """On a terminal, a bar; else nothing. Gives what is to be told of how many more are done.

    Args: total: None if it is not known.
    """
    from rich.progress import MofNCompleteColumn, Progress

    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
