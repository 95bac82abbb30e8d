"""The run directory: the names of its files, and how they are written, read and removed.

resolved.yaml  train.log  findings.csv  metrics.csv  result.json  checkpoints/{best,last,previous}.ckpt  figures/
checkpoints/detector.pt

A job of a sweep that an earlier run has done already is a link to that run, and NAME.asked.yaml beside the link has the
settings of the job.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from refold.errors import ConfigError, RefoldError
from refold.runs.state import STATE, find_state, try_lock

RESOLVED = "resolved.yaml"
ASKED = ".asked.yaml"
RESULT = "result.json"
METRICS = "metrics.csv"
FINDINGS = "findings.csv"
LOG = "train.log"
BEST_CHECKPOINT = "checkpoints/best.ckpt"
LAST_CHECKPOINT = "checkpoints/last.ckpt"
PREVIOUS_CHECKPOINT = "checkpoints/previous.ckpt"
DETECTOR = "checkpoints/detector.pt"


def write_atomically(path: Path, text: str) -> None:
    """Write a file completely or not at all: to a neighbour first, which is then renamed.

    Args:
        path: the file; its folder exists.
        text: its content; line ends are written as given, on every system.

    Raises:
        RefoldError: the file cannot be written; what was there still is.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", newline="") as file:
            file.write(text)
            usual = os.umask(0)
            os.umask(usual)
            os.fchmod(file.fileno(), 0o666 & ~usual)  # private only while it is not complete
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RefoldError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def full_disk_as_refold_error(directory: Path) -> Iterator[None]:
    """Turn the error of a full disk, raised in the block, into a RefoldError that names the file.

    Polars raises errors of its own for a disk without room; they are known by their text.

    Args:
        directory: the path that the message names if the error names no file.

    Raises:
        RefoldError: there was no room on the disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RefoldError(f"{error.filename or directory} cannot be written: {error.strerror}") from error
    except Exception as error:
        full = os.strerror(errno.ENOSPC)
        if full not in str(error) or isinstance(error, RefoldError):
            raise
        raise RefoldError(f"{directory} cannot be written: {full}") from error


@contextmanager
def atomic_folder(folder: Path, key: str, files: Sequence[str]) -> Iterator[Path]:
    """Write a folder completely or not at all; a completed one replaces an earlier one.

    Args:
        folder: the place where the folder appears when the block has ended without an error.
        key: the setting that names the folder, for messages.
        files: names that an earlier folder may hold, and loses.

    Yields:
        The folder to write to, beside the final one.

    Raises:
        ConfigError: an earlier folder holds other files, or the folder cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - set(files)):
        raise ConfigError(f"{key} is {folder}; other files are there, which are not overwritten")
    new = [parent for parent in folder.parents if not parent.exists()]  # innermost first
    building, lock = None, None
    try:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(folder)
            building, lock = _locked_folder(folder)
        except OSError as error:
            raise ConfigError(f"{key} is {folder}; it cannot be written: {error.strerror}") from None
        with full_disk_as_refold_error(folder):
            yield building
        building.chmod(0o755)  # mkdtemp's is private
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        if lock is not None:
            os.close(lock)
        if building:
            shutil.rmtree(building, ignore_errors=True)
        for parent in new:
            with suppress(OSError):  # not made, or not empty, because the folder was completed
                parent.rmdir()


