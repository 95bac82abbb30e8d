"""A finished run's settings with another score, threshold, alignment or data, for the scripts that use runs."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from refold.cli.command import progress_bar
from refold.config.check import check_sections, nearest
from refold.data.long.ordered import OrderedBars, read_sorted
from refold.data.sources.base import Source, batches_of
from refold.errors import ConfigError
from refold.scoring.detector import Detector
from refold.scoring.scan import refuse_unlike

GROUPS = ("score", "threshold")
PREFIXES = ("score.", "threshold.", "data.path", "data.uri", "data.source.", "data.checks.")
"""What may be chosen anew. Features, window and layout are part of what the model was trained on."""


def choose_anew(cfg: DictConfig, settings: dict[str, str], conf: Path) -> DictConfig:
    """The configuration with some settings on top.

    `data.path` puts a file in the place of the run's source, whatever that was; how its table is read stays, where the
    source was a file too, but for the dates that it is limited to.

    Args: cfg: of a finished run. settings: key -> value as on the command line. conf: the folder of the options.
    Raises: ConfigError: a key cannot be chosen anew or does not exist, or a value is out of bounds.
    """
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    changed = set()
    for key, value in settings.items():
        if key in GROUPS:
            cfg[key] = _compose(conf, [f"{key}={value}"])[key]
        elif key == "data.path":
            _read_file(cfg, value, conf)
        elif key != "alignment" and not key.startswith(PREFIXES):
            names = {*GROUPS, "alignment", *(prefix.rstrip(".") for prefix in PREFIXES), "run", "out", "device"}
            raise ConfigError(
                f"{key}: it cannot be chosen when scoring{nearest(key, names)}; the run keeps its settings"
            )
        changed.add(key.partition(".")[0])
    for key, value in settings.items():
        if key in GROUPS or key == "data.path":
            continue
        if OmegaConf.select(cfg, key, default=KeyError) is KeyError:
            parent = key.rpartition(".")[0]
            names = OmegaConf.select(cfg, parent, default=None) or {}
            names = {f"{parent}.{name}" for name in names if not str(name).startswith("_")}
            raise ConfigError(f"{key}: there is no such key{nearest(key, names)}")
        cfg = OmegaConf.merge(cfg, OmegaConf.from_dotlist([f"{key}={value}"]))
    check_sections(cfg, sorted(changed))
    return cfg


def all_thresholds(cfg: DictConfig, conf: Path) -> dict[str, DictConfig]:
    """Configurations of every threshold: name -> with its defaults alone, the chosen one as it was chosen."""
    found = {}
    for path in sorted((conf / "threshold").glob("*.yaml")):
        option = OmegaConf.load(path)
        chosen = option["_target_"] == cfg.threshold["_target_"]
        found[f"{path.stem} (chosen)" if chosen else path.stem] = OmegaConf.create(
            {"threshold": cfg.threshold if chosen else option}
        )
    return found


@contextmanager
def taken_up(detector: Detector, source: Source, folder: Path) -> Iterator[OrderedBars]:
    """Within, all bars of a source, in order, kept in a folder below this one.

    Raises: DataError: they cannot be read, or the run's model cannot judge them.
    """
    work = folder / "bars"
    work.mkdir()
    with progress_bar(None, "bars read") as progress:
        bars = read_sorted(batches_of(source), detector.recipe.checks, work, progress)
    refuse_unlike(detector, bars, str(source))
    yield bars
    shutil.rmtree(work)


def _read_file(cfg: DictConfig, path: str, conf: Path) -> None:
    """Let the data be a CSV or Parquet file, by the name's end."""
    parquet = Path(path).is_dir() or path.endswith((".parquet", ".pq"))
    composed = _compose(conf, [f"data={'parquet' if parquet else 'csv'}", "data.path=x"]).data
    source = OmegaConf.create(OmegaConf.to_container(composed, resolve=True)["source"])
    own = cfg.data.source
    if "path" in own and "table" in own:
        source.table = own.table
        source.table.start = source.table.end = None
    if own["_target_"] == source["_target_"]:
        source = OmegaConf.merge(source, own, {"table": source.table})
    source.path = str(Path(path).expanduser().absolute())
    cfg.data.source = source
    cfg.data.path = source.path


def _compose(conf: Path, overrides: list[str]) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
        return compose("train", overrides=overrides)
