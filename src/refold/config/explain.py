"""Explain what Hydra refuses when it composes a configuration: in one message, with the nearest valid name."""

import re
import traceback
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from refold.config.mistakes import nearest
from refold.config.validate import NO_SUCH_KEY, all_leaves, unresolved


def explain(error: Exception, conf: Path) -> str | None:
    """Explain an error of Hydra's composition in one message with the nearest valid name.

    Args:
        error: the error that was raised.
        conf: folder of the configuration, whose default composition knows the valid keys.

    Returns:
        The message; None if the error is of another kind.
    """
    from hydra.errors import HydraException, OverrideParseException

    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        names = {frame.name for frame in frames}
        if "run_job" in names and "train" not in names:
            return f"hydra.run.dir: {error.filename or 'the run directory'} cannot be written: {error.strerror}"
    if isinstance(error, ValueError) and isinstance(error.__cause__, OSError):  # Hydra could not open its log there
        cause = error.__cause__
        return f"hydra.run.dir: {cause.filename or 'the run directory'} cannot be written: {cause.strerror}"
    composing = isinstance(error, ValueError) and bool(frames) and "hydra/_internal" in frames[-1].filename
    if not composing and not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    text = str(error).strip()
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, option = found.groups()
        options = sorted(file.stem for file in (conf / group).glob("*.yaml"))
        return (
            f"{group}={option}: there is no such option{nearest(option, options) or '.'} It has: {', '.join(options)}"
        )
    if found := re.search(r"Could not override '([^']+)'", text):
        key, known = found.group(1), _known_keys(error, conf)
        if key in known:
            return f"{key}: it has no options to choose from; set its keys: python train.py --cfg job shows them"
        why = NO_SUCH_KEY.get(key) or NO_SUCH_KEY.get(key.partition(".")[0], nearest(key, known))
        return f"{key}: there is no such key{why}"
    if found := re.search(r"Ambiguous value for argument '(\S+?)=(.*)'", text):
        key, value = found.groups()
        if (conf / key).is_dir():
            sweep = f"python train.py -m {key}={value}"
            return f"{key}={value}: a run has one option of {key}; a sweep of several runs is {sweep}"
        return (
            f"{key}={value}: these are several values; with -m they are a sweep, in brackets a list, "
            f"'{key}=[{value}]', in quotes a text, '{key}=\"{value}\"'"
        )
    if isinstance(error, OverrideParseException):
        return f"{error.override}: it cannot be read as key=value; quote odd values: 'key=\"a, b\"'"
    if composing:
        return f"{text.splitlines()[0]}: a group takes the name of an option, such as optimizer=adamw"
    return text.splitlines()[0] if text else type(error).__name__


def _known_keys(error: Exception, conf: Path) -> set[str]:
    """Return the dotted names of all keys, and of their groups, of the options that were chosen.

    Hydra sets keys one by one in the configuration that it made of these options, and its exception keeps that
    configuration alive. Where Hydra failed before it had one, the keys are those of the default options.
    """
    made = [
        frame for frame, _ in traceback.walk_tb(error.__traceback__) if "hydra/_internal" in frame.f_code.co_filename
    ]
    found = [frame.f_locals["cfg"] for frame in made if isinstance(frame.f_locals.get("cfg"), DictConfig)]
    keys = {name for name, _ in all_leaves(unresolved(found[-1] if found else _default_composition(conf)), "")}
    return {name for name in keys if not name.startswith("hydra") and not name.rpartition(".")[2].startswith("_")}


def _default_composition(conf: Path) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        return compose("train")
