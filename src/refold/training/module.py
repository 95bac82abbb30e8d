"""The LightningModule: an autoencoder, what it is trained to do, and what is reported of it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import lightning as L
import torch
from torch import Tensor

from refold.data import Batch
from refold.models import Autoencoder, Feeding
from refold.training.losses import mean_over_present
from refold.training.reconstruction_metrics import ReconstructionError
from refold.training.seeds import derive
from refold.training.teacher_forcing import TeacherForcing


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Within, the module is in evaluation mode; after it, in the mode it was in."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


class AutoencoderModule(L.LightningModule):
    """Trains an autoencoder to reconstruct its windows; validates and tests it running free.

    Every random number of a training step depends on (seed, epoch, batch, process) or on (seed, optimizer step) alone,
    so a resumed run repeats what an uninterrupted one would have done.

    Args:
        autoencoder: the model, in plain torch.
        num_features: F.
        loss: (reconstruction, windows, mask) -> loss per value, (B, T, F).
        teacher_forcing: which bars of a training batch are fed the truth.
        optimizer: parameters -> optimizer.
        lr_schedule: share of the training done, in [0, 1] -> factor on the learning rate.
        seed: of everything that is drawn during training.
    """

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

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Reconstruct windows, running free. windows: (B, T, F), scaled; mask: (B, T) -> (B, T, F)."""
        return self.autoencoder(windows, mask)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout draws from the device's generator: seeding it here makes it a function of the position alone.
        # (torch.manual_seed would seed all devices, and takes a millisecond.)
        seed = derive(self.seed, "dropout", self.current_epoch, batch_idx, self.global_rank)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        B, T, _ = batch.windows.shape
        feeding = self.teacher_forcing.feeding(self.global_step, batch_size=B, window_size=T)
        reconstruction = self.autoencoder(batch.windows, batch.mask, feeding)
        # The weight makes the mean over processes the mean over the whole batch, also when their shares are unequal.
        loss = mean_over_present(self.loss(reconstruction, batch.windows, batch.mask), batch.mask) * batch.weight
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # log() costs a third of a millisecond
            self.log("train/loss", loss, sync_dist=True)
            self.log("train/teacher_forcing_ratio", self.teacher_forcing.ratio(self.global_step), rank_zero_only=True)
            self.log("train/lr", self.optimizers().param_groups[0]["lr"], rank_zero_only=True)
        return loss

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None, gradient_clip_algorithm: str | None
    ) -> None:
        due = (self.global_step + 1) % self.trainer.log_every_n_steps == 0
        if gradient_clip_val is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        elif due:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        if due:  # the norm before clipping; the same on every process
            self.log("train/grad_norm", norm, rank_zero_only=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        windows, mask = batch.windows, batch.mask
        code, T = self.autoencoder.encode(windows, mask), windows.shape[1]
        self.val_error.update(self.autoencoder.decode(code, T, mask=mask), windows, mask)
        if self.fed_error is not None:  # a diagnosis: how much the decoder would gain from seeing the bars before
            always = Feeding(torch.ones(T, dtype=torch.bool), detach_feedback=False, parallel_passes=0)
            self.fed_error.update(self.autoencoder.decode(code, T, windows, always, mask), windows, mask)

    def on_validation_epoch_end(self) -> None:
        free = self._report("val", self.val_error)["reconstruction_mse"]
        if self.fed_error is not None:
            fed = self.fed_error.compute()["reconstruction_mse"]
            self.fed_error.reset()
            self.log("val/truth_fed_mse", fed.float())
            self.log("val/exposure_gap", (free - fed).float())

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.test_error.update(self(batch.windows, batch.mask), batch.windows, batch.mask)

    def on_test_epoch_end(self) -> None:
        self._report("test", self.test_error)

    def _report(self, split: str, error: ReconstructionError) -> dict[str, Tensor]:
        values = error.compute()  # the same on every process
        for name, value in values.items():
            self.log(f"{split}/{name}", value.float(), prog_bar=f"{split}/{name}" == "val/reconstruction_mse")
        error.reset()
        return values

    def configure_optimizers(self) -> dict:
        optimizer = self.optimizer(self.parameters())

        def factor(step: int) -> float:
            # The number of steps is asked for during the training only: before a checkpoint is restored, the question
            # would have Lightning set up the loader, and then never give it its saved position.
            return self.lr_schedule(step / self.trainer.estimated_stepping_batches if step else 0.0)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
