"""The LightningModule: validation and test run free with every decoder, and batches of a plain loader train too."""

import subprocess
import sys
from functools import partial

import lightning as L
import pytest
import torch
from conftest import TINY, compose_run
from torch.utils.data import DataLoader, TensorDataset

from refold import models
from refold.config import build as config
from refold.data import Batch
from refold.data.windows.views import Ahead
from refold.training.losses import SquaredErrorLoss
from refold.training.lr_schedule import ConstantRate
from refold.training.module import AutoencoderModule, as_batch
from refold.training.teacher_forcing import Constant, TeacherForcing

PLAIN: dict = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
}


@pytest.mark.parametrize(
    ("optimizer", "per_device", "batch", "rate"),
    [("adamw", "null", 64, 0.012), ("adamw", "16", 16, 0.006), ("adam", "256", 256, 0.024), ("sgd", "16", 16, 0.003)],
)
def test_the_rate_follows_a_batch_that_is_given_per_device(optimizer, per_device, batch, rate, monkeypatch):
    cfg = compose_run(
        [
            *TINY,
            f"optimizer={optimizer}",
            "optimizer.lr=0.012",
            "lr_schedule=constant",
            f"data.batch_size_per_device={per_device}",
        ]
    )
    data = config.build_data(cfg)
    module = config.build_module(cfg, data.num_features)
    trainer = L.Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0, **PLAIN)
    sizes, step = [], module.training_step

    def watched(batch, batch_idx):
        sizes.append(len(batch.windows))
        return step(batch, batch_idx)

    monkeypatch.setattr(module, "training_step", watched)
    trainer.fit(module, data)
    assert sizes == [batch]
    assert module.optimizers().param_groups[0]["lr"] == pytest.approx(rate, rel=1e-12)
    assert data.global_batch_size(4) == (64 if per_device == "null" else 4 * batch)


def test_validation_and_test_keep_float32_while_training_computes_in_bfloat16(monkeypatch):
    """A score is computed in float32, so the metrics beside it must be, too: bf16 keeps 8 significant bits."""
    cfg = compose_run([*TINY, "decoder=conditional"])
    L.seed_everything(0, verbose=False)
    data = config.build_data(cfg)
    module = config.build_module(cfg, data.num_features)
    kinds, encode = [], module.autoencoder.encode

    def watched(*given):
        kinds.append((module.training, torch.is_autocast_enabled("cpu")))
        return encode(*given)

    monkeypatch.setattr(module.autoencoder, "encode", watched)
    plain = {**PLAIN, "limit_val_batches": 1, "limit_test_batches": 1}
    measured = []
    for precision in ("32-true", "bf16-mixed"):
        trainer = L.Trainer(precision=precision, **plain)
        measured.append([trainer.validate(module, data, verbose=False), trainer.test(module, data, verbose=False)])
    assert measured[0] == measured[1]
    plain["limit_val_batches"] = 0
    L.Trainer(precision="bf16-mixed", max_epochs=1, limit_train_batches=1, **plain).fit(module, data)
    assert set(kinds) == {(False, False), (True, True)}


@pytest.mark.parametrize("decoder", ["autoregressive", "conditional", "repeat"])
@pytest.mark.parametrize("forcing", ["none", "constant"])
def test_no_metric_sees_the_truth_through_the_decoder(decoder, forcing, monkeypatch):
    cfg = compose_run([*TINY, f"decoder={decoder}", f"teacher_forcing={forcing}"])
    L.seed_everything(0, verbose=False)
    data = config.build_data(cfg)
    module = config.build_module(cfg, data.num_features)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, barebones=False,
                        enable_checkpointing=False, enable_model_summary=False)  # fmt: skip
    given = trainer.validate(module, data, verbose=False)[0], trainer.test(module, data, verbose=False)[0]

    decode = module.autoencoder.decode
    monkeypatch.setattr(
        module.autoencoder,
        "decode",
        lambda code, window_size, truth=None, feeding=None, mask=None: decode(code, window_size, None, None, mask),
    )
    denied = trainer.validate(module, data, verbose=False)[0], trainer.test(module, data, verbose=False)[0]
    # two numbers are there to say what the truth would change; with a decoder that reads no bars there are none
    diagnosis = {name: given[0].pop(name) for name in ("val/truth_fed_mse", "val/exposure_gap") if name in given[0]}
    withheld = {name: denied[0].pop(name) for name in diagnosis}
    assert given == denied
    assert given[0]["val/reconstruction_mse"] > 0
    assert bool(diagnosis) == (decoder != "repeat")
    if diagnosis:
        error = given[0]["val/reconstruction_mse"]
        assert diagnosis["val/truth_fed_mse"] != withheld["val/truth_fed_mse"] == error
        assert diagnosis["val/exposure_gap"] == pytest.approx(
            error - diagnosis["val/truth_fed_mse"], abs=1e-6
        )  # float32
        assert withheld["val/exposure_gap"] == 0


