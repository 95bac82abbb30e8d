"""Records of runs on disk: settings, status, metrics. Plain files only: no torch, no checkpoint.

A run directory may come from anywhere, so nothing in it may stop a comparison: a file that cannot be read, or a metric
that is no number, becomes a text in the run's record.
"""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from refold.errors import DataError, first_line
from refold.runs.bounded_files import PLAIN_LOADER, read_text, read_yaml_text
from refold.runs.directory import ASKED, METRICS, RESOLVED, RESULT
from refold.runs.state import find_state
from refold.secrets import mask_settings

Status = Literal["finished", "running", "failed", "stopped", "cut", "not started", "broken"]
"""cut: it neither ended nor said why, as after `kill -9`. not started: it has settings and never began to train.
broken: its settings or its result cannot be read."""

NOISE = ("resume", "trust", "run", "logger", "sweep", "hydra")
"""Sections that do not decide what a run computes."""

LARGEST_RESULT = 50_000_000
LARGEST_METRICS = 500_000_000
"""Bytes of a result.json and of a metrics.csv that are read: a hundred times what a usual run has."""


@dataclass(frozen=True)
class RunRecord:
    """One run, as read from its directory.

    Attributes:
        directory: the run directory.
        id: id of the run; the directory's name if the run has none.
        group: name of its sweep, if it was a job of one.
        status: the state of the run.
        note: why it failed or cannot be read, or how far it is.
        monitor: the metric that it was stopped and chosen by; None if its settings cannot be read.
        settings: dotted key -> value, and group -> chosen option; lists are texts.
        stated: those of the settings that the user chose.
        metrics: finite numbers, of best.ckpt, or the best so far of a run that has not finished.
        problems: the faults of its result, one short text each.
        fingerprint: fingerprint of the data; None if the result does not say.
    """

    directory: Path
    id: str
    group: str | None
    status: Status
    note: str
    monitor: str | None
    settings: dict[str, Any]
    stated: tuple[str, ...]
    metrics: dict[str, float]
    problems: tuple[str, ...] = ()
    fingerprint: str | None = None

    @property
    def seed(self) -> Any:
        """The seed that the run was started with."""
        return self.settings.get("seed")


def find_runs(places: Sequence[str | Path]) -> list[RunRecord]:
    """Read all runs in or below some directories, in order of their names, each once.

    Args:
        places: directories, or `group=NAME` for the runs of that sweep anywhere below outputs/.

    Raises:
        DataError: a place is no run and holds none.
    """
    found: dict[Path, RunRecord] = {}
    for place in places:
        group = str(place).removeprefix("group=") if str(place).startswith("group=") else None
        directory = Path("outputs") if group is not None else Path(place)
        records = [read_run(path) for path in run_directories(directory)]
        if group is not None:
            # a sweep that went on where an earlier one stopped holds runs of that one
            records = [record for record in records if group in (record.group, record.directory.parent.name)]
        if not records:
            raise DataError(_nothing(place, directory, group))
        for record in sorted(records, key=lambda record: record.directory.is_symlink()):
            found.setdefault(record.directory.resolve(), record)
    return list(found.values())


def find_jobs(directories: Sequence[Path]) -> list[RunRecord]:
    """Read the jobs of a sweep under the settings that each of them was asked for.

    A job that an earlier one has computed already is a link to that run; settings without effect may differ. Two jobs
    with equal settings are one record.

    Args:
        directories: run directories or links to them, in the order of the jobs.
    """
    found: dict[tuple, RunRecord] = {}
    for directory in directories:
        record, asked = read_run(directory), directory.with_name(directory.name + ASKED)
        if directory.is_symlink() and asked.is_file():
            with suppress(DataError):
                settings, stated = _settings_of(_read_settings(asked))
                record = replace(record, settings=settings, stated=stated)
        key = (directory.resolve(), *sorted((name, str(value)) for name, value in record.settings.items()))
        found.setdefault(key, record)
    return list(found.values())


