"""Refuse run directories whose settings would build other parts than those that conf/ names.

A run directory is data: people copy it from colleagues and download it. A `_target_` in it names a class to import and
to call, so each is looked at before anything is imported.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

import refold
from refold.errors import ConfigError
from refold.runs.bounded_files import PLAIN_LOADER

EVERYTHING: Final = ("*",)
"""Trust for settings that this user composed: those of a job, in the processes that its parent started."""

_CONF = Path(refold.__file__).parent / "conf"


def refuse_foreign_parts(settings: dict[str, Any], trust: Sequence[str], where: Path) -> None:
    """Refuse settings that would build anything but Refold's own parts, or build them in odd places.

    Args:
        settings: plain values, as they are read from a run directory.
        trust: names of packages, modules or classes that the user trusts beside Refold's parts.
        where: the file, for messages.

    Raises:
        ConfigError: a `_target_` stands where Refold's options have none, or names a part that is not trusted.
    """
    if tuple(trust) == EVERYTHING:
        return
    for path, node in _mappings(settings, ""):
        own = {key for key in node if isinstance(key, str) and key.startswith("_")}
        if not own:
            continue
        target = node.get("_target_")
        if isinstance(target, str) and any(target == name or target.startswith(f"{name}.") for name in trust):
            continue
        places = known_parts()
        if path not in places:
            raise ConfigError(f"{where}: {path or 'it'} holds a {min(own)} ({target}), and no part has its place there")
        targets, keys = places[path]
        if not isinstance(target, str) or target not in targets:
            raise ConfigError(
                f"{where}: {path}._target_ is {target}, which is not one of Refold's parts for {path}; a run directory "
                f"may build a part of your own only if you say so: {advice(target)}"
            )
        if odd := sorted(own - keys):
            raise ConfigError(f"{where}: {path}.{odd[0]} is not a setting of {target}")


def advice(target: Any) -> str:
    """Return the argument that trusts a part: `trust=` and its top package."""
    return f"trust={str(target).partition('.')[0]}"


def parts_of(settings: Any) -> list[str]:
    """Return the names of all parts that settings build, sorted; a run with the same settings may be trusted so."""
    return sorted({str(node["_target_"]) for _, node in _mappings(settings, "") if "_target_" in node})


@functools.cache
def known_parts() -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """Read conf/ for the places where options have a `_target_`.

    Returns:
        Dotted path -> the targets that stand there, and the keys beginning with an underscore that stand beside them.
    """
    found: dict[str, tuple[set[str], set[str]]] = {}

    def add(content: Any, place: str) -> None:
        for path, node in _mappings(content, place):
            if "_target_" in node:
                targets, keys = found.setdefault(path, (set(), set()))
                targets.add(node["_target_"])
                keys.update(key for key in node if key.startswith("_"))

    for file in sorted(_CONF.rglob("*.yaml")):
        folder = file.relative_to(_CONF).parent
        if folder.name in ("base", "sweep"):  # mounted by options; a file for W&B
            continue
        text = file.read_text()
        content = yaml.load(text, PLAIN_LOADER)
        place = "" if "@package _global_" in text else ".".join(folder.parts)
        for option, mount in _mounted(content.pop("defaults", [])):
            base = _CONF / option.removeprefix("/") if option.startswith("/") else _CONF / folder / option
            below = "" if mount == "_here_" else mount
            option_settings = yaml.load(base.with_suffix(".yaml").read_text(), PLAIN_LOADER)
            add(option_settings, ".".join(filter(None, [place, below])))
        content.pop("hydra", None)
        add(content, place)
    return {path: (frozenset(targets), frozenset(keys)) for path, (targets, keys) in found.items()}


def _mounted(defaults: list[Any]) -> Iterator[tuple[str, str]]:
    """Yield options of a defaults list that stand at a place of their own, and the place.

    An entry is a text, `base/table@source.table`, or names a group and its option, `/planted@kinds.wick: wick`.
    """
    for entry in defaults:
        if isinstance(entry, str) and "@" in entry:
            option, mount = entry.split("@")
            yield option, mount
        elif isinstance(entry, dict):
            for group, name in entry.items():
                if "@" in group and not group.startswith("override "):
                    option, mount = group.split("@")
                    yield f"{option}/{name}", mount


def _mappings(node: Any, path: str) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield every mapping at or below a node with its dotted path; entries of lists are numbered."""
    if isinstance(node, dict):
        yield path, node
        entries = node.items()
    elif isinstance(node, list):
        entries = enumerate(node)
    else:
        return
    for key, value in entries:
        yield from _mappings(value, f"{path}.{key}" if path else str(key))
