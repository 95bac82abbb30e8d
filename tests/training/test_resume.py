"""A run that was stopped and resumed ends where an uninterrupted one does, bit for bit."""

import csv
import os
import signal

import pytest
import torch
import wandb
from conftest import TINY, compose_run
from omegaconf import OmegaConf

from refold.cli import train
from refold.config import build as config
from refold.data import WindowDataModule
from refold.errors import ConfigError, Interrupted, RefoldError
from refold.library import evaluation as result
from refold.runs.resume import Resume
from refold.runs.settings import open_run
from refold.training.module import AutoencoderModule

SETTINGS = [
    "trainer.max_epochs=3",
    "layers=two",
    "encoder.dropout=0.2",
    "teacher_forcing=linear",
    "teacher_forcing.schedule.steps=0.8",  # a share: as many steps after a resume as before
    "teacher_forcing.input_dropout=0.3",
    "layers.hidden_size=4",
]


def stop_at(monkeypatch, step: int, number: int, times: int = 1) -> None:
    """Send one or several signals to this process during the training step before `step`."""
    plain_step = AutoencoderModule.training_step

    def training_step(self, batch, batch_idx):
        if self.global_step == step - 1:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return plain_step(self, batch, batch_idx)

    monkeypatch.setattr(AutoencoderModule, "training_step", training_step)


def last_weights(directory):
    return torch.load(directory / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "number", "others"),
    [
        (3, signal.SIGTERM, ["bridge=latent_pca"]),
        (10, signal.SIGINT, ["bridge=latent_pca"]),
        (14, signal.SIGINT, ["data/corruption=planted_errors", "data.corruption.copies=2"]),
        (10, signal.SIGTERM, ["predictor=autoregressive", "predictor.horizon=4"]),
        (
            10,
            signal.SIGINT,
            ["decoder=repeat", "bridge=latent_normalized", "data.shuffle_bars=true", "data/corruption=hidden_bars"],
        ),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(step, number, others, tiny_run, tmp_path, monkeypatch):
    settings, before = [*SETTINGS, *others], signal.getsignal(signal.SIGINT)
    _, whole = tiny_run(*settings, directory="whole")
    with monkeypatch.context() as patch:
        stop_at(patch, step, number)
        with pytest.raises(Interrupted, match=f"{signal.Signals(number).name}: stopped after optimizer step"):
            tiny_run(*settings, directory="halved")
    monkeypatch.setattr(config, "start_linear_path", None)  # a resumed run goes on from what it had learned
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "halved/result.json").exists()
    resume = Resume(str(tmp_path / "halved"))
    cfg = resume.config([])
    cfg.resume = str(resume.checkpoint)
    open_run(cfg, resume.directory)
    halved = train.train(cfg, resume.directory)
    expected, found = last_weights(tmp_path / "whole"), last_weights(tmp_path / "halved")
    assert all(torch.equal(weights, found[name]) for name, weights in expected.items())
    assert halved["metrics"] == whole["metrics"]
    rows = without_speed(tmp_path / "halved/metrics.csv")
    assert rows == without_speed(tmp_path / "whole/metrics.csv")
    ratios = [float(row["train/teacher_forcing_ratio"]) for row in rows if row.get("train/teacher_forcing_ratio")]
    steps = halved["optimizer_steps"]
    falling = [max(0.0, 1 - n / round(0.8 * steps)) for n in range(steps)]
    assert ratios == pytest.approx([] if "decoder=repeat" in others else falling)


def without_speed(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if not name.startswith("perf/")} for row in rows]


def test_a_signal_after_the_training_keeps_the_run(tiny_run, tmp_path, monkeypatch):
    def measure(*_):
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # a shell lets its background processes ignore it
    monkeypatch.setattr(result, "fit_baselines", measure)
    with pytest.raises(Interrupted, match=r"SIGINT: stopped, .*last\.ckpt is kept"):
        tiny_run()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_worker_that_is_told_twice_still_writes_its_checkpoint(tiny_run, tmp_path, monkeypatch):
    stop_at(monkeypatch, 3, signal.SIGTERM, times=2)
    monkeypatch.setattr(config, "is_worker", lambda: True)
    with pytest.raises(Interrupted, match="SIGTERM: stopped after optimizer step 3"):
        tiny_run()
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()


