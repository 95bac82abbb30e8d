"""The run directory: what is written where, which one is the newest, and where a run goes on.

resolved.yaml  train.log  findings.csv  metrics.csv  result.json  checkpoints/{best,last}.ckpt  figures/
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from refold.errors import ConfigError

RESOLVED = "resolved.yaml"
RESULT = "result.json"
METRICS = "metrics.csv"
FINDINGS = "findings.csv"
BEST_CHECKPOINT = "checkpoints/best.ckpt"
LAST_CHECKPOINT = "checkpoints/last.ckpt"


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or none: to a neighbour first, then by renaming it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def identify(directory: Path) -> str:
    """A readable id for loggers, from the run directory's name: `autoregressive-two-s0-7f3a`.

    Other directories than our own may be used again and again, so their name gets a suffix of its own.
    """
    own = re.fullmatch(r"(?:\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d|\d+)_(.+-s\d+-[0-9a-f]{4})", directory.name)
    if own:
        return own.group(1)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", directory.name).strip("-") or "run"
    return f"{name[:96]}-{os.urandom(2).hex()}"


def open_run(cfg: DictConfig, directory: Path) -> None:
    """Write resolved.yaml into the run directory.

    Raises: ConfigError: another run is there already, or the directory cannot be written.
    """
    if not cfg.resume and (directory / LAST_CHECKPOINT).exists():
        raise ConfigError(f"hydra.run.dir is {directory}; a run is there already: resume={directory} goes on with it")
    try:
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        (directory / RESULT).unlink(missing_ok=True)  # whoever finds one may trust that the run is complete
        write_atomically(directory / RESOLVED, OmegaConf.to_yaml(cfg, resolve=True))
    except OSError as error:
        raise ConfigError(f"hydra.run.dir is {directory}; it cannot be written: {error.strerror}") from None


def discard_unopened(directory: Path) -> None:
    """Remove the directory of a job that was refused: Hydra made it before the configuration was checked."""
    if directory.is_dir() and {path.name for path in directory.iterdir()} <= {".hydra", "train.log"}:
        shutil.rmtree(directory)


def point_latest(directory: Path) -> None:
    """`outputs/latest` -> this run. It lies in the folder `outputs` that holds the run; without one there is none."""
    outputs = next((parent for parent in directory.parents if parent.name == "outputs"), None)
    if outputs is None:
        return
    fresh = outputs / f".latest-{os.getpid()}"
    try:
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(directory.relative_to(outputs), target_is_directory=True)
        os.replace(fresh, outputs / "latest")
    except OSError:  # a file system without links, or a folder called latest: no reason to stop a run
        fresh.unlink(missing_ok=True)


def write_result(directory: Path, result: dict[str, Any]) -> None:
    """result.json: the last thing that a run writes, so its presence says that the run is complete."""
    write_atomically(directory / RESULT, json.dumps(result, indent=2) + "\n")


def resume_command(directory: Path) -> str:
    """The command that goes on with a run."""
    latest = Path("outputs/latest")
    return f"python train.py resume={'latest' if latest.resolve() == directory.resolve() else directory}"


def resume_arguments(arguments: list[str]) -> list[str]:
    """With resume=..., let Hydra use the directory of that run instead of a new one.

    Raises: ConfigError: there is no such run.
    """
    where = next((text.partition("=")[2] for text in arguments if text.startswith("resume=")), "null")
    if where in ("null", ""):
        return arguments
    directory = str(Resume(where).directory).replace("\\", "\\\\").replace("'", "\\'")
    return [*arguments, f"hydra.run.dir='{directory}'", "hydra.output_subdir=null"]


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

        Raises: ConfigError: an override names a whole group, or a key that the run does not have.
        """
        cfg = OmegaConf.load(self.directory / RESOLVED)
        for override in overrides:
            key, _, _ = override.partition("=")
            if key == "resume":
                continue
            current = OmegaConf.select(cfg, key, default=KeyError)
            if current is KeyError or OmegaConf.is_config(current):
                raise ConfigError(f"{override}: a resumed run keeps its parts; single values can be changed")
            cfg = OmegaConf.merge(cfg, OmegaConf.from_dotlist([override]))
        return cfg