def test_training_does_see_the_truth_so_the_test_above_can_fail():
    cfg = compose_run([*TINY, "teacher_forcing=constant", "teacher_forcing.schedule.ratio=1.0"])
    L.seed_everything(0, verbose=False)
    data = config.build_data(cfg)
    module = config.build_module(cfg, data.num_features)
    windows = data.val_windows.gather(torch.arange(4))
    feeding = module.teacher_forcing.feeding(0, batch_size=4, window_size=windows.shape[1])
    fed, free = module.autoencoder(windows, None, feeding), module.autoencoder(windows)
    assert not torch.allclose(fed, free)


PLAIN = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False,
    "enable_model_summary": False, "num_sanity_val_steps": 0,
}  # fmt: skip
WINDOWS = torch.randn(24, 6, 2, generator=torch.Generator().manual_seed(0))


def plain_module(**others) -> AutoencoderModule:
    torch.manual_seed(0)
    return AutoencoderModule(
        models.build(2, decoder="autoregressive", hidden_size=4, latent_dim=3, **others),
        num_features=2,
        loss=SquaredErrorLoss(),
        teacher_forcing=TeacherForcing(
            schedule=Constant(ratio=0.5),
            coin="step",
            detach_feedback=False,
            parallel_passes=0,
            input_dropout=0.0,
            seed=0,
        ),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        lr_schedule=ConstantRate(),
        seed=0,
    )


@pytest.mark.parametrize("form", ["tensor", "tuple", "mask", "batch"])
def test_batches_of_a_plain_loader_train_as_ours_do(form):
    present = torch.ones(24, 6, dtype=torch.bool)
    if form == "mask":
        present[:, 4:] = False
    dataset = WINDOWS if form == "tensor" else TensorDataset(WINDOWS, *([present] if form == "mask" else []))
    loader = DataLoader(dataset, batch_size=8)
    if form == "batch":
        batches = [Batch(WINDOWS[n : n + 8], None, torch.arange(n, n + 8), 1.0) for n in (0, 8, 16)]
        loader = DataLoader(batches, batch_size=None)
    module = plain_module()
    before = [weights.clone() for weights in module.parameters()]
    trainer = L.Trainer(**PLAIN, max_epochs=2, log_every_n_steps=1)
    trainer.fit(module, loader, loader)
    assert trainer.global_step == 6
    assert any(not torch.equal(one, other) for one, other in zip(before, module.parameters(), strict=True))
    (validated,), (tested,) = (run(module, loader, verbose=False) for run in (trainer.validate, trainer.test))
    assert validated["val/reconstruction_mse"] == tested["test/reconstruction_mse"]
    with torch.no_grad():
        alone = WINDOWS[:, :4] if form == "mask" else WINDOWS
        expected = (module.eval().autoencoder(alone) - alone).square().mean().item()
    assert tested["test/reconstruction_mse"] == pytest.approx(expected, abs=1e-6)  # float32


def test_a_spoilt_batch_is_read_as_given_and_compared_with_the_window_as_it_was(monkeypatch):
    monkeypatch.setattr(AutoencoderModule, "_logs_this_step", False)
    module = plain_module().eval()
    given = WINDOWS[:8].clone()
    given[:, 2:4] = 0.0
    loss = module.training_step(Batch(WINDOWS[:8], None, torch.arange(8), 1.0, given=given), 0)
    code = module.autoencoder.encode(given)
    feeding = module.teacher_forcing.feeding(0, batch_size=8, window_size=6)
    expected = (module.autoencoder.decode(code, 6, WINDOWS[:8], feeding) - WINDOWS[:8]).square().mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": WINDOWS}, r"a batch is dict of dict; it must be windows \(B, T, F\), or windows and a mask"),
        ([WINDOWS, WINDOWS, WINDOWS], "a batch is list of Tensor, Tensor, Tensor; it must be windows"),
        ([], "a batch is list of nothing"),
    ],
)
def test_batches_of_another_form_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        as_batch(given)


