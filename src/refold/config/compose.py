"""Compose a configuration from conf/ in any process, and leave Hydra's global state as it was."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

import refold.config.build  # noqa: F401  registers the resolvers
from refold.config.arguments import quoted, quoted_mark
from refold.config.explain import explain
from refold.errors import ConfigError

CONF = Path(__file__).parents[1] / "conf"
"""The configuration: a link to conf/ in a checkout, the folder itself in a wheel."""

_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
_NOT_TEXTS = ("null", "true", "false", "nan", "inf", "on", "off", "yes", "no")


@contextmanager
def restored_hydra() -> Iterator[None]:
    """Set Hydra's global state aside for the block, so that a notebook may use Hydra itself, and bring it back."""
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before  # of another instance, if Hydra put one in its place


def compose_settings(overrides: Sequence[str], conf: Path = CONF) -> DictConfig:
    """Compose the configuration of a run, with Hydra's own section.

    Args:
        overrides: overrides as typed on the command line, such as "decoder=autoregressive" or "trainer.max_epochs=5".
        conf: folder of the options.

    Returns:
        What `refold train` would compose; `hydra.run.dir` and `hydra.runtime.choices` are among it.

    Raises:
        ConfigError: a key or an option does not exist, or an override cannot be read. It names the nearest valid name.
    """
    from hydra import compose, initialize_config_dir

    with restored_hydra():
        try:
            with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
                return compose("train", overrides=[quoted_mark(text) for text in overrides], return_hydra_config=True)
        except Exception as error:
            if message := explain(error, conf):
                raise ConfigError(message) from None
            raise


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Return a composed configuration without Hydra's own section, which is taken out in place."""
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return cfg


def as_overrides(groups: Mapping[str, Any], overrides: Sequence[str] = ()) -> list[str]:
    """Write settings that were given as Python values as overrides.

    Args:
        groups: group or key -> name of an option, value, or mapping of the group's keys to values, nested as in YAML.
        overrides: others, which the settings will be composed with. They stand last in the result.

    Returns:
        Overrides in Hydra's grammar, options before values.

    Raises:
        ConfigError: a value is of a kind that YAML does not have, or a key does not exist.
    """
    plain = {key: value for key, value in groups.items() if not isinstance(value, Mapping)}
    options = [f"{key}={_written(value, key)}" for key, value in plain.items()]
    mappings = {key: value for key, value in groups.items() if isinstance(value, Mapping)}
    leaves = [leaf for key, value in mappings.items() for leaf in value.items() if isinstance(leaf[1], Mapping)]
    # a mapping within a mapping is a section, whose keys are set one by one, or itself the value of a key
    composed = compose_settings([*options, *overrides]) if leaves else OmegaConf.create()
    return [*options, *_flat(mappings, "", composed), *overrides]


def kind_of_file(path: str) -> str:
    """Return the option of data that reads a file: csv, excel or parquet, which the end of its name tells.

    Args:
        path: path of the file, of a folder, or a pattern of files.
    """
    if Path(path).is_dir() or path.endswith((".parquet", ".pq")):
        return "parquet"
    return "excel" if path.lower().endswith((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")) else "csv"


def file_overrides(path: str) -> list[str]:
    """Return the overrides that choose a file as the data of a run.

    Args:
        path: path of a CSV file or a spreadsheet, or of a Parquet file, folder or pattern of files.
    """
    plain = re.fullmatch(r"[./]*[A-Za-z_][\w./-]*", path) and path.lower() not in _NOT_TEXTS
    return [f"data={kind_of_file(path)}", f"data.path={path if plain else quoted(path)}"]


def _flat(settings: Mapping[str, Any], path: str, composed: DictConfig) -> Iterator[str]:
    """Yield an override for each value of nested mappings."""
    for key, value in settings.items():
        name = f"{path}{key}"
        section = not path or OmegaConf.is_dict(OmegaConf.select(composed, name, default=None))
        if isinstance(value, Mapping) and section:
            yield from _flat(value, f"{name}.", composed)
        else:
            yield f"{name}={_written(value, name)}"


def _written(value: Any, name: str) -> str:
    """Write a value in Hydra's override grammar."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value  # of NumPy
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path | date):
        text = str(value)
        return text if _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXTS else quoted(text)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_written(key, name)}:{_written(part, name)}" for key, part in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(_written(part, name) for part in value) + "]"
    raise ConfigError(f"{name} is a {type(value).__name__}; it must be a text, a number, a list or a mapping of those")
