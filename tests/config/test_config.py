"""Every option of every group on disk composes, passes the check, builds, and takes a training step."""

from pathlib import Path

import lightning as L
import pytest
import torch
from composing import COMPOSING
from conftest import CONF, TINY, compose_run, slow_but
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from refold.config import build as config
from refold.config.validate import check
from refold.errors import ConfigError
from refold.launch.hardware import find_machine
from refold.library.reconstruction_baselines import fit_baselines, measure_baselines
from refold.library.run import load_run
from refold.report.figures import ReconstructionPictures
from refold.training.loggers import finish_loggers

GROUPS = (
    "bridge", "data", "data/corruption", "data/split", "decoder", "encoder", "experiment", "layers", "logger", "loss",
    "lr_schedule", "optimizer", "predictor", "score", "teacher_forcing", "threshold", "trainer",
)  # fmt: skip
NO_CHOICE = ("data/base", "predictor/base", "teacher_forcing/base", "sweep", "planted")
"""Folders of settings that options share or hold some of, and of files for other programs."""

OPTIONS = sorted((group, path.stem) for group in GROUPS for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["decoder=conditional", "optimizer.lr=0.3", "~decoder.reverse"],
        ["optimizer.lr=0.2", "+a.b=1", "data=csv", "data.path=x", "data/split=date"],
        ["experiment=decoder_study", "optimizer={lr: 3}", "hydra.run.dir=x"],
    ],
)
def test_what_tests_compose_is_what_hydra_composes(overrides, monkeypatch):
    def composed() -> dict:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", overrides=overrides, return_hydra_config=True)
        return OmegaConf.to_container(cfg, resolve=False)

    kept = [composed(), composed()]
    for owner, name in COMPOSING:
        monkeypatch.setattr(owner, name, getattr(owner, name).__wrapped__)
    assert kept == [composed()] * 2


def test_what_is_tested_is_what_is_on_disk():
    on_disk = {path.relative_to(CONF) for path in CONF.rglob("*.yaml")} - {Path("train.yaml")}
    tested = {Path(group) / f"{option}.yaml" for group, option in OPTIONS}
    shared = {path.relative_to(CONF) for folder in NO_CHOICE for path in (CONF / folder).glob("*.yaml")}
    assert tested | shared == on_disk
    assert len(OPTIONS) > 40


