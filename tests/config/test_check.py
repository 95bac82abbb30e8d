"""A configuration that cannot run is refused before any data is read, with all its mistakes and the nearest names."""

import pytest
from conftest import CONF, compose_run, slow_but
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from refold.config.explain import explain
from refold.config.mistakes import nearest
from refold.config.validate import check
from refold.errors import ConfigError


def mistakes(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check(compose_run(list(overrides), definite=False))
    return str(caught.value)


MISTAKES = [
    (["optimizer.lr=abc"], "optimizer.lr is 'abc'; it must be a valid number"),
    (["~optimizer.lr"], "optimizer.lr is missing; a run needs it"),
    (["drift.watch_years=0"], "drift.watch_years is 0; it must be greater than 0"),
    (["drift.watch_years=60"], "drift.retrain_years is 50.0; it must be at least drift.watch_years, which is 60"),
    (["optimizer.lr=-1"], "optimizer: Invalid learning rate: -1"),
    (["layers.hidden_size=0"], "encoder.hidden_size is 0; it must be at least 1"),
    (["layers.hidden_size=1.5"], "encoder.hidden_size is 1.5; it must be a valid integer"),
    (["decoder.dropout=1"], "decoder.dropout is 1; it must be in [0, 1)"),
    (["decoder.dropout=0.1"], "decoder.dropout is 0.1; it must be 0 with decoder.num_layers = 1"),
    (["decoder=conditional", "decoder.start_token=zero"], "must be one of zeros, learned; did you mean zeros?"),
    (["+decoder.hiddensize=3"], "RepeatDecoder has no such setting; did you mean hidden_size?"),
    (["~decoder.reverse"], "decoder.reverse is missing; RepeatDecoder needs it"),
    (["+sweep=wandb"], "sweep=wandb is no option: "),
    (["+sweep.skip_finshed=1"], "sweep.skip_finshed: there is no such key; did you mean skip_finished?"),
    (["+decodr.a=1"], "decodr: there is no such section; did you mean decoder?"),
    (["decoder._target_=refold.models.RepeatDecodr"], "has no 'RepeatDecodr'; did you mean RepeatDecoder?"),
    (["decoder._target_=refold.modls.RepeatDecoder"], "there is no module 'refold.modls'"),
    (["data=csv"], "data.path has no value; give one: data.path=..."),
    (["seed=-1"], "seed is -1; it must be in [0, 2147483647]"),
    (["checkpoint.monitor=val/r2"], "checkpoint.monitor is 'val/r2'; it must be one of val/reconstruction_mse,"),
    (["early_stopping.patience=0"], "early_stopping.patience is 0; it must be at least 1"),
    (["trainer.precision=bf16-mixd"], "did you mean bf16-mixed?"),
    (["trainer.max_epochs=many"], "trainer.max_epochs is 'many'; it must be a valid integer"),
    (["teacher_forcing=constant", "teacher_forcing.schedule.ratio=1.5"], "ratio is 1.5; it must be in [0, 1]"),
    (["teacher_forcing.coin=steps"], "did you mean step?"),
    (["teacher_forcing=linear", "teacher_forcing.schedule.steps=1.5"], "steps is 1.5; it must be "),
    (["teacher_forcing=cosine", "teacher_forcing.schedule.steps=0"], "steps is 0; it must be "),
    (["teacher_forcing=exponential", "teacher_forcing.schedule.half_life_steps=-0.1"], "half_life_steps is -0.1; "),
    (["teacher_forcing.input_dropout=1"], "teacher_forcing.input_dropout is 1; it must be in [0, 1)"),
    (["teacher_forcing.parallel_passes=2"], "it needs teacher_forcing.coin=sequence_step"),
    (["bridge=states", "decoder.num_layers=2"], "set decoder.num_layers=1"),
    (["bridge=states", "encoder=bilstm"], "equal to the size of an encoder state = 128"),
    (["score=planted", "score.width=4"], "score.width is 4; it must be odd"),
    (["score=planted", "score.kinds.wick.smallest=-1"], "kinds.wick.smallest is -1; it must be greater than 0"),
    (["score=planted", "score.kinds.wick.unit=moves"], "score.kinds.wick.unit is 'moves'; it must be one of move"),
    (["score=planted", "+score.kinds.wick.size=2"], "score.kinds.wick.size: Wick has no such setting"),
    (["score=planted", "score.kinds.wick.largest=1"], "planted.largest of 'wick' is 1; it must be at least its"),
    (["score=planted", "score.kinds.stale.name=wick"], "score.kinds has two kinds with the name 'wick'"),
    (["bridge.dropout=1"], "bridge.dropout is 1; it must be in [0, 1)"),
    (["bridge=latent_pca", "bridge.normalize_windows=true"], "bridge.linear_path is pca; with bridge.normalize"),
    (["data/corruption=hidden_bars", "data.corruption.share=1"], "data.corruption.share is 1; it must be in (0"),
    (["data/corruption=hidden_bars", "data.corruption.longest=0"], "data.corruption.longest is 0; it must be at"),
    (["data/corruption=planted_errors", "data.corruption.copies=0"], "data.corruption.copies is 0; it must be at"),
    (["data/corruption=planted_errors", "data.corruption.kinds.wick.smallest=-1"], "kinds.wick.smallest is -1"),
    (["data.corruption=hidden_bars"], "data.corruption is 'hidden_bars'; it must be"),
    (["data.shuffle_bars=often"], "data.shuffle_bars is 'often'; it must be a valid boolean"),
    (["bridge.linear_path=pcs"], "bridge.linear_path is 'pcs'; it must be one of none, pca; did you mean pca?"),
    (["trainer.devices=0"], "trainer.devices is 0; it must be at least 1"),
    (["trainer.devices=four"], "trainer.devices is 'four'; it must be"),
    (["trainer.devices=null"], "trainer.devices is None; it must be"),
    (["~optimizer"], "optimizer is missing; a run needs it"),
    (["optimizer.lr=${foo}"], "optimizer.lr: Interpolation key 'foo' not found"),
    (["~trainer.devices"], "trainer.devices is missing"),
    (["trainer.strategy=fsdp"], "trainer.strategy is 'fsdp'; it must be one of auto, ddp"),
    (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val is -1; it must be greater than 0"),
    (["trainer.log_every_n_steps=0"], "trainer.log_every_n_steps is 0; it must be at least 1"),
    (["trainer.max_epochs=0"], "trainer.max_epochs is 0; it must be at least 1, or -1"),
    (["trainer.max_epochs=-1"], "one of them must be a limit"),
    (["trainer.limit_train_batches=0"], "trainer.limit_train_batches is 0; it must be"),
    (["teacher_forcing.schedule=null"], "teacher_forcing.schedule is None; it must be an object"),
    (["optimizer.lr="], "optimizer.lr is ''; it must be a valid number"),
    (["data.window_size=0"], "data.window_size is 0; it must be at least 1"),
    (["optimizer.betas=[0.9]"], "optimizer.betas is [0.9]"),
    (["bridge.latent_dim=1000000000"], "bridge.latent_dim is 1000000000; training the model takes"),
    (["encoder.hidden_size=1000000"], "encoder.hidden_size is 1000000; training the model takes"),
    (["decoder.hidden_size=1000000000000"], "more memory than can be counted"),
    (["trainer.devices=100000", "trainer.accelerator=cpu"], "trainer.devices is 100000; this machine has"),
    (["predictor=repeat", "predictor.horizon=0"], "predictor.horizon is 0; it must be at least 1"),
    (["predictor=repeat", "predictor.horizon=2.5"], "predictor.horizon is 2.5; it must be a valid integer"),
    (["predictor=repeat", "predictor.weight=0"], "predictor.weight is 0; it must be greater than 0"),
    (["predictor=repeat", "~predictor.weight"], "predictor.weight is missing; a run with a predictor needs it"),
    (["predictor=repeat", "+predictor.horizn=3"], "predictor.horizn: there is no such key; did you mean horizon?"),
    (["predictor=repeat", "+predictor.decoder.reverse=true"],
     "predictor.decoder.reverse: RepeatDecoder has no such setting: the bars after a window are predicted from"),
    (["predictor=repeat", "predictor.decoder.dropout=0.1"], "predictor.decoder.dropout is 0.1; it must be 0 with"),
    (["predictor=conditional", "predictor.decoder.start_token=zero"], "did you mean zeros?"),
    (["logger.mode=of"], "logger.mode is 'of'; it must be one of auto, online, offline"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), slow_but(MISTAKES[::4], MISTAKES))
def test_one_mistake_is_named_with_value_bound_and_key(overrides, message):
    assert message in mistakes(*overrides)


def test_a_model_that_is_too_large_is_refused_with_the_largest_that_fits():
    text = mistakes("bridge.latent_dim=1000000000")
    largest = int(text.rpartition(" ")[2])
    assert check(compose_run([f"bridge.latent_dim={largest}"], definite=False)) == []
    assert "it must be at most" in mistakes(f"bridge.latent_dim={int(largest * 1.05)}")


def test_all_mistakes_are_listed_at_once():
    text = mistakes("optimizer.lr=abc", "loss=huber", "loss.delta=-1", "decoder.dropout=7", "data.stride=0")
    for path in ("optimizer.lr", "loss.delta", "decoder.dropout", "data.stride"):
        assert f"- {path} is" in text


def test_the_default_configuration_is_right():
    assert check(compose_run([], definite=False)) == []


def test_a_setting_without_effect_is_said():
    for setting in ("teacher_forcing=linear", "teacher_forcing.input_dropout=0.5"):
        (warning,) = check(compose_run(["decoder=repeat", setting], definite=False))
        assert warning.startswith("teacher_forcing has no effect")
    assert check(compose_run(["predictor=conditional", "teacher_forcing=linear"], definite=False)) == []


def test_an_interpolation_that_leads_nowhere_is_named():
    cfg = compose_run([])
    with open_dict(cfg):
        cfg.encoder.hidden_size = "${layers.hidden}"
    with pytest.raises(ConfigError, match=r"encoder\.hidden_size"):
        check(cfg)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["decodr=repeat"], "decodr: there is no such key; did you mean decoder?"),
        (["decoder=repat"], "decoder=repat: there is no such option; did you mean repeat?"),
        (["optimizer=null"], "a group takes the name of an option, such as optimizer=adamw"),
        (["decoder.=3"], "decoder.=3: it cannot be read as key=value"),
        (["run.id=a(1"], "run.id=a(1: it cannot be read as key=value"),
        (
            ["layers=one,two"],
            "layers=one,two: a run has one option of layers; a sweep of several runs is python train.py -m",
        ),
        (
            ["seed=0,1"],
            "seed=0,1: these are several values; with -m they are a sweep, in brackets a list, 'seed=[0,1]'",
        ),
        (["optimizer.learning_rte=1"], "optimizer.learning_rte: there is no such key"),
        (["score=planted", "+planted@score.kinds.x=wik"], "planted=wik: there is no such option; did you mean wick?"),
        (["predictor=repet"], "predictor=repet: there is no such option; did you mean repeat?"),
        (["predictor.horizon=3"], "predictor.horizon: there is no such key: predictor=none has no settings; choose"),
        (
            ["predictor=repeat", "predictor.decoder.reverse=true"],
            "predictor.decoder.reverse: there is no such key: the bars after a window are predicted from the first",
        ),
        (["threshold=spot", "threshold.rsk=1"], "threshold.rsk: there is no such key; did you mean threshold.risk?"),
        (["decoder=autoregressive", "decoder.start_tokn=zeros"], "did you mean decoder.start_token?"),
        (["+sweep=wandb", "threshold.shar=1"], "did you mean threshold.share?"),
        (["trainer.max_epoch=1"], "trainer.max_epoch: there is no such key; did you mean trainer.max_epochs?"),
    ],
)
def test_hydras_refusals_are_explained(overrides, message):
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(Exception) as caught:  # noqa: PT011
        compose("train", overrides=overrides)
    assert message in explain(caught.value, CONF)


def test_other_errors_are_not_explained_away():
    assert explain(ZeroDivisionError("a bug"), CONF) is None
    assert nearest("zzz", {"decoder", "encoder"}) == ""


def test_parts_that_the_check_built_are_those_that_the_run_uses(monkeypatch):
    from refold.config import build

    built = []
    instantiate = build._instantiate
    monkeypatch.setattr(
        build, "_instantiate", lambda cfg, path, **runtime: built.append(path) or instantiate(cfg, path, **runtime)
    )
    cfg = compose_run([])
    parts = build.Parts(cfg)
    check(cfg, parts)
    module = build.build_module(cfg, 5, parts)
    assert module.teacher_forcing is parts.teacher_forcing
    once = ("data", "teacher_forcing", "score", "threshold", "optimizer")
    assert {name: built.count(name) for name in once} == dict.fromkeys(once, 1)


def test_a_module_in_this_folder_is_said_to_be_found_with_pythonpath(tmp_path, monkeypatch):
    (tmp_path / "my_own_parts.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"no module 'my_own_parts', but there is one in this folder: set PYTHONPATH=\."
    ):
        check(compose_run(["decoder._target_=my_own_parts.Decoder"]))
