"""Loggers of a run: metrics.csv in any case, and W&B or TensorBoard by choice."""

import contextlib
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
from refold.errors import ConfigError, first_line
from refold.runs.directory import LAST_CHECKPOINT, METRICS
from refold.training.metrics_file import MetricsFile, last_logged

log = logging.getLogger(__name__)


ONLINE_TIMEOUT_S = 30
"""Seconds of waiting for the W&B server before a run logs offline."""

FINISH_TIMEOUT_S = 120
"""Seconds that a finished run waits for its last rows and its model to arrive; its folder wandb/ holds the others."""


def no_logger(*, run_dir: Path, run_id: str, settings: dict[str, Any], group: str | None) -> None:
    """Add no logger beside metrics.csv, which every run writes.

    Args:
        run_dir: not used, like the other arguments; every logger's function gets them.
        run_id: id of the run.
        settings: the resolved configuration.
        group: name of the sweep, or None.
    """


@checked("logger")
def tensorboard_logger(*, run_dir: Path, run_id: str, settings: dict[str, Any], group: str | None) -> TensorBoardLogger:
    """Make TensorBoard's logger, with event files in the run directory.

    `tensorboard --logdir outputs` compares runs, its HPARAMS tab their settings.

    Args:
        run_dir: the run directory.
        run_id: not used.
        settings: the resolved configuration.
        group: not used.

    Returns:
        The logger.
    """
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
    """Start a Weights & Biases run under the run's own id; offline where there is no key, and never with a prompt.

    Args:
        project: W&B's project.
        entity: W&B's user or team; None: the key's own.
        mode: "auto" is the value of WANDB_MODE, or else online with a key and offline without one.
        tags: tags of the run; its decoder and its data are added.
        notes: notes of the run, or None.
        log_model: True uploads best.ckpt at the end, as an artifact.
        run_dir: offline files go to its folder `wandb`.
        run_id: id and name of the W&B run; a resumed run finds its own.
        settings: shown on the run page: the nested, resolved config, the chosen options and the overrides.
        group: name of the sweep that the run is part of, or None.

    Returns:
        The logger; None under WANDB_MODE=disabled, and where W&B cannot write its files.

    Raises:
        ConfigError: W&B refuses the settings.
    """
    chosen = settings["run"].get("choices", {})  # empty sections are left out
    tags = [*tags, *(chosen[group] for group in ("decoder", "data") if group in chosen)]
    page = {"project": project, "entity": entity, "tags": tags, "notes": notes, "group": group, "config": settings}
    page |= {"name": run_id, "id": run_id, "dir": run_dir, "resume": "allow", "job_type": "train"}
    connection = os.environ.get("WANDB_MODE") or "online" if mode == "auto" else mode
    if connection == "disabled":
        return None
    if connection not in ("online", "offline"):
        raise ConfigError(f"WANDB_MODE is {connection!r}; it must be online, offline or disabled")
    logged = last_logged(run_dir / METRICS) if (run_dir / LAST_CHECKPOINT).exists() else (-1, set())
    try:
        return WandbRun(_start_run(connection, page), run_dir, logged=logged, log_model=log_model)
    except wandb.Error as error:  # offline too: W&B refuses the settings themselves
        raise ConfigError(f"logger: {str(error).splitlines()[0]}") from None
    except OSError as error:  # of the folder wandb/ alone: the run directory itself was written to before
        _give_up(error)
        return None


class WandbRun(WandbLogger):
    """Lightning's logger of a started W&B run, with three rules of its own.

    W&B's own step is the optimizer step, so numbers and pictures of one step are one row, and the parts of a resumed
    run upload as one. A resumed run does not log again what was logged before. When W&B fails, one warning says so and
    the training goes on: metrics.csv has all numbers.

    Args:
        run: the W&B run on the first process, None on the others.
        run_dir: the run directory.
        logged: the last step that an earlier part of the run logged, and the names logged then.
        log_model: True if `log_best` is to be called at the end.
    """

    def __init__(self, run: "wandb.Run | None", run_dir: Path, *, logged: tuple[int, set[str]], log_model: bool):
        super().__init__(save_dir=run_dir, experiment=run)
        self.last_step, self.last_names = logged
        self.reached = -1
        self.log_model = log_model
        self.failed = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step is None or step < self.last_step:
            return
        if step == self.last_step:
            metrics = {name: value for name, value in metrics.items() if name not in self.last_names}
        if metrics.keys() - {"epoch"}:
            self.reached = max(self.reached, step)  # W&B's own step must not go back, and would drop the row
            self._try(lambda: self.experiment.log({**metrics, "trainer/global_step": step}, step=self.reached))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        self._try(lambda: self.experiment.config.update(params, allow_val_change=True))

    @rank_zero_only
    def log_summary(self, metrics: dict[str, float]) -> None:
        """Write numbers that a run has once into its summary: curves of one point would be in the way.

        Args:
            metrics: name -> value.
        """
        self._try(lambda: self.experiment.summary.update(metrics))

    @rank_zero_only
    def log_pictures(self, files: Mapping[str, Path], step: int) -> None:
        """Show PNG files on the run page.

        Args:
            files: name -> file.
            step: the optimizer step that they are of.
        """
        self._try(lambda: self.log_metrics({name: wandb.Image(str(path)) for name, path in files.items()}, step))

    @rank_zero_only
    def log_best(self, checkpoint: Path, metadata: dict[str, Any]) -> None:
        """Upload a checkpoint as the artifact `model-ID`, of type model, with the aliases `best` and the run's id.

        Args:
            checkpoint: the file.
            metadata: shown beside it.
        """
        run_id = self.experiment.id
        artifact = wandb.Artifact(f"model-{run_id}", type="model", metadata=metadata)
        self._try(lambda: artifact.add_file(str(checkpoint), name=checkpoint.name))
        self._try(lambda: self.experiment.log_artifact(artifact, aliases=["best", run_id]))

    def _try(self, send: Callable[[], object]) -> None:
        """Call W&B; skip the call if an earlier one failed."""
        if self.failed:
            return
        try:
            send()
        except Exception as error:  # whatever it is (its service died, its disk is full), it is no reason to stop a run
            self.failed = True
            _give_up(error)


