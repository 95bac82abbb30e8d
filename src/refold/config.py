"""From a composed configuration to objects: check all of it, then build. The only library file that knows Hydra.

`check` reads what the constructors declare (argument names, types, bounds), so a new class with its YAML is checked
without a line here. torch and lightning are imported inside the functions: completion and `--help` do without them.
"""

import difflib
import inspect
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from refold.bounds import complaint, within
from refold.errors import ConfigError, RefoldError
from refold.hardware import find_machine, plan
from refold.run import BEST_CHECKPOINT, METRICS, RESOLVED

if TYPE_CHECKING:
    import lightning as L

    from refold.data import Scaler, WindowDataModule
    from refold.models import Autoencoder
    from refold.training.module import AutoencoderModule

OmegaConf.register_new_resolver("unique", lambda purpose: secrets.token_hex(2), use_cache=True, replace=True)

GIVEN_AT_BUILD = {
    "encoder": {"input_size"},
    "bridge": {"encoder_num_layers", "encoder_state_size", "decoder_num_layers", "decoder_hidden_size"},
    "decoder": {"output_size", "conditioning_size"},
    "optimizer": {"params"},
    "checkpoint": {"directory"},
    "trainer": {"logger", "callbacks", "plugins", "use_distributed_sampler", "default_root_dir"},
    "logger": {"run_dir", "run_id", "settings", "group"},
}
"""Arguments that no YAML can give: they follow from the data, from other parts, or from the run."""

SECTIONS = ("data", "layers", "encoder", "bridge", "decoder", "teacher_forcing", "optimizer", "lr_schedule", "loss")
SECTIONS += ("trainer", "logger", "checkpoint", "early_stopping", "seed", "resume", "run")
HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_"}


def nearest(name: str, names: list[str] | set[str]) -> str:
    """ "; did you mean X?" for the valid name that looks most like a wrong one, or nothing."""
    found = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


# ---- check ------------------------------------------------------------------------------------------------------------


