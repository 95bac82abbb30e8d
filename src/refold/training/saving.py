"""Checkpoints of a run: written so that a crash at any moment leaves a complete one."""

import contextlib
import logging
import math
import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from refold.bounds import checked, more_than
from refold.errors import RefoldError
from refold.runs.directory import BEST_CHECKPOINT, LAST_CHECKPOINT, PREVIOUS_CHECKPOINT, begin_writing

log = logging.getLogger(__name__)

Monitor = Literal["val/reconstruction_mse", "val/reconstruction_mae"]
"""Logged metrics for which the smallest value is the best."""

DIVERGED = 10.0
"""A monitored value of more than so many times its best is said to diverge."""

AGREE_EVERY_BATCHES = 16
"""Batches between two decisions of several processes to write or to stop: each decision is a message to all."""


def may_decide(trainer: L.Trainer, batch_idx: int) -> bool:
    """Say whether the processes may agree, after this batch, to write a checkpoint or to stop.

    Args:
        trainer: the trainer, while it trains.
        batch_idx: number of the batch in its epoch, from 0.

    Returns:
        True at every batch of a single process, and at every sixteenth of several; False after the last batch of an
        epoch, where a checkpoint is written anyway.
    """
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        return False
    return trainer.world_size == 1 or (batch_idx + 1) % AGREE_EVERY_BATCHES == 0


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside its target and rename it: at any moment the file is complete, the old or the new one.

    Raises:
        RefoldError: it cannot be written; the old one is still there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except (OSError, RuntimeError) as error:
            reason: BaseException = error
            while not isinstance(reason, OSError) and reason.__context__:  # torch's writer hides it behind its own
                reason = reason.__context__
            text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(error).splitlines()[0]
            kept = ", the one before it is kept" if target.exists() else ""
            raise RefoldError(f"{target} cannot be written: {text}{kept}") from error
        finally:
            partial.unlink(missing_ok=True)


def link_as(path: Path, name: Path) -> None:
    """Give a file a second name, so that it stays when another file takes its first one.

    Args:
        path: the file.
        name: its second name, in the same file system; a file there is replaced. Nothing happens without hard links.
    """
    link = name.with_name(f".{name.name}.partial")
    with contextlib.suppress(OSError):  # a file system without links
        link.unlink(missing_ok=True)
        os.link(path, link)
        os.replace(link, name)


class Checkpoints(Checkpoint):
    """Write `best.ckpt` and `last.ckpt` after each epoch, and `last.ckpt` every so many minutes.

    The last but one stays as `previous.ckpt`, because a disk may lose what it reported as written.

    Args:
        run_dir: its folder `checkpoints` holds the files.
        monitor: logged name whose smallest value is the best.
        every_minutes: longest time between two writes of `last.ckpt`, greater than 0; a killed run loses no more.
    """

    @checked("checkpoint")
    def __init__(self, *, run_dir: Path, monitor: Monitor, every_minutes: Annotated[float, more_than(0)]):
        self.run_dir = run_dir
        self.best, self.last = run_dir / BEST_CHECKPOINT, run_dir / LAST_CHECKPOINT
        self.monitor = monitor
        self.every_seconds = 60 * every_minutes
        self.best_value = math.inf
        self.last_written = 0.0
        self.began = False
        self.warned = False

    def state_dict(self) -> dict[str, float]:
        return {"best_value": self.best_value}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.best_value = state_dict["best_value"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.last_written = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not may_decide(trainer, batch_idx):
            return
        due = time.monotonic() - self.last_written > self.every_seconds
        if trainer.strategy.broadcast(due):  # clocks differ: the first process decides
            self.write_last(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value = float(trainer.callback_metrics.get(self.monitor, math.inf))
        if trainer.is_global_zero and self.monitor in trainer.callback_metrics:
            self._warn_of_divergence(value, trainer.current_epoch + 1)
        if value < self.best_value:
            self.best_value = value
            self._write(trainer, self.best)
        self.write_last(trainer)

    def _warn_of_divergence(self, value: float, epoch: int) -> None:
        """Log, once, that the monitored value is no number or far above its best."""
        if self.warned or (value <= DIVERGED * self.best_value and math.isfinite(value)):
            return
        self.warned = True
        best = f"its best was {self.best_value:.4g}" if math.isfinite(self.best_value) else "it never had a value"
        log.warning(
            "epoch %d: training diverges: %s is %.4g, %s; lower optimizer.lr, or set trainer.gradient_clip_val",
            *(epoch, self.monitor, value, best),
        )

    def write_last(self, trainer: L.Trainer) -> None:
        """Write `last.ckpt` from the present state; every process calls this.

        Args:
            trainer: the trainer, while it trains.
        """
        if trainer.is_global_zero and self.last.exists():
            link_as(self.last, self.run_dir / PREVIOUS_CHECKPOINT)
        self._write(trainer, self.last)
        self.last_written = time.monotonic()

    def ensure_best(self, trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule) -> None:
        """Write `best.ckpt` from the present weights if the training ended before its first validation.

        Args:
            trainer: after `fit`.
            module: trained.
            data: the data module of the run.

        Raises:
            RefoldError: the monitored value was never a number.
        """
        if math.isinf(self.best_value):
            value = trainer.validate(module, data, verbose=False)[0][self.monitor]
            if not math.isfinite(value):
                raise RefoldError(
                    f"{self.monitor} is {value}, never a number: lower optimizer.lr, or set trainer.gradient_clip_val"
                )
            self.best_value = value
            self._write(trainer, self.best)

    def _write(self, trainer: L.Trainer, path: Path) -> None:
        """Write a checkpoint; before the first one, the run's earlier result is removed."""
        if trainer.is_global_zero and not self.began:
            begin_writing(self.run_dir)
        self.began = True
        trainer.save_checkpoint(path)
