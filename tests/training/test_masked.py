"""Bars without values count nowhere from the table to the reported error: a window is its present bars alone."""

import lightning as L
import pytest
import torch
from conftest import TINY, compose_run

from refold.config import build as config
from refold.training.losses import SquaredErrorLoss
from tests.data.makers import checks, random_bars, ready, with_value

F = 2
TRAINER = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False,
    "enable_model_summary": False,
}  # fmt: skip


ALONE = ["bridge.linear_path=none", "bridge.dropout=0", "loss=mse"]
"""The LSTMs alone read a window as its present bars; the linear path reads absent bars as 0."""


@pytest.fixture(scope="module")
def data():
    """Make 200 bars, about every seventh without a close: windows of 12 bars have at most three absent ones."""
    holes = [*range(10, 200, 14), *range(17, 200, 31)]
    bars = with_value(random_bars([200]), holes, "close", None)
    data = ready(bars, checks=checks(missing_value="mask"), window_size=12, max_masked=6, batch_size=16)
    for windows in (data.train_windows, data.val_windows, data.test_windows):
        mask = windows.mask(torch.arange(len(windows)))
        assert 0 < (~mask).sum() < mask.sum()
        assert mask.sum(dim=1).unique().numel() > 1  # windows of different lengths
    return data


@pytest.fixture
def module(data):
    L.seed_everything(0, verbose=False)
    return config.build_module(compose_run([*TINY, "teacher_forcing=none", *ALONE]), F)


def squared_error_alone(module, windows):
    """Sum and count the squared errors at the present bars of all windows, each of which is reconstructed alone."""
    index, total, count = torch.arange(len(windows)), 0.0, 0
    for window, present in zip(windows.gather(index), windows.mask(index), strict=True):
        alone = window[present].unsqueeze(0)
        total += (module.autoencoder(alone) - alone).square().sum().double()
        count += alone.numel()
    return total, count


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_reported_error_is_that_of_each_window_alone(split, data, module):
    trainer = L.Trainer(**TRAINER)
    run = {"val": trainer.validate, "test": trainer.test}[split]
    reported = run(module, data, verbose=False)[0][f"{split}/reconstruction_mse"]
    with torch.no_grad():
        total, count = squared_error_alone(module, {"val": data.val_windows, "test": data.test_windows}[split])
    assert reported == pytest.approx((total / count).item(), abs=1e-6)


def test_the_training_loss_and_its_gradient_are_those_of_the_present_bars_alone(data, module):
    batch = next(batch for batch in data.train_dataloader() if not batch.mask.all())
    assert batch.weight == 1.0
    assert isinstance(module.loss, SquaredErrorLoss)
    module.trainer = L.Trainer(**TRAINER, log_every_n_steps=10**6)
    loss = module.training_step(batch, 0)
    total, count = 0.0, 0
    for window, present in zip(batch.windows, batch.mask, strict=True):
        alone = window[present].unsqueeze(0)
        total, count = total + (module.autoencoder(alone) - alone).square().sum(), count + alone.numel()
    assert loss.item() == pytest.approx((total / count).item(), abs=1e-6)
    weights = list(module.parameters())
    ours, expected = torch.autograd.grad(loss, weights), torch.autograd.grad(total / count, weights)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)  # float32, sums of some hundred terms


def test_coins_are_drawn_once_for_each_optimizer_step_in_order(data, monkeypatch):
    L.seed_everything(0, verbose=False)
    module = config.build_module(compose_run([*TINY, "teacher_forcing=constant"]), F)
    feeding, seen = module.teacher_forcing.feeding, []

    def spy(step, **sizes):
        seen.append((step, feeding(step, **sizes)))
        return seen[-1][1]

    monkeypatch.setattr(module.teacher_forcing, "feeding", spy)
    trainer = L.Trainer(**TRAINER, max_epochs=2, log_every_n_steps=1, num_sanity_val_steps=0)
    trainer.fit(module, data)
    steps = trainer.global_step
    assert steps == 2 * len(data.train_dataloader()) > 4
    assert [step for step, _ in seen] == list(range(steps))
    coins = {tuple(drawn.coins.tolist()) for _, drawn in seen}
    assert len(coins) == steps  # 12 fair coins: no two of these steps are alike
