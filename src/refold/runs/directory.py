"""The run directory: what is written where, which one is the newest, and where a run goes on.

resolved.yaml  train.log  findings.csv  metrics.csv  result.json  checkpoints/{best,last,previous}.ckpt  figures/
checkpoints/detector.pt
"""

import errno
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from refold.errors import ConfigError, RefoldError
from refold.runs.state import STATE, find_state

RESOLVED = "resolved.yaml"
RESULT = "result.json"
METRICS = "metrics.csv"
FINDINGS = "findings.csv"
BEST_CHECKPOINT = "checkpoints/best.ckpt"
LAST_CHECKPOINT = "checkpoints/last.ckpt"
PREVIOUS_CHECKPOINT = "checkpoints/previous.ckpt"
DETECTOR = "checkpoints/detector.pt"


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or none: to a neighbour first, then by renaming it.

    Raises: RefoldError: it cannot be written; what was there still is.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, newline="")  # line ends as given, on every system
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RefoldError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def full_disk_named(directory: Path) -> Iterator[None]:
    """Within, a disk without room is a `RefoldError` that names the file, or this directory, and not an OSError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RefoldError(f"{error.filename or directory} cannot be written: {error.strerror}") from error


@contextmanager
def whole_folder(folder: Path, key: str, files: Sequence[str]) -> Iterator[Path]:
    """A folder that appears when it is complete, in the place of an earlier one, or not at all: within, write to what
    this gives.

    Args: key: the setting that names the folder, for messages. files: what an earlier one may hold and lose.
    Raises: ConfigError: it holds other files, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - set(files)):
        raise ConfigError(f"{key} is {folder}; other files are there, which are not overwritten")
    new = [parent for parent in folder.parents if not parent.exists()]  # innermost first
    building = None
    try:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        except OSError as error:
            raise ConfigError(f"{key} is {folder}; it cannot be written: {error.strerror}") from None
        yield building
        building.chmod(0o755)  # mkdtemp's is private
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        if building:
            shutil.rmtree(building, ignore_errors=True)
        for parent in new:
            with suppress(OSError):  # not made, or not empty, because the folder was completed
                parent.rmdir()


def identify(directory: Path) -> str:
    """A readable id for loggers, from the run directory's name: `autoregressive-two-s0-7f3a91`.

    A job of a sweep has the sweep's letters and its own number, `autoregressive-two-s0-7f3a91-12`. Other directories
    than our own may be used again and again, so their name gets a suffix of its own.
    """
    if own := re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_(.+-s\d+-[0-9a-f]{6})", directory.name):
        return own.group(1)
    job = re.fullmatch(r"(\d+)_(.+-s\d+)", directory.name)
    sweep = re.fullmatch(r"sweep_.+_([0-9a-f]{6})", directory.parent.name)
    if job and sweep:
        return f"{job.group(2)}-{sweep.group(1)}-{job.group(1)}"
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", directory.name).strip("-") or "run"
    return f"{name[:96]}-{os.urandom(3).hex()}"


def refuse_second(cfg: DictConfig, directory: Path) -> None:
    """Refuse to begin a run where there is one; asked before anything is written of the new one.

    Raises: ConfigError.
    """
    if not cfg.resume and (directory / LAST_CHECKPOINT).exists():
        raise ConfigError(f"hydra.run.dir is {directory}; a run is there already: resume={directory} goes on with it")


def open_run(cfg: DictConfig, directory: Path) -> None:
    """Write resolved.yaml into the run directory. Raises: ConfigError: the directory cannot be written."""
    try:
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_atomically(directory / RESOLVED, OmegaConf.to_yaml(cfg, resolve=True))
    except OSError as error:
        raise ConfigError(f"hydra.run.dir is {directory}; it cannot be written: {error.strerror}") from None


def what_is_kept(directory: Path) -> str:
    """What a stopped run leaves, for a message."""
    last = directory / LAST_CHECKPOINT
    return f"{last} is kept" if last.exists() else "before the first checkpoint"