def test_the_last_bars_of_a_plain_batch_are_those_to_predict():
    """Check that such batches are trained on and measured as Refold's own are."""
    module, trainer = plain_module(predictor="conditional", horizon=2), L.Trainer(**PLAIN, max_epochs=1)
    present = torch.ones(24, 6, dtype=torch.bool)
    present[:, :2] = False  # padded at the beginning
    whole = DataLoader(TensorDataset(WINDOWS, present), batch_size=8)
    ahead = Ahead(WINDOWS[:, 4:], None, 1.0)
    apart = DataLoader([Batch(WINDOWS[:, 2:4], None, torch.arange(24), 1.0, ahead)], batch_size=None)
    found, expected = (trainer.test(module, loader, verbose=False)[0] for loader in (whole, apart))
    assert found == pytest.approx(expected, rel=1e-5)
    assert {"test/reconstruction_mse", "test/prediction_mse", "test/prediction_r2_2"} <= set(found)
    with torch.no_grad():
        model = module.eval().autoencoder
        made = model.predict(model.encode(WINDOWS[:, 2:4]))
    assert found["test/prediction_mse"] == pytest.approx((made - WINDOWS[:, 4:]).square().mean().item(), rel=1e-5)
    trainer = L.Trainer(**PLAIN, max_epochs=1, log_every_n_steps=1)
    trainer.fit(module.train(), whole, whole)
    assert trainer.callback_metrics["train/prediction_loss"] > 0


def test_the_loss_is_the_sum_of_both_and_the_coins_are_drawn_apart(monkeypatch):
    module = plain_module(predictor="autoregressive", horizon=2)
    module.prediction_weight = 3.0
    monkeypatch.setattr(AutoencoderModule, "global_step", 7)
    monkeypatch.setattr(AutoencoderModule, "_logs_this_step", False)
    model, forcing = module.autoencoder.eval(), module.teacher_forcing
    windows, bars = WINDOWS[:, :4], WINDOWS[:, 4:]
    with torch.no_grad():
        loss = module.training_step(WINDOWS, 0)
        first = forcing.feeding(7, batch_size=24, window_size=4)
        second = forcing.feeding(7, batch_size=24, window_size=2, purpose="coins of prediction")
        parts = model(windows, None, first) - windows, model.predict(model.encode(windows), bars, second) - bars
    wanted = sum(weight * part.square().mean().item() for weight, part in zip((1, 3), parts, strict=True))
    assert loss.item() == pytest.approx(wanted)
    sizes = {"batch_size": 24, "window_size": 40}
    draws = [forcing.feeding(n, **sizes, purpose=one).coins for n in range(5) for one in ("coins", "x")]
    assert len({tuple(coins.tolist()) for coins in draws}) == 10


@pytest.mark.parametrize(
    ("bars", "message"),
    [
        (slice(4, 6), r"windows have 2 bars; they must have more than predictor\.horizon = 2"),
        (slice(0, 6), r"window 3 of the batch lacks its last 2 bars, which predictor\.horizon .* at their beginning"),
    ],
)
def test_windows_that_lack_the_bars_to_predict_are_refused(bars, message):
    present = torch.ones(24, 6, dtype=torch.bool)
    present[3, 4:] = False
    with pytest.raises(ValueError, match=message):
        as_batch([WINDOWS[:, bars], present[:, bars]], 2)


def test_windows_with_targets_are_refused_where_the_mask_should_be():
    module = plain_module()
    with pytest.raises(ValueError, match=r"mask is torch\.float32; it must be torch\.bool"):
        module.validation_step([WINDOWS, torch.zeros(24, 6)], 0)


NOT_NEEDED = """
import sys
from refold.training import losses, lr_schedule, seeds, teacher_forcing
print(*sys.modules)
"""


@pytest.mark.slow
def test_schedules_and_losses_do_without_lightning():
    loaded = subprocess.run(
        [sys.executable, "-c", NOT_NEEDED], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"lightning", "torchmetrics", "polars", "wandb", "hydra", "omegaconf"} & set(loaded)
    assert "torch" in loaded
