"""Lightning callbacks of a run beside its checkpoints: a clean stop on a signal, one line per epoch."""

import logging
import math
import resource
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, RichProgressBar

from refold.bounds import at_least, checked
from refold.errors import Interrupted
from refold.training.facts import run_facts
from refold.training.module import as_batch, evaluating
from refold.training.reconstruction_metrics import ReconstructionError
from refold.training.saving import Checkpoints, Monitor, may_decide

if TYPE_CHECKING:
    from refold.data import WindowDataModule

log = logging.getLogger(__name__)


class StopOnSignal(L.Callback):
    """Stop on ctrl-C or SIGTERM: finish the batch, write `last.ckpt`, raise `Interrupted`.

    Args:
        checkpoints: writes the checkpoint.
        second_stops: True lets a second signal stop at once. False in a worker, which gets two where Slurm signals all
            processes: Slurm's own and its parent's, which counts the time by itself.
    """

    def __init__(self, checkpoints: Checkpoints, *, second_stops: bool):
        self.checkpoints = checkpoints
        self.second_stops = second_stops
        self.received: int | None = None
        self.saved = False
        self.handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
            return
        # not earlier: Lightning saves the handlers when training starts, and restores them at the end
        for number in (signal.SIGINT, signal.SIGTERM):
            self.handlers[number] = signal.signal(number, self._receive)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if may_decide(trainer, batch_idx) and self._agreed(trainer):
            self.checkpoints.write_last(trainer)
            self.saved = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved = self._agreed(trainer)  # this callback comes after Checkpoints, which has just written

    # Leaving waits for the next hook, so that all that was logged is on disk.

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._leave(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._leave(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()
        self._leave(trainer)

    def _agreed(self, trainer: L.Trainer) -> bool:
        """Return whether any process has received a signal; every process gets the same answer."""
        return trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def _leave(self, trainer: L.Trainer) -> None:
        """Raise `Interrupted` once the checkpoint is written."""
        if self.saved:
            name = signal.Signals(self.received or signal.SIGINT).name
            step = trainer.global_step
            raise Interrupted(f"{name}: stopped after optimizer step {step}, {self.checkpoints.last} is kept")

    def _receive(self, number: int, frame: Any) -> None:
        """Remember a signal; the handler of both signals."""
        self.received = number
        if self.second_stops:
            self._restore()

    def _restore(self) -> None:
        """Put the earlier signal handlers back."""
        while self.handlers:
            signal.signal(*self.handlers.popitem())


class TrainingSample(L.Callback):
    """Log `train/reconstruction_mse` after each epoch: training windows, reconstructed as in validation, running free.

    `train/epoch_loss` is another quantity: of changing weights, under teacher forcing and dropout.
    """

    NUM_WINDOWS = 512
    """Windows, spread evenly over the training part. The first process measures them, so that no message is needed."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        windows = _data_of(trainer).train_windows
        index = torch.linspace(0, len(windows) - 1, min(self.NUM_WINDOWS, len(windows))).long()
        truth, mask = windows.gather(index).to(pl_module.device), windows.mask(index)
        mask = mask if mask is None else mask.to(pl_module.device)
        error = ReconstructionError(truth.shape[2], sync_on_compute=False).to(pl_module.device)
        with torch.no_grad(), evaluating(pl_module):
            error.update(pl_module(truth, mask), truth, mask)
        pl_module.log("train/reconstruction_mse", error.compute()["reconstruction_mse"].float(), rank_zero_only=True)


class RunFacts(L.Callback):
    """Give the facts of a run to every logger, once, before its first step; see `refold.training.facts`."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            facts = run_facts(trainer, pl_module, _data_of(trainer))
            for logger in trainer.loggers:
                logger.log_hyperparams({"facts": facts})


class EpochBar(RichProgressBar):
    """Show the progress of each epoch, counted from one. What is logged meanwhile stands above the bar, not within."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[tuple[logging.StreamHandler, Any]] = []

    def _get_train_description(self, current_epoch: int) -> str:
        most = self.trainer.max_epochs
        text = f"Epoch {current_epoch + 1}" + (f"/{most}" if most and most > 0 else "")
        return text.ljust(len(self.validation_description))  # as long as its neighbour: the bars begin at one column

    def _init_progress(self, trainer: L.Trainer) -> None:
        before = {id(sys.stdout): "stdout", id(sys.stderr): "stderr"}
        super()._init_progress(trainer)  # replaces both by streams that print above the bar; handlers hold the old ones
        for handler in logging.getLogger().handlers:
            name = before.get(id(getattr(handler, "stream", None)))
            if name and isinstance(handler, logging.StreamHandler):
                self.moved.append((handler, handler.stream))
                handler.setStream(getattr(sys, name))

    def _stop_progress(self) -> None:
        super()._stop_progress()
        while self.moved:
            handler, stream = self.moved.pop()
            handler.setStream(stream)


class EpochReport(L.Callback):
    """Log loss, speed and memory of each epoch, and write one log line per epoch.

    `train/epoch_loss` and `perf/windows_per_s` are of training alone, `perf/epoch_s` is with validation,
    `perf/peak_memory_mib` is the largest so far. The sums are part of a checkpoint, so that an epoch in two halves is
    reported as one.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self._reset()

    def _reset(self) -> None:
        self.windows, self.batches, self.seconds, self.started = 0, 0, 0.0, 0.0
        self.epoch_seconds, self.epoch_started = 0.0, time.perf_counter()
        self.loss: torch.Tensor | float = 0.0
        self.first_step = 0

    def state_dict(self) -> dict[str, Any]:
        sums = {"windows": self.windows, "batches": self.batches, "seconds": self.seconds, "loss": float(self.loss)}
        sums["first_step"] = self.first_step
        return {**sums, "rates": self.rates, "epoch_seconds": self._epoch_seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)

    def _epoch_seconds(self) -> float:
        """Return the seconds of this epoch so far, including those before a resume."""
        return self.epoch_seconds + time.perf_counter() - self.epoch_started

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.epoch_started = time.perf_counter()  # what came before was setting up

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.started = time.perf_counter()
        if not self.batches:
            self.first_step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.loss = self.loss + outputs["loss"].detach()  # stays on the device: reading it would wait for the GPU
        if trainer.strategy.root_device.type == "cuda" and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            torch.cuda.synchronize()  # kernels of the whole epoch are queued: wait once, where the epoch ends
        self.seconds += time.perf_counter() - self.started
        self.windows += as_batch(batch).windows.shape[0]
        self.batches += 1

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        rate = self.windows * trainer.world_size / self.seconds
        self.rates.append(rate)
        # outputs hold the loss divided by the batches that make one optimizer step
        loss = self.loss * trainer.accumulate_grad_batches / self.batches
        pl_module.log("train/epoch_loss", loss, sync_dist=True)
        pl_module.log("perf/windows_per_s", rate, rank_zero_only=True)
        pl_module.log("perf/epoch_s", self._epoch_seconds(), rank_zero_only=True)
        pl_module.log("perf/peak_memory_mib", peak_memory_mib(pl_module.device), rank_zero_only=True)
        metrics = trainer.callback_metrics
        ratios = [f"{pl_module.teacher_forcing.ratio(step):.2f}" for step in (self.first_step, trainer.global_step)]
        forcing = f"  teacher forcing {' to '.join(dict.fromkeys(ratios))}"  # one number where it stands still
        log.info(
            "epoch %d%s  train/epoch_loss %.4f  val/reconstruction_mse %.4f  val/r2 %.3f%s  %.0f windows/s",
            trainer.current_epoch + 1,
            f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else "",
            metrics["train/epoch_loss"],
            metrics.get("val/reconstruction_mse", math.nan),
            metrics.get("val/r2", math.nan),
            forcing if pl_module.reads_bars else "",
            rate,
        )
        self._reset()


def _data_of(trainer: L.Trainer) -> "WindowDataModule":
    """Return the data module that the trainer was started with."""
    return trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  Lightning sets it undeclared


def peak_memory_mib(device: torch.device) -> float:
    """Measure the largest memory of this process so far.

    Args:
        device: it trains on.

    Returns:
        MiB on the GPU, or in main memory if it trains on a CPU.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS alone counts bytes
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)


@checked("early_stopping")
def early_stopping(*, monitor: Monitor, patience: Annotated[int, at_least(1)] | None) -> list[L.Callback]:
    """Make the callback that stops a training whose validation error no longer improves.

    Args:
        monitor: logged name whose smallest value is the best.
        patience: validations without a better value, at least 1; None never stops.

    Returns:
        One callback, or none if patience is None.
    """
    return [] if patience is None else [EarlyStopping(monitor, patience=patience, mode="min")]
