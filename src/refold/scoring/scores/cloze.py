"""A score by a small model of its own, which predicts each bar from the bars around it."""

import logging
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from refold.bounds import at_least, checked, more_than, within
from refold.data import Windows
from refold.errors import ConfigError
from refold.models import Cloze
from refold.models.cloze import student_surprise
from refold.models.masks import mean_of_windows
from refold.scoring.scores.base_score import Score
from refold.scoring.scores.student import StudentTails

log = logging.getLogger("refold.score")

_CLOZE = "cloze."
"""Begins the names of the weights in the state."""

_FIRST = "before.weight_ih_l0"
"""Name of a weight, (4 H, F)."""


class ClozeScore(Score):
    """Score a bar by how unlike it is to what the bars around it lead to expect.

    A `Cloze` predicts mean and scale of each feature of a bar without seeing the bar, as a Student distribution. It is
    trained on the windows of the training part by the likelihood, when the score is fitted. Distances from the mean, in
    units of a power of the scale, are then judged as `StudentScore` judges errors. The autoencoder takes no part in it.

    Under `alignment=last` a bar is the last one of its window, and so is predicted from the bars before it alone.

    Args:
        hidden_size: H of each direction, at least 1.
        num_layers: L, at least 1.
        margin: bars on each side of a bar that its prediction does not see, at least 0.
        degrees: degrees of freedom of the predicted Student distribution, above 0.
        scale_power: in [0, 1]. At 1 a distance counts in units of its predicted scale, so that the same move is
            stranger in calm times than in stormy ones; at 0 all times count alike.
        steps: of training, at least 1.
        batch_size: windows of a step, at least 1.
        lr: highest learning rate, above 0.
        seed: of weights and batches, at least 0.
    """

    reads_windows = True
    fitted_on = "train"

    @checked("score")
    def __init__(
        self,
        *,
        hidden_size: Annotated[int, at_least(1)],
        num_layers: Annotated[int, at_least(1)],
        margin: Annotated[int, at_least(0)],
        degrees: Annotated[float, more_than(0)],
        scale_power: Annotated[float, within(0, 1)],
        steps: Annotated[int, at_least(1)],
        batch_size: Annotated[int, at_least(1)],
        lr: Annotated[float, more_than(0)],
        seed: Annotated[int, at_least(0)],
    ) -> None:
        self.sizes = {"hidden_size": hidden_size, "num_layers": num_layers, "margin": margin}
        self.degrees = degrees
        self.scale_power = scale_power
        self.tails = StudentTails()
        self.steps, self.batch_size, self.lr, self.seed = steps, batch_size, lr, seed
        self.cloze: Cloze | None = None

    def _fresh(self, num_features: int) -> Cloze:
        return Cloze(num_features=num_features, dropout=0.0, **self.sizes)

    def fit_windows(self, windows: Windows) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(self.seed)
            cloze = self._fresh(windows.series.values.shape[1]).to(windows.series.values.device)
            optimizer = torch.optim.AdamW(cloze.parameters(), lr=self.lr)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=self.steps, pct_start=0.1)
            loss = torch.zeros(())
            for _ in range(self.steps):
                chosen = torch.randint(len(windows), (self.batch_size,), generator=generator).numpy()
                batch, mask = windows.gather(chosen), windows.mask(chosen)
                mean, log_scale = cloze(batch, mask)
                surprise = student_surprise(batch, mean, log_scale, self.degrees)
                loss = mean_of_windows(surprise, mask).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(cloze.parameters(), 1.0)
                optimizer.step()
                schedule.step()
        log.info("score: cloze trained for %d steps of %d windows, loss %.3f", self.steps, self.batch_size, loss.item())
        self.cloze = cloze.eval().requires_grad_(False)

    def measure(self, windows: Tensor, reconstruction: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        assert self.cloze is not None
        mean, log_scale = self.cloze.to(windows.device)(windows, mask)
        return (windows - mean) * torch.exp(-self.scale_power * log_scale)

    def fit(self, values: Tensor) -> None:
        self.tails.fit(values)

    def contributions(self, values: Tensor, asset: np.ndarray) -> Tensor:
        return self.tails.contributions(values)

    def state_dict(self) -> dict[str, Tensor]:
        assert self.cloze is not None
        weights = {f"{_CLOZE}{name}": value.cpu() for name, value in self.cloze.state_dict().items()}
        return {**weights, **self.tails.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        weights = {name.removeprefix(_CLOZE): value for name, value in state.items() if name.startswith(_CLOZE)}
        if _FIRST not in weights:
            raise ConfigError(f"the score's state has {sorted(state)}; ClozeScore has weights of a cloze")
        cloze = self._fresh(weights[_FIRST].shape[1])
        cloze.load_state_dict(weights)
        self.tails.load_state_dict({name: value for name, value in state.items() if not name.startswith(_CLOZE)})
        if broken := [name for name, value in state.items() if not value.isfinite().all()]:
            raise ValueError(f"the score has weights that are NaN or infinite, {broken[0]} among them")
        self.cloze = cloze.eval().requires_grad_(False)
