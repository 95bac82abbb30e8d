"""Imports go one way: a room imports only rooms below it, and modules have no circles, not even of annotations."""

import ast
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

SRC = ROOT / "src"
FLOORS = (
    ("api",),
    ("cli",),
    ("library", "studies"),
    ("report", "export", "live"),
    ("config",),
    ("scoring", "training", "launch", "runs", "models", "data"),
    ("program", "bounds", "errors", "secrets"),
)
"""Folders and modules of `refold`, from the highest to the lowest."""


def _modules() -> dict[str, ast.Module]:
    """Every module of the package but its root, which imports lazily what it shows."""
    named = {path: path.relative_to(SRC).with_suffix("").parts for path in (SRC / "refold").rglob("*.py")}
    names = {path: ".".join(part for part in parts if part != "__init__") for path, parts in named.items()}
    return {name: ast.parse(path.read_text()) for path, name in names.items() if name.count(".")}


def _imported(tree: ast.Module) -> set[str]:
    """Full names of what a module imports, anywhere in it: `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Module -> full names of what it imports."""
    return {name: _imported(tree) for name, tree in _modules().items()}


def test_a_room_imports_only_rooms_below_it(imports):
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    rooms: dict[str, set[str]] = {}
    for name, others in imports.items():
        room = name.split(".")[1]
        below = {other.split(".")[1] for other in others if other.startswith("refold.")} - {room, "__version__"}
        if room != "__main__":
            assert {one for one in below if floor[one] < floor[room]} == set(), name
            rooms.setdefault(room, set()).update(below)
    assert set(rooms) >= {"api", "cli", "library", "config", "scoring", "data", "models"}
    list(TopologicalSorter(rooms).static_order())  # raises CycleError where rooms of one floor import each other


def test_modules_import_each_other_in_one_direction(imports):
    graph = {
        name: {other for other in others if other in imports and other != name} for name, others in imports.items()
    }
    # a package's __init__ shows names of its modules, which may import their neighbours
    shown = {name for name in graph if (SRC / name.replace(".", "/")).is_dir()}
    assert len(graph) - len(shown) > 150
    modules = {name: others - shown for name, others in graph.items() if name not in shown}
    for name in (
        "revising",
        "state_file",
    ):  # methods of LiveDetector are annotated with it
        modules[f"refold.live.{name}"].remove("refold.live.live_detector")
    list(TopologicalSorter(modules).static_order())


def test_models_know_torch_alone_and_hydra_is_known_to_config_and_cli_alone(imports):
    for name, others in imports.items():
        tops = {other.partition(".")[0] for other in others}
        if name.startswith("refold.models"):
            assert tops & {"lightning", "polars", "numpy", "omegaconf", "hydra"} == set(), name
        if not name.startswith(("refold.config", "refold.cli")):
            assert "hydra" not in tops, name
