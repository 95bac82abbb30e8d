"""Refuse a configuration that cannot run, before any data is read, with all its mistakes at once.

The constructors declare what is checked: argument names, types and bounds. A new class with its YAML is checked
without a line here. torch and lightning are imported inside the functions: completion and `--help` do without them.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from refold.bounds import at_least, more_than, within
from refold.config.build import Parts
from refold.config.memory import refuse_too_large
from refold.config.mistakes import nearest, value_mistakes
from refold.errors import ConfigError, RefoldError
from refold.launch.cluster import find_world
from refold.launch.hardware import find_machine, plan
from refold.runs.settings import to_plain

GIVEN_AT_BUILD = {
    "encoder": {"input_size"},
    "bridge": {"encoder_num_layers", "encoder_state_size", "decoder_num_layers", "decoder_hidden_size"},
    "decoder": {"output_size", "conditioning_size"},
    "data": {"horizon"},
    "predictor.decoder": {"output_size", "conditioning_size", "num_layers", "hidden_size", "reverse"},
    "optimizer": {"params"},
    "checkpoint": {"run_dir"},
    "trainer": {"logger", "callbacks", "plugins"},
    "logger": {"run_dir", "run_id", "settings", "group"},
}
"""Arguments that no YAML can give: they follow from the data, from other parts, or from the run."""

PREDICTOR: dict[str, Any] = {
    "horizon": Annotated[int, at_least(1)],
    "weight": Annotated[float, more_than(0)],
    "decoder": dict[str, Any],
}
"""Keys of a predictor, and their bounds."""

NO_SUCH_KEY = {
    "predictor.decoder.reverse": ": the bars after a window are predicted from the first to the last",
    "predictor": ": predictor=none has no settings; choose predictor=repeat, autoregressive or conditional",
}
"""Key, or section, of settings that one might expect -> why there are none."""

SECTIONS = (
    "data",
    "layers",
    "encoder",
    "bridge",
    "decoder",
    "predictor",
    "teacher_forcing",
    "optimizer",
    "lr_schedule",
    "loss",
)
SECTIONS += ("score", "threshold", "alignment", "drift", "evaluation")
SECTIONS += ("trainer", "logger", "checkpoint", "early_stopping", "seed", "resume", "trust", "run", "sweep")
SWEEP = ("skip_finished", "stop_on_failure")
HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_"}


def check(cfg: DictConfig, parts: Parts | None = None) -> list[str]:
    """Refuse a configuration that cannot run, before any data is read.

    Args:
        cfg: the composed configuration, with a section `run`.
        parts: the parts of the configuration; the check builds those whose constructors have rules of their own.
            None builds them for the check alone.

    Returns:
        Warnings: settings that are valid and will have no effect.

    Raises:
        ConfigError: lists all mistakes at once, each with its YAML path, the bound, and the nearest valid name.
    """
    plain: dict[str, Any] = {}
    mistakes = list(_foreign_sweep(cfg)) or list(_unreadable(cfg))
    if not mistakes:
        plain = to_plain(cfg)
        unknown = [key for key in plain if key not in SECTIONS]
        mistakes += [f"{key}: there is no such section{nearest(key, set(SECTIONS))}" for key in unknown]
        mistakes += [f"{section} is missing; a run needs it" for section in SECTIONS if section not in plain]
        mistakes += value_mistakes("seed", Annotated[int, within(0, 2**31 - 1)], plain.get("seed"))
        for name in SWEEP:
            mistakes += value_mistakes(f"sweep.{name}", bool, plain.get("sweep", {}).get(name))
        if "alignment" in plain:
            mistakes += _alignment_mistakes(plain["alignment"])
        mistakes += _predictor_mistakes(plain.get("predictor"))
        for section, node in plain.items():
            mistakes += _node_mistakes(node, section)
    if not mistakes:
        mistakes = list(_rule_mistakes(cfg, plain, parts or Parts(cfg)))
    if mistakes:
        unique = list(dict.fromkeys(mistakes))
        raise ConfigError("\n".join(unique) if len(unique) == 1 else "\n".join(f"- {line}" for line in unique))
    return list(_without_effect(plain))


def check_sections(cfg: DictConfig, sections: Sequence[str]) -> None:
    """Refuse mistakes in some sections of a configuration that has run before.

    Args:
        cfg: the configuration.
        sections: dotted names of the sections to look at.

    Raises:
        ConfigError: lists all mistakes.
    """
    everything = to_plain(cfg)
    plain = {section: reduce(dict.__getitem__, section.split("."), everything) for section in sections}
    mistakes = list(_alignment_mistakes(plain["alignment"])) if "alignment" in plain else []
    for section, node in plain.items():
        mistakes += _node_mistakes(node, section)
    if mistakes:
        raise ConfigError("\n".join(dict.fromkeys(mistakes)))


def check_values(cfg: DictConfig, bounds: Mapping[str, Any]) -> None:
    """Refuse values of the wrong type or out of bounds.

    Args:
        cfg: the configuration.
        bounds: dotted name of a key -> annotation, such as `Annotated[int, at_least(1)]`.

    Raises:
        ConfigError: lists all mistakes.
    """
    mistakes = [text for key, hint in bounds.items() for text in value_mistakes(key, hint, OmegaConf.select(cfg, key))]
    if mistakes:
        raise ConfigError("\n".join(mistakes))


def _alignment_mistakes(value: Any) -> Iterator[str]:
    from refold.scoring.alignment import Alignment

    yield from value_mistakes("alignment", Alignment, value)


def _predictor_mistakes(predictor: Any) -> Iterator[str]:
    """Yield the mistakes of `predictor` itself, which is null without one; its decoder is a part like the others."""
    if predictor is None:
        return
    if not isinstance(predictor, dict):
        yield f"predictor is {predictor!r}; it must be one of none, repeat, autoregressive, conditional"
        return
    yield from (
        f"predictor.{key}: there is no such key{nearest(key, set(PREDICTOR))}"
        for key in predictor
        if key not in PREDICTOR
    )
    for key, hint in PREDICTOR.items():
        if key in predictor:
            yield from value_mistakes(f"predictor.{key}", hint, predictor[key])
        else:
            yield f"predictor.{key} is missing; a run with a predictor needs it"


def _foreign_sweep(cfg: DictConfig) -> Iterator[str]:
    """Yield settings of `sweep` that are not its own; conf/sweep/wandb.yaml, taken for an option, brings some."""
    given = unresolved(cfg).get("sweep")
    unknown = [key for key in given if key not in SWEEP] if isinstance(given, dict) else []
    if "program" in unknown:
        yield (
            "sweep=wandb is no option: conf/sweep/wandb.yaml is a file for W&B, which takes it with wandb sweep "
            "--project refold conf/sweep/wandb.yaml; a sweep of Refold's own is python train.py -m KEY=A,B"
        )
        return
    yield from (f"sweep.{key}: there is no such key{nearest(key, set(SWEEP))}" for key in unknown)


def unresolved(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain dicts and lists, with interpolations as they were written."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=False))


def _unreadable(cfg: DictConfig) -> Iterator[str]:
    """Yield keys without a value, and interpolations that lead nowhere."""
    missing = [path for path, value in all_leaves(unresolved(cfg), "") if value == "???"]
    if missing:
        yield from (f"{path} has no value; give one: {path}=..." for path in missing)
        return
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        yield f"{error.full_key or 'the configuration'}: {str(error).splitlines()[0]}"


def all_leaves(node: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted names of all keys below a node, with their values."""
    for key, value in node.items():
        yield f"{path}{key}", value
        if isinstance(value, dict):
            yield from all_leaves(value, f"{path}{key}.")