def begin_writing(directory: Path) -> None:
    """A run writes its first checkpoint: its earlier result no longer holds, and `outputs/latest` is this run."""
    (directory / RESULT).unlink(missing_ok=True)
    here = Path("outputs").resolve()  # it may be a link to a larger disk, of another name
    outputs = next((parent for parent in directory.parents if parent.name == "outputs" or parent == here), None)
    if outputs is None:
        return
    fresh = outputs / f".latest-{os.getpid()}"
    try:
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(directory.relative_to(outputs), target_is_directory=True)
        os.replace(fresh, outputs / "latest")
    except OSError:  # a file system without links, or a folder called latest: no reason to stop a run
        fresh.unlink(missing_ok=True)


def discard_unused(directory: Path) -> None:
    """Remove the directory of a job that was refused before it wrote a checkpoint.

    Other files keep it, and so does another process that trains there and has not come to its first checkpoint.
    """
    if not directory.is_dir() or find_state(directory).running:
        return
    unused = {".hydra", "train.log", RESOLVED, "checkpoints", STATE}
    left = {path.name for path in directory.iterdir()} - unused
    if not left and not any((directory / "checkpoints").glob("*")):
        shutil.rmtree(directory)


def write_result(directory: Path, result: dict[str, Any]) -> None:
    """result.json: the last thing that a run writes, so its presence says that the run is complete."""
    write_atomically(directory / RESULT, json.dumps(result, indent=2) + "\n")


def read_settings(path: Path) -> DictConfig:
    """The configuration in a resolved.yaml. Raises: ConfigError: it cannot be read."""
    try:
        cfg = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(cfg, DictConfig) or "trainer" not in cfg:
        raise ConfigError(f"{path} is not the configuration of a run")
    return cfg


# ---- resume ---------------------------------------------------------------------------------------------------------

CHANGEABLE = ("trainer.", "logger.", "checkpoint.every_minutes", "early_stopping.patience")
"""Keys that a resumed run may change. Others are part of what its checkpoint is a state of."""


def resume_command(directory: Path) -> str:
    """The command that goes on with a run, quoted for a shell."""
    latest = Path("outputs/latest")
    where = "latest" if latest.resolve() == directory.resolve() else str(directory)
    return f"python train.py {shlex.quote(f'resume={where}')}"


def resume_arguments(arguments: list[str]) -> list[str]:
    """With resume=..., let Hydra use the directory of that run instead of a new one.

    Raises: ConfigError: there is no such run, none is named, or it stands in a sweep.
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
    return [*others, f"resume={_quoted(where)}", f"hydra.run.dir={_quoted(directory)}", "hydra.output_subdir=null"]


def _quoted(text: str) -> str:
    """A text as Hydra's override grammar quotes it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _unquoted(text: str) -> str:
    """What a text stands for that may have been quoted for Hydra."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


class Resume:
    """A run to go on with: its directory, its checkpoint, and its configuration.

    Args: where: `latest`, a run directory or a checkpoint in one.
    Raises: ConfigError: there is no such run, or it has not written a checkpoint yet.
    """

    def __init__(self, where: str):
        path = Path("outputs/latest" if where == "latest" else where)
        self.directory = (path.parent.parent if path.suffix == ".ckpt" else path).resolve()
        self.checkpoint = path.resolve() if path.suffix == ".ckpt" else self.directory / LAST_CHECKPOINT
        for needed in (self.directory / RESOLVED, self.checkpoint):
            if not needed.is_file():
                raise ConfigError(f"resume is {where}; there is no {needed}, so there is nothing to go on with")

    def config(self, overrides: list[str]) -> DictConfig:
        """The run's own configuration with the values given this time on top.

        Raises: ConfigError: an override changes what the checkpoint depends on, or a key that the run does not have.
        """
        cfg = read_settings(self.directory / RESOLVED)
        for override in overrides:
            key = override.lstrip("+~").partition("=")[0]
            if key == "resume":
                continue
            if not key.startswith(CHANGEABLE) or OmegaConf.select(cfg, key, default=KeyError) is KeyError:
                allowed = ", ".join(f"{name}*" if name.endswith(".") else name for name in CHANGEABLE)
                raise ConfigError(f"{override}: a resumed run keeps its settings; what can change is {allowed}")
            cfg = OmegaConf.merge(cfg, OmegaConf.from_dotlist([override]))
        return cfg
