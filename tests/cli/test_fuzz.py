"""Every key of conf/ with odd values: each command line ends in success or in a message of ours, never a traceback."""

from pathlib import Path

import pytest
import yaml
from conftest import CONF, TINY, compose_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refold.cli import train
from refold.config.explain import explain
from refold.config.validate import check
from refold.errors import RefoldError
from refold.runs.settings import open_run

VALUES = [
    "", "null", "true", "off", "0", "-1", "-0.0", "3", "0.5", "1e-320", "1e400", "nan", "inf", "-inf", "4096",
    "99999999999999999999", "[]", "{}", "[1,2]", "[[[]]]", "{a: 1}", "[null]", "{_target_: nowhere}", "'a b'", "'a=b'",
    "a" * 300, "ü", "'\\x00'", "0x10", "1_000", "2020-13-45", "/dev/null", "../..", "'${nowhere}'", "'${'", "???",
    "'${oc.env:REFOLD_NOWHERE}'", "a,b", "'*'", "(1)", "!!python/none",
]  # fmt: skip
TARGETS = [
    "",
    "3",
    "nowhere",
    "nowhere.at.all",
    "torch.nowhere",
    "refold.models.decoders.decoder.Decoder",
    "[]",
    "null",
]
"""Of `_target_`: nothing that does harm when it is built."""


def leaves(node: object, path: str) -> list[str]:
    """Dotted names of all keys below a node, the inner ones too."""
    if not isinstance(node, dict):
        return []
    below = [name for key, value in node.items() for name in (f"{path}{key}", *leaves(value, f"{path}{key}."))]
    return [name for name in below if not name.rpartition(".")[2].startswith(("defaults", "_convert", "_recursive"))]


def keys_by_option() -> dict[str, list[str]]:
    """Keys by the override that brings them: `decoder=repeat`, or "" for those of train.yaml."""
    main = yaml.safe_load((CONF / "train.yaml").read_text())
    found = {"": [name for name in leaves(main, "") if not name.startswith(("hydra", "resume"))]}
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.parent.relative_to(CONF)
        if group.parts and group.name not in ("base", "sweep") and "@package" not in path.read_text():
            content = yaml.load(path.read_text(), yaml.CSafeLoader) or {}
            base = ["data.window_size", "data.stride", "data.features", "data.batch_size"] * (group.name == "data")
            found[f"{group.as_posix()}={path.stem}"] = leaves(content, ".".join(group.parts) + ".") + base
    return {option: keys for option, keys in found.items() if keys}


KEYS = keys_by_option()


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """An option, and one to three of its keys with odd values."""
    option = draw(st.sampled_from(sorted(KEYS)))
    arguments = [option] if option else []
    for key in draw(st.lists(st.sampled_from(sorted(KEYS[option])), min_size=1, max_size=2, unique=True)):
        value = draw(st.sampled_from(TARGETS if key.endswith("_target_") else VALUES))
        arguments.append(draw(st.sampled_from(["", "", "++"])) + f"{key}={value}")
    return arguments


def answer(arguments: list[str]) -> str | None:
    """The message with which a command line is refused; None if it is not. Any other error goes through."""
    try:
        check(compose_run(arguments, definite=False))
    except RefoldError as error:
        return str(error)
    except Exception as error:
        if message := explain(error, CONF):
            return message
        raise
    return None


def test_the_keys_are_those_on_disk():
    assert len(KEYS) > 50
    assert {"optimizer=adamw", "data/split=date", "trainer=auto", ""} <= KEYS.keys()
    assert "data.split.val_start" in KEYS["data/split=date"]


EXAMPLES = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=6, **EXAMPLES)
@given(arguments=command_lines())
def test_every_command_line_is_accepted_or_refused_in_words(arguments):
    message = answer(arguments)
    assert message is None or (message.strip() and "Traceback" not in message), arguments


@pytest.mark.slow
@settings(max_examples=94, **EXAMPLES)
@given(arguments=command_lines())
def test_so_are_many_more(arguments):
    test_every_command_line_is_accepted_or_refused_in_words.hypothesis.inner_test(arguments)


RUNS = st.lists(
    st.sampled_from(
        [
            "encoder=lstm", "decoder=repeat", "decoder=conditional", "bridge=states", "bridge=latent_pca", "layers=two",
            "teacher_forcing=linear", "loss=huber", "lr_schedule=constant", "optimizer=sgd", "optimizer.lr=100",
            "optimizer.lr=1e-30", "score=gauss_d", "score=latent_knn", "threshold=pot", "threshold=fdr",
            "alignment=last", "data.window_size=2", "data.window_size=2000", "data.batch_size=1", "data/split=date",
            "data.batch_size=100000", "data.features=[log_return]", "layers.latent_dim=1", "layers.latent_dim=500",
            "++trainer.limit_val_batches=1", "++trainer.limit_train_batches=0.0001", "seed=2147483647",
            "++trainer.gradient_clip_val=1e-9", "data=synthetic", "data.layout=multivariate", "threshold.share=0.5",
        ]
    ),
    min_size=1, max_size=3, unique_by=lambda text: text.partition("=")[0],
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=8, **EXAMPLES)
@given(arguments=RUNS)
def test_two_batches_end_in_a_result_or_in_words(tmp_path_factory: pytest.TempPathFactory, arguments: list[str]):
    run_dir: Path = tmp_path_factory.mktemp("run")
    keys = {argument.partition("=")[0] for argument in arguments}
    tiny = [setting for setting in TINY if setting.partition("=")[0] not in keys]
    try:
        cfg = compose_run([*tiny, "data.stride=64", "trainer.max_steps=2", *arguments])
        check(cfg)
        open_run(cfg, run_dir)
        assert train.train(cfg, run_dir)
    except RefoldError as error:
        assert str(error).strip()  # noqa: PT017  a result is as good
