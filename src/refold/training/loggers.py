"""Where the numbers of a run go: always into its metrics.csv, and into W&B or TensorBoard by choice."""

import contextlib
import csv
import io
import logging
import os
import shlex
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import matplotlib.image
import wandb
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from refold.bounds import checked
from refold.errors import ConfigError, RefoldError
from refold.runs.directory import LAST_CHECKPOINT, METRICS, write_atomically

log = logging.getLogger(__name__)


ONLINE_TIMEOUT_S = 30
"""Seconds to wait for the W&B server before logging offline."""

FINISH_TIMEOUT_S = 120
"""Seconds that a finished run waits for its last rows and its model to arrive; what has not is in its folder wandb/."""


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
            try:
                with self.path.open("a", newline="") as file:
                    csv.DictWriter(file, self.columns).writerow(row)
            except OSError as error:
                raise RefoldError(f"{self.path} cannot be written: {error.strerror}") from error

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
    """Event files in the run directory; `tensorboard --logdir outputs` compares runs, the HPARAMS tab settings."""
    logger = TensorBoardLogger(run_dir, name="tensorboard", version="", default_hp_metric=False)
    logger.log_hyperparams(settings)
    return logger


@checked("logger")
def wandb_logger(
    *,
    project: str,
    entity: str | None,
    mode: Literal["auto", "online", "offline"],
    tags: list[str],
    notes: str | None,
    log_model: bool,
    run_dir: Path,
    run_id: str,
    settings: dict[str, Any],
    group: str | None,
) -> "WandbRun | None":
    """A Weights & Biases run under the run's own id; offline where there is no key, and never a prompt.

    Args:
        project, entity, tags, notes: as W&B calls them.
        mode: `auto` is online with a key and offline without one, and what WANDB_MODE says where that is set.
        log_model: best.ckpt goes along at the end, as an artifact.
        run_dir: offline files go to its folder `wandb`.
        run_id: id and name of the W&B run; a resumed run finds its own.
        settings: what the run page shows: the nested, resolved config, the chosen options and the overrides.
        group: name of the sweep that the run is part of.
    Returns: the logger, or None under WANDB_MODE=disabled.
    Raises: ConfigError: W&B refuses the settings.
    """
    chosen = settings["run"].get("choices", {})  # empty sections are left out
    tags = [*tags, *(chosen[group] for group in ("decoder", "data") if group in chosen)]
    page = {"project": project, "entity": entity, "tags": tags, "notes": notes, "group": group, "config": settings}
    page |= {"name": run_id, "id": run_id, "dir": run_dir, "resume": "allow", "job_type": "train"}
    mode = os.environ.get("WANDB_MODE") or "online" if mode == "auto" else mode
    if mode == "disabled":
        return None
    if mode not in ("online", "offline"):
        raise ConfigError(f"WANDB_MODE is {mode!r}; it must be online, offline or disabled")
    logged = last_logged(run_dir / METRICS) if (run_dir / LAST_CHECKPOINT).exists() else (-1, set())
    try:
        return WandbRun(_start_run(mode, page), run_dir, logged=logged, log_model=log_model)
    except wandb.Error as error:  # offline too: W&B refuses the settings themselves
        raise ConfigError(f"logger: {str(error).splitlines()[0]}") from None
    except OSError as error:  # of the folder wandb/ alone: the run directory itself was written to before
        _give_up(error)
        return None