def check(cfg: DictConfig) -> list[str]:
    """Refuse a configuration that cannot run, before any data is read.

    Returns: warnings: settings that are valid and will have no effect.
    Raises: ConfigError: lists all mistakes at once, each with its YAML path, the bound, and the nearest valid name.
    """
    mistakes = list(_unreadable(cfg))
    if not mistakes:
        plain = to_plain(cfg)
        unknown = [key for key in plain if key not in SECTIONS]
        mistakes += [f"{key}: there is no such section{nearest(key, set(SECTIONS))}" for key in unknown]
        mistakes += _value_mistakes("seed", Annotated[int, within(0, 2**31 - 1)], plain["seed"])
        try:
            plain["trainer"] = plan(plain["trainer"], find_machine()).settings  # Lightning knows no precision=auto
        except RefoldError as error:
            mistakes.append(str(error))
        for section, node in plain.items():
            mistakes += _node_mistakes(node, section)
    if not mistakes:
        mistakes = list(_rule_mistakes(cfg, plain))
    if mistakes:
        unique = list(dict.fromkeys(mistakes))
        raise ConfigError("\n".join(unique) if len(unique) == 1 else "\n".join(f"- {line}" for line in unique))
    return list(_without_effect(plain))


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as resolved plain dicts and lists."""
    return OmegaConf.to_container(cfg, resolve=True)


def _unreadable(cfg: DictConfig) -> Iterator[str]:
    """Keys without a value, and interpolations that lead nowhere."""
    for path in sorted(OmegaConf.missing_keys(cfg)):
        yield f"{path} has no value; give one: {path}=..."
    if not OmegaConf.missing_keys(cfg):
        try:
            OmegaConf.to_container(cfg, resolve=True)
        except OmegaConfBaseException as error:
            yield f"{error.full_key or 'the configuration'}: {str(error).splitlines()[0]}"


def _node_mistakes(node: Any, path: str) -> Iterator[str]:
    """Mistakes of a node with a `_target_`, and of those below it."""
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
            yield f"{path}.{key}: {target.__name__} has no such setting{nearest(key, names)}"
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
            yield from _value_mistakes(f"{path}.{key}", hints[key], value)


def locate(dotted: str, path: str) -> Callable:
    """The class or function behind a dotted name. Raises: ConfigError: names the part that does not exist."""
    module_name, _, name = str(dotted).rpartition(".")
    try:
        module = import_module(module_name)
    except (ImportError, ValueError):
        raise ConfigError(f"{path} is {dotted}; there is no module {module_name!r}") from None
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


def _value_mistakes(path: str, hint: Any, value: Any) -> Iterator[str]:
    """Type by pydantic, bounds by what the annotation declares."""
    wrong = _type_complaint(hint, value) or complaint(hint, value)
    if wrong:
        choices = re.findall(r"'([^']+)'", wrong)
        yield f"{path} is {value!r}; {wrong}{nearest(value, choices) if isinstance(value, str) else ''}"


def _type_complaint(hint: Any, value: Any) -> str | None:
    from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

    try:
        adapter = TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except (
        PydanticSchemaGenerationError,
        PydanticUserError,
    ):  # a protocol or a forward reference: nothing to hold it to
        return None
    try:
        adapter.validate_python(_as_tuples(value) if "tuple" in str(hint) else value)
    except ValidationError as error:
        plain = [part["msg"] for part in error.errors() if part["type"] not in ("is_instance_of", "callable_type")]
        reasons = dict.fromkeys(plain or [part["msg"] for part in error.errors()])
        return " or ".join(reason.replace("Input should be", "it must be") for reason in reasons)
    return None


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(part) for part in value) if isinstance(value, list) else value


def _rule_mistakes(cfg: DictConfig, plain: dict[str, Any]) -> Iterator[str]:
    """Rules between parts, and what only a trial shows."""
    import torch

    for part in ("encoder", "decoder"):
        if plain[part].get("dropout") and plain[part].get("num_layers") == 1:
            yield f"{part}.dropout is {plain[part]['dropout']}; with {part}.num_layers = 1 there is nothing between layers"
    if plain["teacher_forcing"]["parallel_passes"] and plain["teacher_forcing"]["coin"] != "sequence_step":
        yield (
            f"teacher_forcing.parallel_passes is {plain['teacher_forcing']['parallel_passes']}; "
            f"it needs teacher_forcing.coin=sequence_step, other coins run fused without it"
        )
    try:
        _build_bridge(cfg)
    except RefoldError as error:
        yield str(error)
    try:  # torch's optimizers declare no bounds: let one look at its settings
        _instantiate(cfg, "optimizer")([torch.nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError) as error:
        yield f"optimizer: {error}"


def _without_effect(plain: dict[str, Any]) -> Iterator[str]:
    """Settings that the chosen parts do not use."""
    schedule = plain["teacher_forcing"]["schedule"]["_target_"].rpartition(".")[2]
    if plain["decoder"]["_target_"].endswith("RepeatDecoder") and schedule != "FreeRunning":
        yield "teacher_forcing has no effect: decoder=repeat is never fed a bar, neither the true one nor its own"


# ---- build ------------------------------------------------------------------------------------------------------------


def _instantiate(cfg: DictConfig, path: str, **runtime: Any) -> Any:
    """Build the object of a section; a constructor's refusal becomes a ConfigError."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        # Runtime arguments go past Hydra, which would take dicts among them for configuration and build what they name.
        factory = instantiate(cfg[path], _convert_="all", _partial_=True)
        return factory if cfg[path].get("_partial_") else factory(**runtime)
    except (InstantiationException, ValueError, TypeError, ImportError, MisconfigurationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, RefoldError):
            raise cause from None
        text = str(cause).strip().splitlines()[0]
        raise ConfigError(text if text.startswith(path) else f"{path}: {text}") from cause


def build_data(cfg: DictConfig) -> "WindowDataModule":
    """The data module; it reads nothing before `setup`."""
    return _instantiate(cfg, "data")


def build_autoencoder(cfg: DictConfig, num_features: int) -> "Autoencoder":
    """Encoder, bridge and decoder with fresh weights from torch's global generator. Args: num_features: F."""
    from refold.models import Autoencoder

    bridge = _build_bridge(cfg)
    encoder = _instantiate(cfg, "encoder", input_size=num_features)
    sizes = {"output_size": num_features, "conditioning_size": bridge.conditioning_size}
    return Autoencoder(encoder, bridge, _instantiate(cfg, "decoder", **sizes))


def _build_bridge(cfg: DictConfig) -> Any:
    return _instantiate(
        cfg,
        "bridge",
        encoder_num_layers=cfg.encoder.num_layers,
        encoder_state_size=cfg.encoder.hidden_size * (2 if cfg.encoder.bidirectional else 1),
        decoder_num_layers=cfg.decoder.num_layers,
        decoder_hidden_size=cfg.decoder.hidden_size,
    )


