"""Command-line arguments of `refold train`, as Hydra is to read them."""

import re

from refold.errors import ConfigError
from refold.runs.resume import Resume


def resume_arguments(arguments: list[str]) -> list[str]:
    """With resume=..., let Hydra use the directory of that run instead of a new one.

    Args:
        arguments: of the command line, without the program's name.

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