class WandbRun(WandbLogger):
    """Lightning's logger of a W&B run that was started, with three rules of its own.

    W&B's own step is the optimizer step, so numbers and pictures of one step are one row, and the parts of a resumed
    run upload as one. What was logged before a resume is not logged again. When W&B fails, that is said once, and the
    training goes on: metrics.csv has all numbers.

    Args: run: on the first process, else None. run_dir: the run directory. logged: the last step that an earlier part
    of the run logged, and the names logged then. log_model: whether `log_best` uploads.
    """

    def __init__(self, run: "wandb.Run | None", run_dir: Path, *, logged: tuple[int, set[str]], log_model: bool):
        super().__init__(save_dir=run_dir, experiment=run)
        self.last_step, self.last_names = logged
        self.reached = -1
        self.log_model = log_model
        self.failed = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        if step < self.last_step:
            return
        if step == self.last_step:
            metrics = {name: value for name, value in metrics.items() if name not in self.last_names}
        if metrics.keys() - {"epoch"}:
            self.reached = max(self.reached, step)  # W&B's own step must not go back, and would drop the row
            self._try(lambda: self.experiment.log({**metrics, "trainer/global_step": step}, step=self.reached))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self._try(lambda: self.experiment.config.update(params, allow_val_change=True))

    @rank_zero_only
    def log_summary(self, metrics: dict[str, float]) -> None:
        """Put numbers that a run has once into its summary: a curve of one point would only be in the way."""
        self._try(lambda: self.experiment.summary.update(metrics))

    @rank_zero_only
    def log_pictures(self, files: Mapping[str, Path], step: int) -> None:
        """Show PNG files. Args: files: name -> file."""
        self._try(lambda: self.log_metrics({name: wandb.Image(str(path)) for name, path in files.items()}, step))

    @rank_zero_only
    def log_best(self, checkpoint: Path, metadata: dict[str, Any]) -> None:
        """Keep a checkpoint as the artifact `model-ID`, of type model, with the aliases `best` and the run's id."""
        run_id = self.experiment.id
        artifact = wandb.Artifact(f"model-{run_id}", type="model", metadata=metadata)
        self._try(lambda: artifact.add_file(str(checkpoint), name=checkpoint.name))
        self._try(lambda: self.experiment.log_artifact(artifact, aliases=["best", run_id]))

    def _try(self, send: Callable[[], object]) -> None:
        if self.failed:
            return
        try:
            send()
        except Exception as error:  # whatever it is (its service died, its disk is full), it is no reason to stop a run
            self.failed = True
            _give_up(error)


def _give_up(error: Exception) -> None:
    logging.getLogger("wandb").setLevel(logging.CRITICAL)  # its debug.log lies in the same folder
    reason = _reason(error)
    log.warning("W&B: not logged there from here on (%s); the run goes on, and metrics.csv has all numbers", reason)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@rank_zero_only
def _start_run(mode: str, page: dict[str, Any]) -> wandb.Run:
    """The W&B run, started now, on the first process, so that its mistakes show before the training."""
    quiet = wandb.Settings(silent=True, init_timeout=ONLINE_TIMEOUT_S, finish_timeout=FINISH_TIMEOUT_S)
    wandb.setup(wandb.Settings(silent=True))  # what matters of its own lines is logged here
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
    run = wandb.run
    if run is None:
        return
    began = time.monotonic()
    try:
        wandb.finish(exit_code=status)
    except Exception as error:  # what is left of its run must not end ours, nor take in the rows of the next
        log.warning("W&B: its run was not closed (%s)", _reason(error))
        with contextlib.suppress(Exception):
            wandb.teardown()
    if not run.offline and time.monotonic() - began >= FINISH_TIMEOUT_S:
        where = shlex.quote(str(Path(run.settings.sync_dir)))
        log.warning("W&B: the server was gone; upload what it did not get with `wandb sync %s`", where)


# ---- what every logger gets beside Lightning's numbers --------------------------------------------------------------


def log_pictures(loggers: Iterable[Logger], files: Mapping[str, Path], step: int) -> None:
    """Show PNG files where pictures can be shown. Args: files: name -> file. step: the optimizer step they are of."""
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.log_pictures(files, step)
        elif isinstance(logger, TensorBoardLogger):
            for name, path in files.items():
                logger.experiment.add_image(name, matplotlib.image.imread(path), step, dataformats="HWC")


def log_end(
    loggers: Iterable[Logger], metrics: dict[str, float], pictures: Mapping[str, Path], *, best: Path, step: int
) -> None:
    """The last row of a run, its figures, and best.ckpt where that was asked for."""
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.log_summary(metrics)
            if logger.log_model:
                logger.log_best(best, metrics)
            continue
        logger.log_metrics(metrics, step)
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(logger.hparams, metrics)  # its HPARAMS tab needs both at once
        logger.save()
    log_pictures(loggers, pictures, step)


def last_logged(metrics_csv: Path) -> tuple[int, set[str]]:
    """The last step in a metrics.csv, and the names that have a value there; (-1, nothing) without one."""
    if not metrics_csv.is_file():
        return -1, set()
    with metrics_csv.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["step"]]
    last = max((int(row["step"]) for row in rows), default=-1)
    return last, {name for row in rows if int(row["step"]) == last for name, value in row.items() if value}