def _give_up(error: Exception) -> None:
    """Log a warning that nothing more of this run is sent to W&B."""
    logging.getLogger("wandb").setLevel(logging.CRITICAL)  # its debug.log lies in the same folder
    reason = first_line(error)
    log.warning("W&B: not logged there from here on (%s); the run goes on, and metrics.csv has all numbers", reason)


@rank_zero_only
def _start_run(mode: str, page: dict[str, Any]) -> wandb.Run:
    """Start the W&B run on the first process, so that its mistakes show before the training."""
    quiet = wandb.Settings(silent=True, init_timeout=ONLINE_TIMEOUT_S, finish_timeout=FINISH_TIMEOUT_S)
    wandb.setup(wandb.Settings(silent=True))  # what matters of its own lines is logged here
    run = wandb.init(**page, mode="offline", settings=quiet) if mode == "offline" else _start_online(page, quiet)
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    run.define_metric("val/reconstruction_mse", step_metric="trainer/global_step", summary="min")
    run.define_metric("val/r2", step_metric="trainer/global_step", summary="max")
    return run


def _start_online(page: dict[str, Any], quiet: wandb.Settings) -> wandb.Run:
    """Start an online run, or an offline one where there is no key or no way to the server, and log which."""
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
    """End the W&B run of this process, if there is one: the next job of a sweep would otherwise log into it.

    Args:
        status: exit status of the run.
    """
    run = wandb.run
    if run is None:
        return
    began = time.monotonic()
    try:
        wandb.finish(exit_code=status)
    except Exception as error:  # what is left of its run must not end ours, nor take in the rows of the next
        log.warning("W&B: its run was not closed (%s)", first_line(error))
        with contextlib.suppress(Exception):
            wandb.teardown()
    if not run.offline and time.monotonic() - began >= FINISH_TIMEOUT_S:
        where = shlex.quote(str(Path(run.settings.sync_dir)))
        log.warning("W&B: the server was gone; upload what it did not get with `wandb sync %s`", where)


# ---- what every logger gets beside Lightning's numbers --------------------------------------------------------------


def log_pictures(loggers: Iterable[Logger], files: Mapping[str, Path], step: int) -> None:
    """Show PNG files in the loggers that show pictures.

    Args:
        loggers: loggers of the run.
        files: name -> file.
        step: the optimizer step that they are of.
    """
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.log_pictures(files, step)
        elif isinstance(logger, TensorBoardLogger):
            for name, path in files.items():
                logger.experiment.add_image(name, matplotlib.image.imread(path), step, dataformats="HWC")
            logger.experiment.flush()  # the last pictures come after the last save


def log_end(
    loggers: Iterable[Logger], metrics: dict[str, float], pictures: Mapping[str, Path], *, best: Path, step: int
) -> None:
    """Log the last row of a run, its figures, and best.ckpt where that is wanted.

    Args:
        loggers: loggers of the run.
        metrics: name -> value, numbers alone.
        pictures: name -> PNG file.
        best: best.ckpt.
        step: the last optimizer step.
    """
    for logger in loggers:
        if isinstance(logger, WandbRun):
            logger.log_summary(metrics)
            if logger.log_model:
                logger.log_best(best, metrics)
            continue
        if isinstance(logger, MetricsFile):
            logger.log_end_row(metrics, step)
        else:
            logger.log_metrics(metrics, step)
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(logger.hparams, metrics)  # its HPARAMS tab needs both at once
        logger.save()
    log_pictures(loggers, pictures, step)