def run_directories(directory: Path) -> list[Path]:
    """Return the directory itself if it is a run, else all runs below it.

    Links to runs count, other links are not followed: a sweep that went on where an earlier one stopped holds links to
    the runs that were finished.
    """
    if _is_run(directory):
        return [directory]
    if not directory.is_dir():
        return []
    return sorted(_below(directory), key=lambda path: [_natural(part) for part in path.parts])


def _is_run(directory: Path) -> bool:
    """Check whether a directory is a run; return True if it cannot be looked into, and let the record say so."""
    try:
        return (directory / RESOLVED).is_file()
    except OSError:
        return True


def _below(directory: Path) -> Iterator[Path]:
    """Yield all runs below a directory; a folder that cannot be listed is yielded, and its record says so."""
    try:
        inside = list(directory.iterdir())
    except OSError:
        yield directory
        return
    for path in inside:
        if _is_run(path):
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _below(path)


def _natural(name: str) -> tuple[int, str]:
    """Return a sort key that puts 2_... before 10_...: jobs of a sweep are numbered."""
    head = name.partition("_")[0]
    return (int(head) if head.isdecimal() and len(head) < 20 else -1, name)


def _nothing(place: str | Path, directory: Path, group: str | None) -> str:
    """Write the message for a place without runs."""
    if not directory.is_dir():
        return f"{place}: there is no directory {directory}"
    if group is not None:
        return f"{place}: no run below {directory} is of that sweep"
    return f"{place} is not a run and holds none: there is no {RESOLVED} in it or below"


def read_run(directory: Path) -> RunRecord:
    """Read one run directory; problems go into the record, and nothing is raised."""
    try:
        cfg = _read_settings(directory / RESOLVED)
        settings, stated = _settings_of(cfg)
        monitor = _text(cfg["checkpoint"]["monitor"])
    except DataError as error:
        return RunRecord(directory, _text(directory.name), None, "broken", _text(error, 500), None, {}, (), {})
    run = cfg["run"]
    group = run.get("group")
    record = RunRecord(
        directory=directory,
        id=_text(run.get("id") or directory.name),
        group=None if group is None else _text(group),
        status="finished",
        note="",
        monitor=monitor,
        settings=settings,
        stated=stated,
        metrics={},
    )
    state = find_state(directory)
    try:
        result = None if state.running else _read_result(directory / RESULT)
    except DataError as error:
        return replace(record, status="broken", note=_text(error, 500))
    if result is None:
        so_far = best_so_far(directory / METRICS, monitor)
        epoch = so_far.pop("epoch", None)
        began = state.began or epoch is not None
        status = "running" if state.running else state.ended or ("cut" if began else "not started")
        of = _text(settings.get("trainer.max_epochs", "?"))
        reached = "" if epoch is None else f"epoch {int(epoch) + 1} of {of}"
        return replace(record, status=status, note=_text(state.reason, 500) or reached, metrics=so_far)
    metrics, problems = _metrics_of(result)
    fingerprint = result.get("data_fingerprint")
    if not isinstance(fingerprint, str):
        problems.append(f"{RESULT} has no data_fingerprint")
    return replace(
        record,
        metrics=metrics,
        problems=tuple(problems),
        fingerprint=fingerprint if isinstance(fingerprint, str) else None,
    )


