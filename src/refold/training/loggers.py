"""Where the numbers of a run go: always into its metrics.csv, and into W&B or TensorBoard by choice."""

import csv
import io
import logging
import os
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal

import wandb
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from refold.bounds import checked
from refold.errors import ConfigError
from refold.run import write_atomically

log = logging.getLogger(__name__)


ONLINE_TIMEOUT_S = 30
"""Seconds to wait for the W&B server before logging offline."""


class MetricsFile(Logger):
    """One row per logged step in a CSV file, columns in order of first appearance, written as the run goes.

    A resumed run goes on in the same file: what it is about to repeat is dropped first. (Lightning's own CSV logger
    deletes the file that it finds.)

    Args: path: of the file; its folder exists.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.columns = ["epoch", "step"]
        self.rows: list[dict[str, Any]] | None = None  # not read yet

    name = version = None  # the run directory says both

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.rows is None:
            self._open(before_step=step or 0)
        row = {"step": step, **metrics}
        self.rows.append(row)
        new_columns = [name for name in row if name not in self.columns]
        if new_columns:
            self.columns += new_columns
            self._rewrite()
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)

    def _open(self, before_step: int) -> None:
        self.rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or self.columns)
                self.rows = [row for row in reader if row["step"] and int(row["step"]) < before_step]
        self._rewrite()

    def _rewrite(self) -> None:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self.columns, restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.path, table.getvalue())

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Settings stand in resolved.yaml, beside this file."""


def no_logger(*, run_dir: Path, run_id: str, settings: dict[str, Any], group: str | None) -> None:
    """metrics.csv alone, which every run writes."""


@checked("logger")
def tensorboard_logger(*, run_dir: Path, run_id: str, settings: dict[str, Any], group: str | None) -> TensorBoardLogger:
    """Event files in the run directory; `tensorboard --logdir outputs` compares runs."""
    return TensorBoardLogger(run_dir, name="tensorboard", version="")


@checked("logger")
def wandb_logger(
    *,
    project: str,
    entity: str | None,
    mode: Literal["auto", "online", "offline"],
    tags: list[str],
    notes: str | None,
    run_dir: Path,
    run_id: str,
    settings: dict[str, Any],
    group: str | None,
) -> WandbLogger | None:
    """A Weights & Biases run under the run's own id; offline where there is no key, and never a prompt.

    Args:
        project, entity, tags, notes: as W&B calls them.
        mode: `auto` is online with a key and offline without one, and what WANDB_MODE says where that is set.
        run_dir: offline files go to its folder `wandb`.
        run_id: id and name of the W&B run; a resumed run finds its own.
        settings: what the run page shows: the nested, resolved config, the chosen options and the overrides.
        group: name of the sweep that the run is part of.
    Returns: the logger, or None under WANDB_MODE=disabled.
    Raises: ConfigError: W&B refuses the settings.
    """
    chosen = settings["run"]["choices"]
    tags = [*tags, *(chosen[group] for group in ("decoder", "data") if group in chosen)]
    page = {"project": project, "entity": entity, "tags": tags, "notes": notes, "group": group, "config": settings}
    page |= {"name": run_id, "id": run_id, "dir": run_dir, "resume": "allow"}
    mode = os.environ.get("WANDB_MODE", "online") if mode == "auto" else mode
    if mode == "disabled":
        return None
    if mode not in ("online", "offline"):
        raise ConfigError(f"WANDB_MODE is {mode!r}; it must be online, offline or disabled")
    try:
        return WandbLogger(project=project, save_dir=run_dir, id=run_id, experiment=_start_run(mode, page))
    except wandb.Error as error:  # offline too: W&B refuses the settings themselves
        raise ConfigError(f"logger: {str(error).splitlines()[0]}") from None


@rank_zero_only
def _start_run(mode: str, page: dict[str, Any]) -> wandb.Run:
    """The W&B run, started now, on the first process, so that its mistakes show before the training."""
    quiet = wandb.Settings(silent=True, init_timeout=ONLINE_TIMEOUT_S)  # what matters of W&B's own lines is logged here
    run = wandb.init(**page, mode="offline", settings=quiet) if mode == "offline" else _start_online(page, quiet)
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    run.define_metric("val/reconstruction_mse", step_metric="trainer/global_step", summary="min")
    run.define_metric("val/r2", step_metric="trainer/global_step", summary="max")
    return run


def _start_online(page: dict[str, Any], quiet: wandb.Settings) -> wandb.Run:
    """An online run, or an offline one where there is no key or no way to the server; said in one line."""
    # asked beforehand, because wandb.init without a key prompts on a terminal
    reason = None if wandb.login(prompt=False, verify=False) else "no API key, see `wandb login`"
    if not reason:
        try:
            run = wandb.init(**page, mode="online", settings=quiet)
            log.info("W&B: %s", run.url)
            return run
        except (wandb.Error, OSError) as error:  # a wrong key, no network, no such entity
            reason = str(error).splitlines()[0]
            wandb.teardown()  # the failed run holds on to its id
    where = shlex.quote(str(page["dir"]))
    log.info("W&B: offline (%s); upload later with `wandb sync %s/wandb/offline-run-*`", reason, where)
    return wandb.init(**page, mode="offline", settings=quiet)


def finish_loggers(status: int) -> None:
    """End the W&B run of this process, if there is one; without it the next job of a sweep would log into this one."""
    if wandb.run is not None:
        wandb.finish(exit_code=status)