def _node_mistakes(node: Any, path: str) -> Iterator[str]:
    """Yield the mistakes of a node with a `_target_`, and of the nodes below it."""
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        yield from _node_mistakes(value, f"{path}.{key}")
    if "_target_" not in node:
        return
    try:
        target = locate(node["_target_"], f"{path}._target_")
    except ConfigError as error:
        yield str(error)
        return
    given = {key: value for key, value in node.items() if key not in HYDRA_KEYS}
    signature = inspect.signature(target)
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    at_build = GIVEN_AT_BUILD.get(path, set())
    names = set(signature.parameters) - at_build
    for key in given:
        if key not in names and not accepts_any:
            why = NO_SUCH_KEY.get(f"{path}.{key}", nearest(key, names))
            yield f"{path}.{key}: {target.__name__} has no such setting{why}"
    for name, parameter in signature.parameters.items():
        optional = parameter.default is not parameter.empty or parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        )
        if name not in given and name not in at_build and not optional:
            yield f"{path}.{name} is missing; {target.__name__} needs it"
    hints = _hints(target)
    for key, value in given.items():
        if key in hints and not (isinstance(value, dict) and "_target_" in value):
            yield from value_mistakes(f"{path}.{key}", hints[key], value)


def locate(dotted: str, path: str) -> Callable:
    """Import the class or function behind a dotted name.

    Args:
        dotted: such as refold.models.LSTMEncoder.
        path: key that holds the name, for messages.

    Raises:
        ConfigError: names the part that does not exist.
    """
    module_name, _, name = str(dotted).rpartition(".")
    try:
        module = import_module(module_name)
    except (ImportError, ValueError) as error:
        missing = getattr(error, "name", None)
        inside = isinstance(error, ImportError) and missing not in (module_name, None)
        inside = inside and not module_name.startswith(f"{missing}.")  # what is missing is not a part of the name
        reason = f"it cannot be imported: {error}" if inside else f"there is no module {module_name!r}"
        top = module_name.partition(".")[0]
        if not inside and (Path(f"{top}.py").is_file() or Path(top, "__init__.py").is_file()):
            reason += ", but there is one in this folder: set PYTHONPATH=. so that Python looks here"
        raise ConfigError(f"{path} is {dotted}; {reason}") from None
    if not callable(getattr(module, name, None)):
        names = {key for key in vars(module) if not key.startswith("_")}
        raise ConfigError(f"{path} is {dotted}; {module_name} has no {name!r}{nearest(name, names)}")
    return getattr(module, name)


