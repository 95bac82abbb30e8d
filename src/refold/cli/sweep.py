"""A sweep: which of its jobs an earlier one has done already, and what came out of them all."""

import hashlib
import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

import refold
from refold.config.build import build_data, to_plain
from refold.config.check import is_fed_bars
from refold.errors import RefoldError
from refold.runs.directory import LAST_CHECKPOINT, RESOLVED, RESULT, discard_unused
from refold.runs.resume import Resume
from refold.runs.state import STATE, find_state

log = logging.getLogger(__name__)

_NOT_OF_THE_RESULT = ("run", "resume", "sweep", "logger")
"""Sections that say how a job is run and shown, and not what comes out of it."""


class Sweep(Callback):
    """Hydra's callback: notes in the process that was started where its sweep writes; see `job_directories`."""

    directory: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        Sweep.directory = Path(config.hydra.sweep.dir)


def job_directories(sweep: Path) -> list[Path]:
    """The run directories of a sweep's jobs in the order of their numbers, if hydra.sweep.subdir gives them any."""
    jobs = [path for path in sweep.iterdir() if (path / RESOLVED).exists() or (path / STATE).exists()]

    def number(path: Path) -> tuple[float, str]:
        head = path.name.partition("_")[0]
        return (int(head) if head.isdecimal() else math.inf, path.name)

    return sorted(jobs, key=number)


def take_up(cfg: DictConfig, run_dir: Path) -> tuple[DictConfig, dict[str, Any] | None]:
    """What an earlier sweep left of a job: its result, or a checkpoint to go on from; then run_dir links to it.

    Args: cfg: of the job, checked, on this machine. run_dir: its fresh directory.
    Returns: the configuration to run, and the result if there is nothing left to do.
    """
    cfg.run.settings = settings_digest(cfg)
    if not cfg.sweep.skip_finished or cfg.run.settings is None:
        return cfg, None
    earlier = find_earlier(cfg.run.settings, run_dir)
    if earlier is None:
        return cfg, None
    stand_in(run_dir, earlier)
    result = result_of(earlier)
    if result:
        log.info("finished already: %s; sweep.skip_finished=false trains it again", earlier)
        return cfg, result
    resume = Resume(str(earlier))
    log.info("going on with %s", earlier)
    cfg = resume.config([])
    cfg.resume = str(resume.checkpoint)
    return cfg, None


def settings_digest(cfg: DictConfig) -> str | None:
    """Short hash of everything that a job's result depends on; None where the data may change unseen."""
    data = build_data(cfg).source.identity()
    if data is None:
        return None
    settings = {name: section for name, section in to_plain(cfg).items() if name not in _NOT_OF_THE_RESULT}
    if not is_fed_bars(settings["decoder"]):
        del settings["teacher_forcing"]
    text = json.dumps([refold.__version__, settings, data], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_earlier(digest: str, run_dir: Path) -> Path | None:
    """The run with the same settings that this sweep, or one beside it, has finished or left; a finished one first.

    Args: digest: see `settings_digest`. run_dir: of the job at hand, in its sweep's directory.
    """
    cut = None
    for directory in sorted({*run_dir.parent.glob("*"), *run_dir.parent.parent.glob("sweep_*/*")}, key=str):
        if directory.is_symlink() or _digest_of(directory) != digest:
            continue
        state = find_state(directory)
        if state.running:
            continue
        if result_of(directory):
            return directory
        if state.ended != "failed" and (directory / LAST_CHECKPOINT).exists():
            cut = directory
    return cut


def _digest_of(directory: Path) -> str | None:
    try:
        lines = (directory / RESOLVED).read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[-1] for line in lines if line.startswith("  settings: ")), None)


def result_of(directory: Path) -> dict[str, Any] | None:
    """What result.json says; None if it is not there or is not that of a run."""
    try:
        result = json.loads((directory / RESULT).read_text())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and "metrics" in result else None


def report() -> None:
    """At the end of a sweep, in the process that was started: the table of its jobs, and which of them failed."""
    if Sweep.directory is None or not Sweep.directory.is_dir():
        return
    from refold.report.comparison_table import print_comparison
    from refold.runs.comparison import compare
    from refold.runs.records import find_runs

    jobs = job_directories(Sweep.directory)
    runs = [path for path in jobs if (path / RESOLVED).exists()]
    if runs:
        try:
            print_comparison(compare(find_runs(runs)), title=f"{Sweep.directory.name}: what differed, best first")
        except RefoldError as error:  # jobs that were chosen by different values, say: no failure of theirs
            print(f"no table of this sweep: {error}", file=sys.stderr)
    for directory in jobs:
        state = find_state(directory)
        if state.ended == "failed":
            print(f"failed: {directory}: {state.reason}", file=sys.stderr)


def stand_in(run_dir: Path, earlier: Path) -> None:
    """Let the job's directory be a link to the one that an earlier sweep left, and log there from here on."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        if run_dir in Path(handler.baseFilename).parents:
            root.removeHandler(handler)
            handler.close()
            there = logging.FileHandler(earlier / "train.log")
            there.setFormatter(handler.formatter)
            root.addHandler(there)
    if earlier != run_dir:
        discard_unused(run_dir)
        if not run_dir.exists():
            run_dir.symlink_to(os.path.relpath(earlier, run_dir.parent), target_is_directory=True)
