"""The LightningModule: how an autoencoder is trained, validated and tested. Letters as in `refold.models`."""

import contextlib
import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor

from refold.data.windows.views import Ahead, Batch
from refold.models import Autoencoder, Feeding
from refold.training.losses import mean_over_present
from refold.training.lr_schedule import scale_rate
from refold.training.reconstruction_metrics import PredictionError, ReconstructionError
from refold.training.seeds import derive
from refold.training.teacher_forcing import TeacherForcing

log = logging.getLogger(__name__)


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Switch a module to evaluation mode for a block, and back to the mode it was in after it.

    Args:
        module: to be switched.
    """
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def in_full_precision(step: Callable[..., None]) -> Callable[..., None]:
    """Let a validation or test step compute in float32, whatever `trainer.precision` is, as scoring does.

    Args:
        step: of an `AutoencoderModule`.

    Returns:
        The step, outside autocast.
    """

    @functools.wraps(step)
    def exact(module: "AutoencoderModule", batch: Any, batch_idx: int) -> None:
        with torch.autocast(module.device.type, enabled=False):
            step(module, batch, batch_idx)

    return exact


def as_batch(given: Any, horizon: int = 0) -> Batch:
    """Turn what a loader yields into a `Batch`.

    Args:
        given: a `Batch`; or windows (B, T, F) alone; or a tuple or list of windows, and of a mask (B, T) bool that is
            True at present bars, as a `DataLoader` makes of a `TensorDataset`.
        horizon: P, bars that are predicted: of windows from a plain loader, the last P of each.

    Returns:
        The batch; windows of a plain loader are numbered from 0 in each batch, and weigh 1.

    Raises:
        ValueError: it is something else, or a window has no bar to predict.
    """
    if isinstance(given, Batch):
        return given
    parts = list(given) if isinstance(given, list | tuple) else [given]
    if not (1 <= len(parts) <= 2 and all(isinstance(part, Tensor) for part in parts)):
        raise ValueError(
            f"a batch is {type(given).__name__} of {', '.join(type(part).__name__ for part in parts) or 'nothing'}; it "
            "must be windows (B, T, F), or windows and a mask (B, T), as tensors"
        )
    windows, mask = parts if len(parts) == 2 else (parts[0], None)
    index = torch.arange(len(windows))
    if not horizon:
        return Batch(windows, mask, index, 1.0)
    bars = windows.shape[1]
    if bars <= horizon:
        raise ValueError(
            f"windows have {bars} bars; they must have more than predictor.horizon = {horizon}: it cuts those off"
        )
    there = mask if mask is None else mask[:, -horizon:]
    if there is not None and not there.any(dim=1).all():
        number = int((~there.any(dim=1)).nonzero()[0])
        raise ValueError(
            f"window {number} of the batch lacks its last {horizon} bars, which predictor.horizon cuts off to predict "
            "them: pad windows of different lengths at their beginning, or train with predictor=none"
        )
    own = mask if mask is None else mask[:, :-horizon]
    return Batch(windows[:, :-horizon], own, index, 1.0, Ahead(windows[:, -horizon:], there, 1.0))


def _truth(bars: Tensor, feeding: Feeding) -> Tensor | None:
    """Return the true bars where coins may pick them; where a decoder runs free, it is not given them."""
    return None if feeding.coins is None else bars


class AutoencoderModule(L.LightningModule):
    """Train an autoencoder to reconstruct its windows; validate and test it running free.

    Batches are those of `refold.data.WindowDataModule`, or of a plain `DataLoader` (`as_batch` lists the forms).

    Every random number of a training step depends on (seed, epoch, batch, process) or on (seed, optimizer step) alone,
    so a resumed run repeats what an uninterrupted one would have done.

    Args:
        autoencoder: the model, in plain torch.
        num_features: F.
        loss: (reconstruction, windows, mask) -> loss per value, (B, T, F).
        teacher_forcing: which bars of a training batch are fed the truth.
        optimizer: parameters -> optimizer.
        lr_schedule: share of the training done, in [0, 1] -> factor on the learning rate.
        seed: seed of all random numbers of the training.
        prediction_weight: of the loss of the bars after a window beside that of the window, above 0; without a
            predictor it does not matter.
    """

    autoencoder: Autoencoder
    teacher_forcing: TeacherForcing

    def __init__(
        self,
        autoencoder: Autoencoder,
        *,
        num_features: int,
        loss: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        teacher_forcing: TeacherForcing,
        optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer],
        lr_schedule: Callable[[float], float],
        seed: int,
        prediction_weight: float = 1.0,
    ):
        super().__init__()
        self.autoencoder = autoencoder
        self.loss = loss
        self.teacher_forcing = teacher_forcing
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.seed = seed
        self.val_error = ReconstructionError(num_features)
        # A decoder of the user's own may not say; if it reads no bars, its two errors are equal.
        self.fed_error = ReconstructionError(num_features) if getattr(autoencoder.decoder, "fed_bars", True) else None
        self.test_error = ReconstructionError(num_features)
        predictor = getattr(autoencoder, "predictor", None)
        self.reads_bars = self.fed_error is not None or getattr(predictor, "fed_bars", predictor is not None)
        self.prediction_weight = prediction_weight
        self.horizon: int = getattr(autoencoder, "horizon", 0)
        self.val_prediction = PredictionError(num_features, self.horizon) if self.horizon else None
        self.test_prediction = PredictionError(num_features, self.horizon) if self.horizon else None

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Reconstruct windows, running free.

        Args:
            windows: (B, T, F), scaled features.
            mask: (B, T) bool, True at present bars; None if all are present.

        Returns:
            (B, T, F).
        """
        return self.autoencoder(windows, mask)

    @property
    def _logs_this_step(self) -> bool:
        """Return whether this step is logged: only every n-th is, because log() costs a third of a millisecond."""
        every: int = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]  set undeclared
        return (self.global_step + 1) % every == 0

    def on_train_start(self) -> None:
        total = self.trainer.estimated_stepping_batches
        if not math.isfinite(total):
            return  # a trainer without limits: the horizon must be in steps
        self.teacher_forcing.begin(int(total))
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        horizon = self.teacher_forcing.describe_horizon(int(total), max(per_epoch, 1))
        if horizon and self.reads_bars and self.trainer.is_global_zero:
            text, long_enough = horizon
            log.log(logging.INFO if long_enough else logging.WARNING, text)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout draws from the device's generator: seeding it here makes it a function of the position alone.
        # (torch.manual_seed would seed all devices, and takes a millisecond.)
        seed = derive(self.seed, "dropout", self.current_epoch, batch_idx, self.global_rank)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        batch = as_batch(batch, self.horizon)
        B, T, _ = batch.windows.shape
        feeding = self.teacher_forcing.feeding(self.global_step, batch_size=B, window_size=T)
        code = self.autoencoder.encode(batch.windows if batch.given is None else batch.given, batch.mask)
        reconstruction = self.autoencoder.decode(code, T, _truth(batch.windows, feeding), feeding, batch.mask)
        # The weight makes the mean over processes the mean over the whole batch, also when their shares are unequal.
        loss = mean_over_present(self.loss(reconstruction, batch.windows, batch.mask), batch.mask) * batch.weight
        if batch.ahead is not None and self.horizon:
            ahead = self._prediction_loss(code, batch.ahead)
            loss = loss + self.prediction_weight * ahead
            if self._logs_this_step:
                self.log("train/prediction_loss", ahead, sync_dist=True)
        if self._logs_this_step:
            self.log("train/loss", loss, sync_dist=True)
            if self.reads_bars:
                ratio = self.teacher_forcing.ratio(self.global_step)
                self.log("train/teacher_forcing_ratio", ratio, rank_zero_only=True)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], rank_zero_only=True)
        return loss

    def _prediction_loss(self, code: Tensor, ahead: Ahead) -> Tensor:
        """Return the loss of the bars after the windows of codes (B, Z), under coins of their own."""
        bars, mask, weight = ahead
        feeding = self.teacher_forcing.feeding(
            self.global_step, batch_size=len(bars), window_size=self.horizon, purpose="coins of prediction"
        )
        made = self.autoencoder.predict(code, _truth(bars, feeding), feeding, mask)
        return mean_over_present(self.loss(made, bars, mask), mask) * weight

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        norm = None
        if gradient_clip_val is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        elif self._logs_this_step:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        if norm is not None and self._logs_this_step:  # the norm before clipping; the same on every process
            self.log("train/grad_norm", norm, rank_zero_only=True)

    @in_full_precision
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        windows, mask, _, _, ahead, _ = as_batch(batch, self.horizon)
        code, T = self.autoencoder.encode(windows, mask), windows.shape[1]
        self.val_error.update(self.autoencoder.decode(code, T, mask=mask), windows, mask)
        if self.fed_error is not None:  # a diagnosis: how much the decoder would gain from seeing the bars before
            always = Feeding(torch.ones(T, dtype=torch.bool), detach_feedback=False, parallel_passes=0)
            self.fed_error.update(self.autoencoder.decode(code, T, windows, always, mask), windows, mask)
        self._predict(self.val_prediction, code, ahead)

    def on_validation_epoch_end(self) -> None:
        free = self._report("val", self.val_error)["reconstruction_mse"]
        self._report("val", self.val_prediction)
        if self.fed_error is not None:
            fed = self.fed_error.compute()["reconstruction_mse"]
            self.fed_error.reset()
            self.log("val/truth_fed_mse", fed.float())
            self.log("val/exposure_gap", (free - fed).float())

    @in_full_precision
    def test_step(self, batch: Any, batch_idx: int) -> None:
        windows, mask, _, _, ahead, _ = as_batch(batch, self.horizon)
        code = self.autoencoder.encode(windows, mask)
        self.test_error.update(self.autoencoder.decode(code, windows.shape[1], mask=mask), windows, mask)
        self._predict(self.test_prediction, code, ahead)

    def on_test_epoch_end(self) -> None:
        self._report("test", self.test_error)
        self._report("test", self.test_prediction)

    def _predict(self, error: PredictionError | None, code: Tensor, ahead: Ahead | None) -> None:
        """Add the predictions from codes (B, Z), running free, to a metric."""
        if error is not None and ahead is not None:
            error.update(self.autoencoder.predict(code, mask=ahead.mask), ahead.bars, ahead.mask)

    def _report(self, split: str, error: ReconstructionError | PredictionError | None) -> dict[str, Tensor]:
        """Log the metrics of a split, reset them, and return them."""
        if error is None:
            return {}
        values = error.compute()  # the same on every process
        for name, value in values.items():
            self.log(f"{split}/{name}", value.float(), prog_bar=f"{split}/{name}" == "val/reconstruction_mse")
        error.reset()
        return values

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        data: Any = getattr(self.trainer, "datamodule", None)
        if getattr(data, "batch_size_per_device", None) is not None:
            scale_rate(optimizer, data.global_batch_size(self.trainer.world_size) / data.batch_size)

        def factor(step: int) -> float:
            # The number of steps is asked for during the training only: before a checkpoint is restored, the question
            # would have Lightning set up the loader, and then never give it its saved position.
            return self.lr_schedule(step / self.trainer.estimated_stepping_batches if step else 0.0)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