def _hints(target: Callable) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(function, include_extras=True)
    except NameError:  # a third-party annotation that exists for type checkers only
        return {}


def _rule_mistakes(cfg: DictConfig, plain: dict[str, Any], parts: Parts) -> Iterator[str]:
    """Yield mistakes against rules between parts, and those that only building a part shows."""
    import torch

    yield from _trainer_mistakes(plain["trainer"])
    for part in ("encoder", "decoder"):
        if plain[part].get("dropout") and plain[part].get("num_layers") == 1:
            dropout = plain[part]["dropout"]
            yield f"{part}.dropout is {dropout}; it must be 0 with {part}.num_layers = 1: it acts between layers"
    dropout = plain["predictor"] and plain["predictor"]["decoder"].get("dropout")
    if dropout and plain["decoder"].get("num_layers") == 1:
        yield f"predictor.decoder.dropout is {dropout}; it must be 0 with decoder.num_layers = 1"
    try:
        if too_large := refuse_too_large(cfg):
            yield too_large
    except RefoldError as error:
        yield str(error)
    # what a constructor alone knows of its arguments
    for name in ("teacher_forcing", "data", "score", "threshold", "drift", "evaluation"):
        try:
            getattr(parts, name)
        except RefoldError as error:
            yield str(error)
    score = vars(parts).get("score")  # as built above; absent if it was refused
    if score is not None and score.predicts and not plain["predictor"]:
        yield score.complaint_without_predictor()
    if "lr" not in plain["optimizer"]:  # torch has a default of its own for it
        yield "optimizer.lr is missing; a run needs it"
    try:  # torch's optimizers declare no bounds: let one look at its settings
        parts.optimizer([torch.nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError) as error:
        yield f"optimizer: {error}"


def _trainer_mistakes(trainer: dict[str, Any]) -> Iterator[str]:
    """Yield mistakes of the trainer's settings together, and on this machine."""
    for name in ("max_epochs", "max_steps"):
        if trainer[name] == 0:
            yield f"trainer.{name} is 0; it must be at least 1, or -1 for no limit"
    if trainer["max_epochs"] == trainer["max_steps"] == -1:
        yield "trainer.max_epochs and trainer.max_steps are both -1; one of them must be a limit"
    if trainer.get("fast_dev_run"):
        yield "trainer.fast_dev_run is set; such a run keeps no checkpoint: use trainer.max_steps=2 for a short one"
    for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
        limit = trainer.get(name)
        if isinstance(limit, int | float) and limit <= 0:
            yield f"trainer.{name} is {limit}; it must be greater than 0: a run needs at least one batch of each part"
    try:
        plan(trainer, find_machine(), find_world())
    except RefoldError as error:
        yield str(error)


def is_fed_bars(plain: dict[str, Any]) -> bool:
    """Check whether teacher forcing makes a difference to the decoder or to the predictor.

    Args:
        plain: the configuration.
    """
    decoders = {"decoder": plain["decoder"], "predictor.decoder": (plain.get("predictor") or {}).get("decoder")}
    return any(
        getattr(locate(decoder["_target_"], f"{path}._target_"), "fed_bars", True)
        for path, decoder in decoders.items()
        if decoder
    )


def _without_effect(plain: dict[str, Any]) -> Iterator[str]:
    """Yield warnings of settings that the chosen parts do not use."""
    forcing = plain["teacher_forcing"]
    schedule = forcing["schedule"]["_target_"].rpartition(".")[2]
    if not is_fed_bars(plain) and (schedule != "FreeRunning" or forcing["input_dropout"]):
        yield (
            "teacher_forcing has no effect: this decoder is never fed a bar; decoder=autoregressive and "
            "decoder=conditional are"
        )
    elif schedule == "FreeRunning" and forcing["coin"] != "step":
        yield f"teacher_forcing.coin={forcing['coin']} has no effect: no coin is ever tossed"
