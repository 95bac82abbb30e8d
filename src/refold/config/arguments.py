"""Command-line arguments of `refold train`, as Hydra is to read them."""

import re
from collections.abc import Sequence

from refold import secrets
from refold.errors import ConfigError
from refold.runs.resume import Resume
from refold.runs.settings import keep_in_environment


def hide_arguments(arguments: list[str]) -> list[str]:
    """Replace each password on the command line by a reference to an environment variable of this process.

    Hydra, W&B and Refold itself write the command line down; none of them sees the password then.

    Args:
        arguments: the words of the command line, without the program's name.

    Returns:
        The arguments, with `data.uri=${oc.env:REFOLD_DATA_URI}` in the place of one that holds a password.

    Raises:
        ConfigError: a password stands in a list, among values of a sweep, or in anything but KEY=TEXT.
    """
    return [_hide(argument) if _is_secret(argument) else argument for argument in arguments]


def quoted_mark(argument: str) -> str:
    """Quote the mark in `data.source.decimal=,` and the like, which Hydra and YAML would not take for a text.

    Args:
        argument: one word of a command line.

    Returns:
        The argument, with a quoted value if it sets a separator or a mark of numbers to one character.
    """
    mark = re.fullmatch(r"(\+*data\.source\.(?:separator|decimal|thousands))=([^\w'\"\\])", argument)
    return f"{mark[1]}={quoted(mark[2])}" if mark else argument


def _is_secret(argument: str) -> bool:
    """Return whether an argument holds a secret, by its value or by its key."""
    key, _, value = argument.partition("=")
    return secrets.holds_secret(argument) or secrets.is_secret_entry(key.rpartition(".")[2], value)


def _hide(argument: str) -> str:
    """Put the value of KEY=TEXT into the environment."""
    secrets.remember(argument)
    key, equals, value = argument.partition("=")
    text = _unquoted(value)
    several = text == value and (value[:1] in "[{" or re.search(r",\s*[A-Za-z][\w+.-]*://", value))
    if not equals or several or secrets.holds_secret(key):
        raise ConfigError(
            f"{secrets.redact(argument)}: it holds a password, and is not KEY=TEXT; keep the password in an "
            f"environment variable, and refer to that: {key.lstrip('+') or 'KEY'}='${{oc.env:DATABASE_URL}}'"
        )
    return f"{key}={keep_in_environment(key.lstrip('+'), text)}"


def resume_arguments(arguments: list[str]) -> list[str]:
    """With resume=..., let Hydra use the directory of that run instead of a new one.

    Args:
        arguments: the words of the command line, without the program's name.

    Returns:
        The arguments for Hydra; the same ones if no run is resumed.

    Raises:
        ConfigError: there is no such run, none is named, or it stands in a sweep.
    """
    where = next((_unquoted(text.partition("=")[2]) for text in arguments if text.startswith("resume=")), "null")
    if where == "null":
        return arguments
    if not where:  # as of a shell variable without a value: a fresh run would be a surprise
        raise ConfigError("resume is empty; it must be latest, a run directory or a checkpoint")
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError(f"resume is {where}; it goes on with one run and cannot be swept: leave out -m")
    others = [text for text in arguments if not text.startswith("resume=")]
    # keys of the run's data, which the default composition need not have; `Resume.config` knows those of the run
    others = [f"++{text}" if re.match(r"data\.[\w.]+=", text) else text for text in others]
    directory = str(Resume(where).directory)
    return [*others, f"resume={quoted(where)}", f"hydra.run.dir={quoted(directory)}", "hydra.output_subdir=null"]


def quoted(text: str) -> str:
    """Quote a text for Hydra's override grammar."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _unquoted(text: str) -> str:
    """Take away the quotes that Hydra's override grammar may ask for."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def split_settings(arguments: Sequence[str]) -> dict[str, str]:
    """Split arguments of the form key=value.

    Args:
        arguments: the words of a command line, or overrides from Python.

    Returns:
        Values by key, in the order of the arguments.

    Raises:
        ConfigError: an argument has no `=`, or a key is given twice.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise ConfigError(f"{argument}: it cannot be read as key=value")
        if key in found:
            raise ConfigError(f"{key} is given twice, as {found[key]} and as {value}")
        found[key] = value
    return found
