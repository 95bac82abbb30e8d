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
from refold.config.build import build_data
from refold.config.validate import is_fed_bars
from refold.errors import RefoldError
from refold.runs.directory import ASKED, LAST_CHECKPOINT, LOG, RESOLVED, RESULT, discard_unused
from refold.runs.resume import Resume
from refold.runs.settings import hide_secrets, references_of, to_plain, write_settings
from refold.runs.state import STATE, find_state
from refold.runs.trust import parts_of

log = logging.getLogger(__name__)

_NOT_OF_THE_RESULT = ("run", "resume", "trust", "sweep", "logger")
"""Sections that say how a job is run and shown, and not what comes out of it."""


class Sweep(Callback):
    """Hydra's callback that keeps, in the process that was started, the directory to which its sweep writes."""

    directory: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Keep the directory of the sweep for `print_sweep_outcome`."""
        Sweep.directory = Path(config.hydra.sweep.dir)
        hide_secrets(config)  # Hydra writes multirun.yaml


def job_directories(sweep: Path) -> list[Path]:
    """List the run directories of a sweep's jobs.

    Args:
        sweep: directory of the sweep.

    Returns:
        Directories in the order of the numbers that `hydra.sweep.subdir` gives them, those without a number last.
    """
    jobs = [path for path in sweep.iterdir() if (path / RESOLVED).exists() or (path / STATE).exists()]

    def number(path: Path) -> tuple[float, str]:
        head = path.name.partition("_")[0]
        return (int(head) if head.isdecimal() else math.inf, path.name)

    return sorted(jobs, key=number)


def reuse_earlier_job(cfg: DictConfig, run_dir: Path) -> tuple[DictConfig, dict[str, Any] | None]:
    """Look for a job with the same settings that an earlier sweep finished or left, and link the run directory to it.

    Args:
        cfg: checked configuration of the job, for the hardware of this machine.
        run_dir: the job's fresh directory.

    Returns:
        The configuration to run, which may go on from a checkpoint, and the result if the job is finished already.
    """
    cfg.run.settings = settings_digest(cfg)
    if not cfg.sweep.skip_finished or cfg.run.settings is None:
        return cfg, None
    earlier = find_earlier(cfg.run.settings, run_dir)
    if earlier is None:
        return cfg, None
    _link_to(earlier, run_dir, cfg)
    result = read_result(earlier)
    if result:
        log.info("finished already: %s; sweep.skip_finished=false trains it again", earlier)
        return cfg, result
    resume = Resume(str(earlier))
    log.info("going on with %s", earlier)
    cfg = resume.config(references_of(cfg), parts_of(to_plain(cfg)))
    cfg.resume = str(resume.checkpoint)
    return cfg, None


def settings_digest(cfg: DictConfig) -> str | None:
    """Return a short hash of everything that a job's result depends on; None where the data may change unseen.

    Args:
        cfg: checked configuration of the job.
    """
    data = build_data(cfg).source.identity()
    if data is None:
        return None
    settings = {name: section for name, section in to_plain(cfg).items() if name not in _NOT_OF_THE_RESULT}
    if not is_fed_bars(settings):
        del settings["teacher_forcing"]
    text = json.dumps([refold.__version__, settings, data], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_earlier(digest: str, run_dir: Path) -> Path | None:
    """Find a run with the same settings in this sweep or in one beside it.

    Args:
        digest: see `settings_digest`.
        run_dir: directory of this job, in its sweep's directory.

    Returns:
        A finished run; else one that was interrupted and has a checkpoint; None if there is neither.
    """
    interrupted = None
    for directory in sorted({*run_dir.parent.glob("*"), *run_dir.parent.parent.glob("sweep_*/*")}, key=str):
        if directory.is_symlink() or _read_digest(directory) != digest:
            continue
        state = find_state(directory)
        if state.running:
            continue
        if read_result(directory):
            return directory
        if state.ended != "failed" and (directory / LAST_CHECKPOINT).exists():
            interrupted = directory
    return interrupted


def _read_digest(directory: Path) -> str | None:
    """Read the digest of settings in a run's resolved.yaml, without the cost of parsing it."""
    try:
        lines = (directory / RESOLVED).read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[-1] for line in lines if line.startswith("  settings: ")), None)


def read_result(directory: Path) -> dict[str, Any] | None:
    """Read a run's result.json; return None if the file is missing or is not the result of a run."""
    try:
        result = json.loads((directory / RESULT).read_text())
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and "metrics" in result else None


def print_sweep_outcome() -> None:
    """Print the table of a sweep's jobs and the names of those that failed, in the process that started the sweep."""
    if Sweep.directory is None or not Sweep.directory.is_dir():
        return
    from refold.report.comparison_table import print_comparison
    from refold.runs.comparison import compare
    from refold.runs.records import find_jobs

    jobs = job_directories(Sweep.directory)
    runs = [path for path in jobs if (path / RESOLVED).exists()]
    if runs:
        try:
            print_comparison(compare(find_jobs(runs)), title=f"{Sweep.directory.name}: what differed, best first")
        except RefoldError as error:  # jobs that were chosen by different values, say: no failure of theirs
            print(f"no table of this sweep: {error}", file=sys.stderr)
    for directory in jobs:
        state = find_state(directory)
        if state.ended == "failed":
            print(f"failed: {directory}: {state.reason}", file=sys.stderr)


def _link_to(earlier: Path, run_dir: Path, cfg: DictConfig) -> None:
    """Make the job's directory a link to the one that an earlier job left, and write the job's log there.

    The settings of the job, which may differ in what has no effect, are kept beside the link.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        if run_dir in Path(handler.baseFilename).parents:
            root.removeHandler(handler)
            handler.close()
            there = logging.FileHandler(earlier / LOG)
            there.setFormatter(handler.formatter)
            root.addHandler(there)
    if earlier != run_dir:
        discard_unused(run_dir)
        if not run_dir.exists():
            write_settings(cfg, run_dir.with_name(run_dir.name + ASKED))
            run_dir.symlink_to(os.path.relpath(earlier, run_dir.parent), target_is_directory=True)