def _locked_folder(folder: Path) -> tuple[Path, int]:
    """Make a private folder beside one, locked until this process ends, however it does."""
    for _ in range(100):
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        with suppress(FileNotFoundError):
            lock = os.open(building, os.O_RDONLY)
            if try_lock(lock, fcntl.LOCK_EX) is not False and building.exists():
                return building, lock
            os.close(lock)  # another process took it for abandoned before it was locked
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left of a folder that they were writing: it may hold a copy of somebody's bars."""
    for left in folder.parent.glob(f".{escape(folder.name)}.*"):
        if not re.fullmatch(r"[a-z0-9_]{8}", left.name.removeprefix(f".{folder.name}.")) or not left.is_dir():
            continue  # not of mkdtemp
        with suppress(OSError):  # its process has just finished
            lock = os.open(left, os.O_RDONLY)
            if try_lock(lock, fcntl.LOCK_EX):
                shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def identify(directory: Path) -> str:
    """Derive a readable id for loggers from a run directory's name, such as `autoregressive-two-s0-7f3a91`.

    A job of a sweep has the sweep's letters and its own number, `autoregressive-two-s0-7f3a91-12`. Other directories
    than our own may be used again and again, so their name gets a suffix of its own.

    Args:
        directory: the run directory; it need not exist.

    Returns:
        Letters, digits, dots, dashes and underscores, at most 103.
    """
    if own := re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_(.+-s\d+-[0-9a-f]{6})", directory.name):
        return own.group(1)
    job = re.fullmatch(r"(\d+)_(.+-s\d+)", directory.name)
    sweep = re.fullmatch(r"sweep_.+_([0-9a-f]{6})", directory.parent.name)
    if job and sweep:
        return f"{job.group(2)}-{sweep.group(1)}-{job.group(1)}"
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", directory.name).strip("-") or "run"
    return f"{name[:96]}-{os.urandom(3).hex()}"


def refuse_existing_run(cfg: DictConfig, directory: Path) -> None:
    """Refuse to begin a run in a directory that holds one; call it before anything of the new one is written.

    Args:
        cfg: the run's configuration; one that resumes may go on in the directory.
        directory: the run directory.

    Raises:
        ConfigError: a run is there already.
    """
    if not cfg.resume and (directory / LAST_CHECKPOINT).exists():
        raise ConfigError(f"hydra.run.dir is {directory}; a run is there already: resume={directory} goes on with it")


def describe_kept(directory: Path) -> str:
    """Say which checkpoint a stopped run keeps, as the end of a message."""
    last = directory / LAST_CHECKPOINT
    return f"{last} is kept" if last.exists() else "before the first checkpoint"


def begin_writing(directory: Path) -> None:
    """Remove the run's earlier result and let `outputs/latest` point to the run; call it at the first checkpoint."""
    (directory / RESULT).unlink(missing_ok=True)
    if outputs := _outputs_of(directory):
        _point_latest(outputs, directory.relative_to(outputs))


@contextmanager
def latest_kept(directory: Path) -> Iterator[None]:
    """Let `outputs/latest` point after the block to where it pointed before, whatever run began in the block.

    Args:
        directory: the run directory of that run.
    """
    outputs = _outputs_of(directory)
    before = Path(os.readlink(outputs / "latest")) if outputs and (outputs / "latest").is_symlink() else None
    try:
        yield
    finally:
        if outputs and before:
            _point_latest(outputs, before)


def _outputs_of(directory: Path) -> Path | None:
    """Return the folder `outputs` that a run directory lies in, or None."""
    here = Path("outputs").resolve()  # it may be a link to a larger disk, of another name
    return next((parent for parent in directory.parents if parent.name == "outputs" or parent == here), None)


def _point_latest(outputs: Path, target: Path) -> None:
    """Let `latest` in a folder point to a run directory, relative to the folder."""
    fresh = outputs / f".latest-{os.getpid()}"
    try:
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target, target_is_directory=True)
        os.replace(fresh, outputs / "latest")
    except OSError:  # a file system without links, or a folder called latest: no reason to stop a run
        fresh.unlink(missing_ok=True)


def discard_unused(directory: Path) -> None:
    """Remove the directory of a job that was refused before it wrote a checkpoint.

    Other files keep it, and so does another process that trains there and has not come to its first checkpoint.
    """
    if not directory.is_dir() or find_state(directory).running:
        return
    unused = {".hydra", LOG, RESOLVED, "checkpoints", STATE}
    left = {path.name for path in directory.iterdir()} - unused
    if not left and not any((directory / "checkpoints").glob("*")):
        shutil.rmtree(directory)


def write_result(directory: Path, result: dict[str, Any]) -> None:
    """Write result.json, the last file that a run writes: its presence says that the run is complete.

    Args:
        directory: the run directory.
        result: values that JSON can hold.
    """
    write_atomically(directory / RESULT, json.dumps(result, indent=2, allow_nan=False) + "\n")
