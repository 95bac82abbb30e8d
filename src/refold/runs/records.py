"""What run directories say of themselves: settings, status, metrics. Plain files only: no torch, no checkpoint."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from refold.errors import DataError
from refold.runs.directory import METRICS, RESOLVED, RESULT
from refold.runs.state import find_state

Status = Literal["finished", "running", "failed", "stopped", "cut", "not started"]
"""cut: it neither ended nor said why, as after `kill -9`. not started: it has settings and never began to train."""

NOISE = ("resume", "trust", "run", "logger", "sweep", "hydra")
"""Sections that do not decide what a run computes."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads 500 runs in 2 s, Python alone in 20


@dataclass(frozen=True)
class RunRecord:
    """One run. settings: dotted key -> value, and group -> chosen option. stated: those of them that the user chose.
    metrics: of best.ckpt, or the best so far of a run that has not finished. note: why it failed, or how far it is."""

    directory: Path
    id: str
    group: str | None
    status: Status
    note: str
    monitor: str
    settings: dict[str, Any]
    stated: tuple[str, ...]
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    fingerprint: str | None = None

    @property
    def seed(self) -> Any:
        """The seed that it was started with."""
        return self.settings.get("seed")


def find_runs(places: Sequence[str | Path], outputs: Path = Path("outputs")) -> list[RunRecord]:
    """Read all runs in or below some directories, in order of their names, each once.

    Args: places: directories, or `group=NAME` for the runs of that sweep anywhere below `outputs`.
    Raises: DataError: a place is no run and holds none, or a run cannot be read.
    """
    found: dict[Path, RunRecord] = {}
    for place in places:
        group = str(place).removeprefix("group=") if str(place).startswith("group=") else None
        directory = outputs if group is not None else Path(place)
        records = [read_run(path) for path in run_directories(directory)]
        if group is not None:
            # a sweep that went on where an earlier one stopped holds runs of that one
            records = [record for record in records if group in (record.group, record.directory.parent.name)]
        if not records:
            raise DataError(_nothing(place, directory, group))
        for record in sorted(records, key=lambda record: record.directory.is_symlink()):
            found.setdefault(record.directory.resolve(), record)
    return list(found.values())


def run_directories(directory: Path) -> list[Path]:
    """The directory itself if it is a run, else all runs below it; links to runs count, other links are not followed.

    A sweep that went on where an earlier one stopped holds links to the runs that were finished.
    """
    if (directory / RESOLVED).is_file():
        return [directory]
    if not directory.is_dir():
        return []
    return sorted(_below(directory), key=lambda path: [_natural(part) for part in path.parts])


def _below(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if (path / RESOLVED).is_file():
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _below(path)


def _natural(name: str) -> tuple[int, str]:
    """Sorts 2_... before 10_...: jobs of a sweep are numbered."""
    head = name.partition("_")[0]
    return (int(head) if head.isdigit() else -1, name)


def _nothing(place: str | Path, directory: Path, group: str | None) -> str:
    if not directory.is_dir():
        return f"{place}: there is no directory {directory}"
    if group is not None:
        return f"{place}: no run below {directory} is of that sweep"
    return f"{place} is not a run and holds none: there is no {RESOLVED} in it or below"


def read_run(directory: Path) -> RunRecord:
    """Read one run directory. Raises: DataError: its resolved.yaml or its result.json is broken."""
    cfg = _read_settings(directory / RESOLVED)
    choices = {group: option for group, option in cfg["run"]["choices"].items() if group not in NOISE}
    settings = {**choices, **{key: value for key, value in leaves(cfg) if key.partition(".")[0] not in NOISE}}
    overridden = [text.lstrip("+~").partition("=")[0] for text in cfg["run"]["overrides"]]
    monitor = cfg["checkpoint"]["monitor"]
    result = _read_result(directory / RESULT)
    state = find_state(directory)
    common = {
        "directory": directory,
        "id": cfg["run"]["id"],
        "group": cfg["run"]["group"],
        "monitor": monitor,
        "settings": settings,
        "stated": tuple(dict.fromkeys([*choices, *(key for key in overridden if key in settings)])),
    }
    if state.running or result is None:
        so_far = best_so_far(directory / METRICS, monitor)
        epoch = so_far.pop("epoch", None)
        began = state.began or epoch is not None
        status = "running" if state.running else state.ended or ("cut" if began else "not started")
        reached = "" if epoch is None else f"epoch {int(epoch) + 1} of {cfg['trainer']['max_epochs']}"
        return RunRecord(**common, status=status, note=state.reason or reached, metrics=so_far)
    measured = {name: result[name] for name in ("windows_per_s", "parameters", "epochs") if result.get(name)}
    return RunRecord(
        **common,
        status="finished",
        note="",
        metrics={name: value for name, value in {**result["metrics"], **measured}.items() if value is not None},
        baselines=result["baselines"],
        fingerprint=result["data_fingerprint"],
    )


def leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of all values below a node that are no mappings; lists are one value."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        cfg = yaml.load(path.read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    needed = {"run", "checkpoint", "trainer"}
    if not isinstance(cfg, dict) or not needed <= set(cfg) or not {"choices", "overrides", "id"} <= set(cfg["run"]):
        raise DataError(f"{path} is not the configuration of a run")
    return cfg


def _read_result(path: Path) -> dict[str, Any] | None:
    """The result of a run, or None if it has not written one. Raises: DataError: there is one, and it is broken."""
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is broken: {error}; leave {path.parent} out, or run it again") from None
    for key in ("metrics", "baselines", "data_fingerprint"):
        if not isinstance(result, dict) or key not in result:
            raise DataError(f"{path} is broken: it has no {key!r}; leave {path.parent} out, or run it again")
    return result


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """A metrics.csv as curves: name -> (step, value) where there is one. A row that is being written is left out."""
    curves: dict[str, list[tuple[int, float]]] = {}
    if not path.is_file():
        return curves
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                step = int(row["step"])
                values = [(name, float(value)) for name, value in row.items() if value and name != "step"]
            except (KeyError, TypeError, ValueError):
                continue
            for name, value in values:
                curves.setdefault(name, []).append((step, value))
    return curves


def best_so_far(path: Path, monitor: str) -> dict[str, float]:
    """The smallest monitored value in a metrics.csv, and the epoch that has been reached; without it, nothing."""
    curves = read_metrics(path)
    best = {"epoch": curves["epoch"][-1][1]} if curves.get("epoch") else {}
    values = [value for _, value in curves.get(monitor, []) if math.isfinite(value)]
    return best | ({monitor: min(values)} if values else {})