def _settings_of(cfg: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the settings that decide a run's result, dotted key -> value, and the keys that the user chose."""
    run = cfg["run"]
    given = run.get("choices")
    chosen = {str(group): option for group, option in given.items()} if isinstance(given, dict) else {}
    choices = {_text(group): _scalar(option) for group, option in chosen.items() if group not in NOISE}
    found = {_text(key): _scalar(value) for key, value in leaves(cfg) if key.partition(".")[0] not in NOISE}
    settings = {**choices, **found}
    overrides = run.get("overrides")
    texts = [text for text in overrides if isinstance(text, str)] if isinstance(overrides, list) else []
    overridden = [text.lstrip("+~").partition("=")[0] for text in texts]
    return settings, tuple(dict.fromkeys([*choices, *(key for key in overridden if key in settings)]))


def _metrics_of(result: dict[str, Any]) -> tuple[dict[str, float], list[str]]:
    """Return the metrics of a result that are finite numbers, and the problems of the others."""
    metrics, problems = {}, []
    reasons = result.get("missing")
    reasons = reasons if isinstance(reasons, dict) else {}
    for name, value in result["metrics"].items():
        if _is_finite(value):
            metrics[_text(name)] = value
        elif value is None and f"metrics.{name}" in reasons:
            problems.append(f"{_text(name)} has no value: {_text(reasons[f'metrics.{name}'])}")
        else:
            problems.append(f"{_text(name)} is {_text(json.dumps(value))}, not a finite number")
    counts = {name: result.get(name) for name in ("windows_per_s", "parameters", "epochs")}
    metrics |= {name: value for name, value in counts.items() if _is_finite(value) and value}
    return metrics | _alarms_of(result.get("detector")), problems


def _alarms_of(detector: Any) -> dict[str, float]:
    """Return the alarms of a result on test, over the time that suits its bars, and the share of flagged bars."""
    if not isinstance(detector, dict):
        return {}
    names = (f"test/alarms_per_asset_{detector.get('alarms_per')}", "test/flagged_share")
    return {name: detector[name] for name in names if _is_finite(detector.get(name))}


def _is_finite(value: Any) -> bool:
    """Check whether a value is a finite number that a float can hold."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _scalar(value: Any) -> Any:
    """Return a value that can be compared, hashed and shown; turn anything else into a text."""
    if value is None or isinstance(value, bool) or (_is_finite(value) and abs(value) < 2**63):
        return value
    return _text(value)


def _text(value: Any, most: int = 200) -> str:
    """Turn a value into one line of printable text, cut after `most` characters."""
    text = " ".join(str(value)[: 4 * most].split())
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return text if len(text) <= most else f"{text[:most]}..."


def leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of all values below a node that are no mappings; a list is one value."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _read_settings(path: Path) -> dict[str, Any]:
    """Read the settings of a run; raise DataError if they cannot be read."""
    try:
        cfg = yaml.load(read_yaml_text(path), PLAIN_LOADER)
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date in month 13
        raise DataError(f"{path.name} cannot be read: {first_line(error)}") from None
    sections = [cfg.get(name) for name in ("run", "checkpoint", "trainer")] if isinstance(cfg, dict) else [None]
    if not all(isinstance(section, dict) for section in sections) or not cfg["checkpoint"].get("monitor"):
        raise DataError(f"{path.name} is not the configuration of a run")
    return mask_settings(cfg)


def _read_result(path: Path) -> dict[str, Any] | None:
    """Read the result of a run; return None if there is none yet, and raise DataError if it is broken."""
    try:
        result = json.loads(read_text(path, LARGEST_RESULT))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is broken: {first_line(error)}; leave this run out, or run it again") from None
    if not isinstance(result, dict) or not isinstance(result.get("metrics"), dict):
        raise DataError(f"{path.name} is broken: it has no 'metrics'; leave this run out, or run it again")
    return result


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Read a metrics.csv as curves; a row that is being written, or is broken, is left out.

    Args:
        path: the file; without it there are no curves.

    Returns:
        Name -> (optimizer step, value) of each row that has a value.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    if not path.is_file() or path.stat().st_size > LARGEST_METRICS:
        return curves
    with suppress(OSError, csv.Error), path.open(newline="", errors="replace") as file:
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
    """Return the smallest monitored value in a metrics.csv, and the epoch that has been reached.

    Args:
        path: the file; without it the answer is empty.
        monitor: name of the value.

    Returns:
        "epoch" and the monitor, each as far as there.
    """
    curves = read_metrics(path)
    epochs = [value for _, value in curves.get("epoch", []) if math.isfinite(value)]
    best = {"epoch": epochs[-1]} if epochs else {}
    values = [value for _, value in curves.get(monitor, []) if math.isfinite(value)]
    return best | ({monitor: min(values)} if values else {})