def build_module(cfg: DictConfig, num_features: int) -> "AutoencoderModule":
    """The LightningModule. Args: num_features: F."""
    from refold.training.module import AutoencoderModule

    return AutoencoderModule(
        build_autoencoder(cfg, num_features),
        num_features=num_features,
        loss=_instantiate(cfg, "loss"),
        teacher_forcing=_instantiate(cfg, "teacher_forcing"),
        optimizer=_instantiate(cfg, "optimizer"),
        lr_schedule=_instantiate(cfg, "lr_schedule"),
        seed=cfg.seed,
    )


def build_logger(cfg: DictConfig, run_dir: Path) -> Any:
    """The logger beside metrics.csv, or None. Its page shows the resolved configuration, choices and overrides."""
    return _instantiate(cfg, "logger", run_dir=run_dir, run_id=cfg.run.id, settings=to_plain(cfg), group=cfg.run.group)


def build_trainer(cfg: DictConfig, run_dir: Path) -> "L.Trainer":
    """Lightning's trainer, with our callbacks and loggers, writing into the run directory."""
    from refold.training.callbacks import AtomicCheckpointIO
    from refold.training.loggers import MetricsFile

    logger = build_logger(cfg, run_dir)
    return _instantiate(
        cfg,
        "trainer",
        logger=[MetricsFile(run_dir / METRICS), *([logger] if logger else [])],
        callbacks=build_callbacks(cfg, run_dir),
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # our loaders share the windows out themselves, and repeat none
        default_root_dir=run_dir,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def build_callbacks(cfg: DictConfig, run_dir: Path) -> list[Any]:
    """Checkpoints first: those after it may rely on what it has written."""
    from lightning.pytorch.callbacks import RichProgressBar

    from refold.training.callbacks import EpochReport, StopOnSignal

    checkpoints = _instantiate(cfg, "checkpoint", directory=run_dir / "checkpoints")
    bar = [RichProgressBar()] if sys.stdout.isatty() else []
    return [EpochReport(), *bar, *_instantiate(cfg, "early_stopping"), checkpoints, StopOnSignal(checkpoints)]


# ---- load -------------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """A trained run: its directory, its configuration, and what turns prices into reconstructions."""

    directory: Path
    config: DictConfig
    autoencoder: "Autoencoder"
    scaler: "Scaler"
    feature_names: list[str]


def load_run(path: str | os.PathLike) -> Run:
    """A run from its directory: the weights of best.ckpt, in evaluation mode on the CPU, and the scaler it was trained with.

    Args: path: a run directory, such as "outputs/latest".
    Raises: ConfigError: the directory, its resolved.yaml or its checkpoint is not there.
    """
    import torch

    from refold.data import Scaler

    directory = Path(path).resolve()
    settings, weights = directory / RESOLVED, directory / BEST_CHECKPOINT
    for needed in (directory, settings, weights):
        if not needed.exists():
            raise ConfigError(f"{path} is not a finished run: there is no {needed}")
    cfg = OmegaConf.load(settings)
    checkpoint = torch.load(weights, map_location="cpu", weights_only=True)
    data = checkpoint["WindowDataModule"]
    autoencoder = build_autoencoder(cfg, len(data["feature_names"]))
    prefix = "autoencoder."
    state = {
        key.removeprefix(prefix): value for key, value in checkpoint["state_dict"].items() if key.startswith(prefix)
    }
    autoencoder.load_state_dict(state)
    scaler = Scaler.from_state_dict(data["scaler"])
    return Run(directory, cfg, autoencoder.eval(), scaler, list(data["feature_names"]))


# ---- compose ----------------------------------------------------------------------------------------------------------


def explain(error: Exception, conf: Path) -> str | None:
    """What to tell the user about an error of Hydra's composition, with the nearest valid name; None if it is no such.

    Args: conf: the configuration folder, whose default composition knows the valid keys.
    """
    from hydra.errors import HydraException

    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    text = str(error).strip()
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, option = found.groups()
        options = sorted(file.stem for file in (conf / group).glob("*.yaml"))
        return f"{group}={option}: there is no such option{nearest(option, options)} It has: {', '.join(options)}"
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found.group(1)
        return f"{key}: there is no such key{nearest(key, _known_keys(conf))}"
    return text.splitlines()[0] if text else type(error).__name__


def _known_keys(conf: Path) -> set[str]:
    """Dotted names of all keys of the default composition, and of its groups."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        cfg = OmegaConf.to_container(compose("train"), resolve=False)

    def walk(node: dict[str, Any], path: str) -> Iterator[str]:
        for key, value in node.items():
            yield f"{path}{key}"
            if isinstance(value, dict):
                yield from walk(value, f"{path}{key}.")

    return {name for name in walk(cfg, "") if not name.rpartition(".")[2].startswith("_")}