def test_a_signal_while_data_is_read_says_that_nothing_was_kept(tiny_run, monkeypatch):
    monkeypatch.setattr(WindowDataModule, "setup", lambda self, stage=None: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="SIGTERM: stopped, before the first checkpoint"):
        tiny_run()


def test_a_broken_checkpoint_is_named_and_the_result_stays(train_once):
    directory = train_once()
    (directory / "checkpoints/last.ckpt").write_bytes(b"not a checkpoint")
    resume = Resume(str(directory))
    cfg = resume.config([])
    cfg.resume = str(resume.checkpoint)
    open_run(cfg, resume.directory)
    with pytest.raises(ConfigError, match=r"last\.ckpt cannot be read as a checkpoint"):
        train.train(cfg, resume.directory)
    assert (directory / "result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["trainer.max_steps=3", "trainer.check_val_every_n_epoch=5"])
def test_a_training_that_ends_before_its_first_validation_has_a_best_checkpoint(limit, tiny_run, tmp_path):
    _, found = tiny_run(limit)
    assert (tmp_path / "run/checkpoints/best.ckpt").exists()
    assert found["metrics"]["test/reconstruction_mse"] > 0


def test_a_trainer_that_cannot_be_built_leaves_no_logger_open(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    others = [setting for setting in TINY if not setting.startswith("logger")]
    cfg = compose_run([*others, "logger=wandb", "+trainer.nonsense=1"])
    OmegaConf.update(cfg, "run.choices.decoder", "autoregressive", force_add=True)
    open_run(cfg, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"trainer: .*nonsense"):
        train.train(cfg, tmp_path / "run")
    assert wandb.run is None  # the next job of a sweep would log into it


def test_a_diverged_training_is_named(tiny_run):
    with pytest.raises(RefoldError, match=r"val/reconstruction_mse is nan, never a number: lower optimizer\.lr"):
        tiny_run("optimizer=sgd", "optimizer.lr=1e38", "trainer.gradient_clip_val=null", "lr_schedule=constant")


@pytest.mark.slow
def test_a_finished_run_can_be_trained_for_longer(tiny_run, tmp_path):
    settings = ["lr_schedule=constant", "teacher_forcing.schedule.steps=3"]  # a share would be of other steps
    tiny_run("trainer.max_epochs=1", *settings, directory="short")
    tiny_run("trainer.max_epochs=2", *settings, directory="long")
    resume = Resume(str(tmp_path / "short"))
    cfg = resume.config(["trainer.max_epochs=2"])
    cfg.resume = str(resume.checkpoint)
    open_run(cfg, resume.directory)
    assert train.train(cfg, resume.directory)["epochs"] == 2
    expected, found = last_weights(tmp_path / "long"), last_weights(tmp_path / "short")
    assert all(torch.equal(weights, found[name]) for name, weights in expected.items())


def test_checkpoints_hold_plain_values_only(run_dir):
    for name in ("best", "last"):
        assert torch.load(run_dir / f"checkpoints/{name}.ckpt", weights_only=True)["global_step"] > 0


@pytest.mark.slow
def test_the_same_seed_gives_the_same_losses_and_another_seed_others(tiny_run, tmp_path):
    settings = ["teacher_forcing=constant", "layers=two", "encoder.dropout=0.1"]
    runs = {
        name: tiny_run(*settings, f"seed={seed}", directory=name)[1] for name, seed in (("a", 1), ("b", 1), ("c", 2))
    }
    assert without_speed(tmp_path / "a/metrics.csv") == without_speed(tmp_path / "b/metrics.csv")
    assert runs["a"]["metrics"] != runs["c"]["metrics"]
