"""Validation, test and scoring run free: the reported error is the same when the decoder is denied the truth."""

import lightning as L
import pytest
import torch
from conftest import TINY, compose_run

from refold.config import build as config


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