def inputs(option: str, folder: Path) -> list[str]:
    """What the options that read a file of the user's need beside their name."""
    import polars as pl

    from refold.data.sources import Stocks  # noqa: F401  the same bars as the default, from a file

    source = config.build_data(compose_run([])).source
    bars = source.load()
    if option in ("csv", "series"):
        bars.write_csv(folder / "bars.csv")
        return [f"data.path={folder / 'bars.csv'}"]
    if option == "excel":
        from tests.data.spreadsheets import write_xlsx

        path = write_xlsx(folder / "bars.xlsx", {"Prices": [bars.columns, *bars.rows()]})
        return [f"data.path={path}"]
    if option == "parquet":
        bars.write_parquet(folder / "bars.parquet")
        return [f"data.path={folder / 'bars.parquet'}"]
    if option == "sql":
        import sqlite3

        with sqlite3.connect(folder / "bars.db") as database:
            rows = bars.with_columns(pl.col("timestamp").cast(pl.String)).rows()
            columns = ", ".join(bars.columns)
            database.execute(f"CREATE TABLE bars ({columns})")
            database.executemany(f"INSERT INTO bars VALUES ({', '.join('?' * len(bars.columns))})", rows)
        return [f"data.uri=sqlite://{folder / 'bars.db'}", "data.source.query=SELECT * FROM bars"]
    return []


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=[f"{group}={option}" for group, option in OPTIONS])
def test_every_option_takes_a_training_step(group, option, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # no W&B key
    tiny = [setting for setting in TINY if not (group == "logger" and setting.startswith("logger"))]
    if group == "trainer":
        tiny = [setting for setting in tiny if not setting.startswith(("trainer.accelerator", "trainer.precision"))]
    overrides = [
        *tiny,
        "trainer.max_steps=1",
        f"{group}={option}",
        *(inputs(option, tmp_path) if group == "data" else []),
        *(["predictor=repeat"] if option in ("prediction", "composite") else []),
    ]
    if (group, option) in (("trainer", "gpu"), ("trainer", "ddp_fp16")) and not find_machine().gpus:
        with pytest.raises(ConfigError, match=r"this machine has no GPU: run with trainer=cpu|a CPU has no float16"):
            compose_run(overrides)
        return
    cfg = compose_run(overrides)
    assert check(cfg) == []
    if cfg.trainer.strategy == "ddp":  # in this process; the launcher's own tests start several
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        cfg.trainer.strategy = "auto"
    L.seed_everything(cfg.seed, verbose=False)
    data = config.build_data(cfg)
    data.setup()
    module = config.build_module(cfg, data.num_features)
    trainer = config.build_trainer(cfg, tmp_path, ReconstructionPictures(tmp_path))
    before = [weights.clone() for weights in module.parameters()]
    try:
        trainer.fit(module, datamodule=data)
    finally:
        finish_loggers(0)
    assert trainer.global_step == 1
    # the learning rate of a warm-up's very first step is 0
    moved = any(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
    assert moved or module.lr_schedule(0.0) == 0


def test_every_key_carries_a_comment_and_every_file_says_when_to_choose_it():
    for path in CONF.rglob("*.yaml"):
        text = path.read_text()
        head = [line for line in text.splitlines() if line.startswith("#") and not line.startswith("# @package")]
        assert head, f"{path} has no head"
        if path.parent.name not in ("base",) and path.name != "train.yaml":
            assert "python train.py" in text, f"{path} shows no command"


def test_a_run_comes_back_from_its_directory_bit_for_bit(run_dir):
    loaded = load_run(run_dir)
    data = config.build_data(loaded.config)
    data.setup()
    module = config.build_module(loaded.config, data.num_features)
    checkpoint = torch.load(run_dir / "checkpoints/best.ckpt", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    module.eval()
    windows = data.test_windows.gather(torch.arange(8))
    with torch.no_grad():
        assert torch.equal(loaded.autoencoder(windows), module(windows))
    assert loaded.features == data.feature_names
    assert torch.equal(loaded.scaler.transform(torch.ones(1, 5)), data.scaler.transform(torch.ones(1, 5)))
    assert OmegaConf.to_container(loaded.config)["layers"]["hidden_size"] == 8
    assert set(loaded.result["metrics"]) >= {"val/reconstruction_mse", "test/reconstruction_mse", "test/r2"}


@pytest.mark.parametrize("name", slow_but(["stocks"], ["stocks", "panel"]))
def test_with_a_linear_path_training_starts_at_the_error_of_pca(name):
    cfg = compose_run([*TINY, "bridge=latent_pca", "loss=mse", f"data={name}"])
    L.seed_everything(0, verbose=False)
    data = config.build_data(cfg)
    module = config.build_module(cfg, data.num_features)
    drawn = torch.get_rng_state()
    config.start_linear_path(module, data)
    assert torch.equal(torch.get_rng_state(), drawn)  # the training's random numbers are those without it
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    found = trainer.validate(module, data, verbose=False)[0]
    expected = measure_baselines(fit_baselines(module.autoencoder.code_size, cfg.seed, data), data)["pca"]
    for name in ("val/reconstruction_mse", "val/reconstruction_mae", "val/r2"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name


def test_the_panel_chooses_a_bridge_unless_told_otherwise():
    assert not compose_run([]).bridge.normalize_windows
    assert compose_run(["data=panel"]).bridge.normalize_windows
    assert compose_run(["experiment=panel"]).bridge.normalize_windows
    assert not compose_run(["data=panel", "bridge=latent"]).bridge.normalize_windows
    assert compose_run(["data=panel", "bridge=states"]).bridge._target_.endswith("StatesBridge")
    assert compose_run(["data=panel", "experiment=keras_states"]).bridge._target_.endswith("StatesBridge")


@pytest.mark.slow
def test_a_run_with_a_linear_path_comes_back_with_it(tiny_run, tmp_path):
    tiny_run("bridge.linear_path=pca")
    loaded = load_run(tmp_path / "run")
    learned = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(loaded.autoencoder.linear.to_code.weight, learned["autoencoder.linear.to_code.weight"])


def test_a_directory_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a finished run: there is no .*resolved\.yaml"):
        load_run(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no .*nowhere"):
        load_run(tmp_path / "nowhere")


BRINGS = {"autoregressive": "prefix", "conditional": "none", "repeat": "none"}
PINNED = {
    "keras_states": "constant", "teacher_forcing_ratio": "constant", "plain_autoencoder": "none",
    "zero_start_autoregressive": "none",
}  # fmt: skip
SCHEDULES = sorted(path.stem for path in (CONF / "teacher_forcing").glob("*.yaml"))


EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def test_the_experiments_that_pin_a_schedule_are_there():
    assert set(PINNED) < set(EXPERIMENTS)


@pytest.mark.slow
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("experiment", [None, *EXPERIMENTS])
@pytest.mark.parametrize("decoder", BRINGS)
def test_a_decoder_brings_its_schedule_and_what_is_named_wins(decoder, experiment, backwards):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for schedule in (None, *SCHEDULES):  # composing takes 0.1 s
            choices = {"decoder": decoder, "teacher_forcing": schedule, "experiment": experiment}
            chosen = [f"{group}={option}" for group, option in choices.items() if option]
            chosen = chosen[::-1] if backwards else chosen
            cfg = compose("train", overrides=chosen, return_hydra_config=True)
            wanted = schedule or PINNED.get(experiment, BRINGS[decoder])
            assert cfg.hydra.runtime.choices["teacher_forcing"] == wanted
            own = OmegaConf.load(CONF / "teacher_forcing" / f"{wanted}.yaml").schedule
            assert cfg.teacher_forcing.schedule._target_ == own._target_
            assert "teacher_forcing" not in cfg.decoder


def test_a_decoder_of_ones_own_brings_no_schedule():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["decoder=repeat", "decoder._target_=mine.Decoder"])
    assert cfg.teacher_forcing.schedule._target_.endswith("FreeRunning")
