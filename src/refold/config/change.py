"""Change a finished run's settings: another score, threshold, alignment or data."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from refold.config.arguments import quoted_mark
from refold.config.compose import compose_settings, kind_of_file
from refold.config.mistakes import nearest
from refold.config.validate import check_sections
from refold.errors import ConfigError
from refold.runs.settings import load_settings, override, to_plain

GROUPS = ("score", "threshold")
PREFIXES = ("score.", "threshold.", "drift.", "data.path", "data.uri", "data.source.", "data.checks.")
"""Settings that may be chosen anew. Features, window and layout are part of what the model was trained on."""


def choose_anew(cfg: DictConfig, settings: dict[str, str], conf: Path) -> DictConfig:
    """Return a run's configuration with some settings changed.

    `data.path` puts a file in the place of the run's source, whatever that was. How its table is read stays where the
    source was a file too; only its limits on dates do not.

    Args:
        cfg: configuration of a finished run; it stays as it is.
        settings: key -> value, as on the command line.
        conf: folder of the options.

    Returns:
        A changed copy, with all interpolations resolved.

    Raises:
        ConfigError: a key cannot be chosen anew or does not exist, or a value is out of bounds.
    """
    cfg = OmegaConf.create(to_plain(cfg))
    changed = set()
    for key, value in settings.items():
        if key in GROUPS:
            cfg[key] = compose_settings([f"{key}={value}"], conf)[key]
        elif key == "data.path":
            _read_file(cfg, value, conf)
        elif key != "alignment" and not key.startswith(PREFIXES):
            names = {*GROUPS, "alignment", *(prefix.rstrip(".") for prefix in PREFIXES), "run", "out", "device"}
            raise ConfigError(
                f"{key}: it cannot be chosen when scoring{nearest(key, names)}; the run keeps its settings"
            )
        head = ".".join(key.split(".")[:2]) if key.startswith("data.checks.") else key.partition(".")[0]
        changed.add("data.source" if head == "data" else head)  # not all of data: its class would bring Lightning
    for key, value in settings.items():
        if key in GROUPS or key == "data.path":
            continue
        if OmegaConf.select(cfg, key, default=KeyError) is KeyError:
            parent = key.rpartition(".")[0]
            names = OmegaConf.select(cfg, parent, default=None) or {}
            names = {f"{parent}.{name}" for name in names if not str(name).startswith("_")}
            raise ConfigError(f"{key}: there is no such key{nearest(key, names)}")
        cfg = override(cfg, quoted_mark(f"{key}={value}"))
    check_sections(cfg, sorted(changed))
    return cfg


def all_thresholds(cfg: DictConfig, conf: Path) -> dict[str, DictConfig]:
    """Return the configuration of every threshold.

    Args:
        cfg: configuration of a run, with its own threshold.
        conf: folder of the options.

    Returns:
        Name -> configuration. The run's own one has "(chosen)" in its name; the others have their defaults.
    """
    found = {}
    for path in sorted((conf / "threshold").glob("*.yaml")):
        option = load_settings(path)
        chosen = option["_target_"] == cfg.threshold["_target_"]
        found[f"{path.stem} (chosen)" if chosen else path.stem] = OmegaConf.create(
            {"threshold": cfg.threshold if chosen else option}
        )
    return found


def _read_file(cfg: DictConfig, path: str, conf: Path) -> None:
    """Make a file the run's source; the end of its name says of which kind it is."""
    own = cfg.data.source
    if "path" in own and "uri" in own:  # it reads files of all kinds
        own.path = cfg.data.path = str(Path(path).expanduser().absolute())
        own.uri = cfg.data.uri = None
        own.table.start = own.table.end = None
        return
    composed = compose_settings([f"data={kind_of_file(path)}", "data.path=x"], conf).data
    source = OmegaConf.create(to_plain(composed.source))
    if "path" in own and "table" in own:
        source.table = own.table
        source.table.start = source.table.end = None
    elif "table" in own:
        source.table.kind = own.table.kind
    if own["_target_"] == source["_target_"]:
        source = OmegaConf.merge(source, own, {"table": source.table})
    source.path = str(Path(path).expanduser().absolute())
    cfg.data.source = source
    cfg.data.path = source.path
