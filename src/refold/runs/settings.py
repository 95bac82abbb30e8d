"""The settings of a run in resolved.yaml: written without secrets, read without doing what they say.

A reference to an environment variable, ${oc.env:NAME}, is written as it was given. Nobody who opens the directory later
has it resolved: a foreign file could name any variable. Values are given anew then, on the command line.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader  # it reads 1e-3 as a number, and refuses a key given twice
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

import refold
from refold import secrets
from refold.errors import ConfigError, first_line
from refold.runs.bounded_files import read_yaml_text
from refold.runs.directory import RESOLVED, write_atomically
from refold.runs.trust import EVERYTHING, refuse_foreign_parts


def open_run(cfg: DictConfig, directory: Path) -> None:
    """Make the run directory and write resolved.yaml into it, without secrets.

    Args:
        cfg: the run's configuration; a password or token in it becomes a reference to an environment variable of this
            process, which the processes of the job inherit.
        directory: the run directory.

    Raises:
        ConfigError: the directory cannot be written.
    """
    hide_secrets(cfg)
    try:
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_settings(cfg, directory / RESOLVED)
    except OSError as error:
        raise ConfigError(f"hydra.run.dir is {directory}; it cannot be written: {error.strerror}") from None


def write_settings(cfg: DictConfig, path: Path) -> None:
    """Write settings to a YAML file, without secrets.

    Args:
        cfg: the settings.
        path: the file; its folder exists.
    """
    write_atomically(path, OmegaConf.to_yaml(OmegaConf.create(to_writable(cfg))))


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration, or a section of one, as plain dicts and lists with all interpolations resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))


def override(cfg: DictConfig, setting: str) -> DictConfig:
    """Return a copy of a configuration in which one key has another value.

    Args:
        cfg: the configuration; it stays as it is.
        setting: KEY=VALUE, as on the command line.
    """
    return cast("DictConfig", OmegaConf.merge(cfg, OmegaConf.from_dotlist([setting])))


def to_writable(cfg: DictConfig) -> dict[str, Any]:
    """Return settings as plain values that may be written, printed and sent.

    Args:
        cfg: the settings.

    Returns:
        Interpolations are resolved, but for references to environment variables; other secrets are masked.
    """
    with _unresolved_environment():
        plain = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    return _map_texts(secrets.mask_settings(plain), lambda text: re.sub(r"\$env\{(\w+)\}", r"${oc.env:\1}", text))


def hide_secrets(cfg: DictConfig) -> None:
    """Replace each secret in a configuration by a reference to an environment variable, REFOLD_ and the key.

    The secrets, and those that references lead to, are remembered, so that messages and logs leave them out.

    Args:
        cfg: changed in place.
    """
    raw = OmegaConf.to_container(cfg, resolve=False)
    for path, value in _texts_below(raw, ()):
        key = ".".join(str(part) for part in path)
        secrets.remember(value)
        if secrets.holds_secret(value) or secrets.is_secret_entry(path[-1], value):
            if any(isinstance(part, int) for part in path):  # in a list, such as the arguments of the command line
                continue
            if not secrets.holds_secret(value):
                secrets.remember_value(value)
            OmegaConf.update(cfg, key, keep_in_environment(key, value), force_add=True)
    with contextlib.suppress(Exception):  # what does not resolve is the check's to refuse
        for _, value in _texts_below(OmegaConf.to_container(cfg, resolve=True), ()):
            secrets.remember(value)


def keep_in_environment(key: str, value: str) -> str:
    """Put the value of a setting into an environment variable of this process, and return the reference to it."""
    name = "REFOLD_" + re.sub(r"\W", "_", key).upper()
    os.environ[name] = value
    return f"${{oc.env:{name}}}"


def read_settings(path: Path, trust: Sequence[str] = ()) -> DictConfig:
    """Read the configuration in a resolved.yaml as data.

    Args:
        path: the file.
        trust: packages, modules or classes that its settings may build beside Refold's own; `EVERYTHING` for the file
            of a job that this user started.

    Returns:
        The configuration. References to environment variables are texts in it, as in $env{DATABASE_URL}, unless
        everything is trusted.

    Raises:
        ConfigError: the file cannot be read, is not the configuration of a run, or would build parts that are neither
            Refold's nor trusted.
    """
    plain = load_settings(path)
    if not isinstance(plain, dict) or "trainer" not in plain:
        raise ConfigError(f"{path} is not the configuration of a run")
    if tuple(trust) != EVERYTHING:
        plain = _as_data(plain, "", path)
        refuse_other_version(plain, path.parent)  # first: their parts had other names
        refuse_foreign_parts(plain, trust, path)
    try:
        return OmegaConf.create(plain)
    except OmegaConfBaseException as error:  # a key that is null, say
        raise ConfigError(f"{path} is not the configuration of a run: {str(error).splitlines()[0]}") from None


def refuse_other_version(plain: dict[str, Any], directory: Path) -> None:
    """Refuse a run that another version of Refold trained.

    Args:
        plain: its settings.
        directory: its run directory.

    Raises:
        ConfigError: it names both versions.
    """
    section = plain.get("run")
    version = section.get("version") if isinstance(section, dict) else None
    if version != refold.__version__:
        theirs = f"version {version} of Refold" if version else "a version of Refold before 0.2.0"
        raise ConfigError(
            f"{directory} is a run of {theirs}; this is version {refold.__version__}, which does not read it: train "
            f"again, or install the other version"
        )


def load_settings(path: Path) -> Any:
    """Load a YAML file of bounded size and depth, without aliases.

    Args:
        path: the file.

    Returns:
        Plain values.

    Raises:
        ConfigError: the file cannot be read, or is larger or deeper than any that Refold writes.
    """
    try:
        return yaml.load(read_yaml_text(path), get_yaml_loader())
    except (yaml.YAMLError, ValueError, OSError) as error:  # ValueError: not UTF-8, or a number of 5,000 digits
        raise ConfigError(f"{path} cannot be read: {first_line(error)}") from None


def refuse_withheld(settings: Any, path: str, how: str) -> None:
    """Refuse settings whose values were kept out of resolved.yaml, and ask for them.

    Args:
        settings: plain values, read from a run directory.
        path: the dotted key of these settings, for messages.
        how: the beginning of the command on which the value can be given anew.

    Raises:
        ConfigError: a value is a reference to an environment variable, or masked.
    """
    for parts, value in _texts_below(settings, (path,) if path else ()):
        if is_withheld(value):
            key = ".".join(str(part) for part in parts).replace("data.source.uri", "data.uri")
            shown = re.sub(r"\$env\{", "${oc.env:", value)
            again = shown if secrets.MASK not in shown else "..."
            raise ConfigError(
                f"{key} is {shown}; a run directory holds no passwords, and no environment variable that it names is "
                f"read. Give the value again: {how} {key}='{again}'"
            )


def give_all_anew(cfg: DictConfig, given: dict[str, str]) -> dict[str, str]:
    """Give the values that were kept out of resolved.yaml; see `give_anew`.

    Args:
        cfg: read from a run directory; changed in place.
        given: dotted key -> value, as on the command line.

    Returns:
        Those of the values that had not been kept out.
    """
    return {key: value for key, value in given.items() if not give_anew(cfg, key, value)}


def references_of(cfg: DictConfig) -> list[str]:
    """Return KEY=REFERENCE for each reference to the environment in a configuration, without repetitions."""
    texts = _texts_below({name: section for name, section in to_writable(cfg).items() if name != "run"}, ())
    found = {text: ".".join(map(str, path)) for path, text in reversed(list(texts)) if secrets.REFERENCE.search(text)}
    return [f"{key}={text}" for text, key in found.items()]


def is_withheld(value: Any) -> bool:
    """Return whether a value of a run directory stands for a secret that was not written."""
    return isinstance(value, str) and ("$env{" in value or secrets.MASK in value)


def give_anew(cfg: DictConfig, key: str, value: str) -> bool:
    """Give a value that was kept out of resolved.yaml, at its key and wherever the settings repeat it.

    Args:
        cfg: read from a run directory; changed in place.
        key: dotted.
        value: the value, or a reference to an environment variable.

    Returns:
        Whether the value of this key had been kept out.

    Raises:
        ConfigError: the environment variable is not set.
    """
    withheld = OmegaConf.select(cfg, key, default=None)
    if not is_withheld(withheld):
        return False
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":  # as Hydra reads a quoted text
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    for path, text in list(_texts_below(OmegaConf.to_container(cfg, resolve=False), ())):
        if text == withheld and all(isinstance(part, str) for part in path):
            OmegaConf.update(cfg, ".".join(str(part) for part in path), value)
    try:
        secrets.remember(str(OmegaConf.select(cfg, key)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from None
    return True


def _as_data(node: Any, key: str, where: Path) -> Any:
    """Return settings in which nothing is an interpolation."""
    if isinstance(node, dict):
        return {name: _as_data(value, f"{key}.{name}" if key else str(name), where) for name, value in node.items()}
    if isinstance(node, list):
        return [_as_data(value, f"{key}.{number}", where) for number, value in enumerate(node)]
    if not isinstance(node, str) or "${" not in node:
        return node
    text = secrets.REFERENCE.sub(lambda match: f"$env{{{match[1] or match[2]}}}", node)
    if "${" in text:
        raise ConfigError(f"{where}: {key} holds an interpolation, {node!r}; nothing in a run directory is resolved")
    return text


def _texts_below(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield all texts below a node, with the keys and numbers that lead to them."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _texts_below(value, (*path, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _texts_below(value, (*path, number))
    elif isinstance(node, str):
        yield path, node


def _map_texts(node: Any, change: Callable[[str], str]) -> Any:
    """Return nested dicts and lists with all texts changed."""
    if isinstance(node, dict):
        return {key: _map_texts(value, change) for key, value in node.items()}
    if isinstance(node, list):
        return [_map_texts(value, change) for value in node]
    return change(node) if isinstance(node, str) else node


@contextlib.contextmanager
def _unresolved_environment() -> Iterator[None]:
    """Let ${oc.env:NAME} resolve to itself in the block."""

    def itself(*parts: Any) -> str:
        return "${oc.env:" + ",".join("null" if part is None else str(part) for part in parts) + "}"

    OmegaConf.register_new_resolver("oc.env", itself, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
