"""The rooms: imports go one way, folders and files are small, and every file is on the map."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A layer may import those before it.
LAYERS = ["configs", "eval", "distill", "compress", "commands", "cli"]
DISTILL_ROOMS = ["data", "backbones", "labels", "trackers", "training", "trained", "advice"]
SOURCES = sorted(path for layer in LAYERS[:-1] for path in (ROOT / layer).rglob("*.py"))
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in SOURCES
}
TRAINERS = {"tensorflow", "keras", "tf_keras", "tensorflow_model_optimization"}
MAX_FILES = 10
MAX_LINES = 300
MAX_UNTYPED = 80
# The probe is copied to a device as one file, which may have nothing but Python and a runtime.
LONG_FILES = {"eval/devices/probe.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_modules(path: Path) -> set[str]:
    """The full names of all modules and members that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def imported_packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported_modules(path)}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_imports_only_lower_layers(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    assert not imported_packages(path) & set(LAYERS[LAYERS.index(layer) + 1 :])


@pytest.mark.parametrize("path", sorted((ROOT / "distill").glob("*/*.py")), ids=name_of)
def test_a_room_of_distill_imports_only_rooms_before_it(path: Path) -> None:
    room = path.parent.name
    later = {f"distill.{name}" for name in DISTILL_ROOMS[DISTILL_ROOMS.index(room) + 1 :]}
    assert not {".".join(name.split(".")[:2]) for name in imported_modules(path)} & later


def test_no_imports_go_in_circles() -> None:
    graph = {}
    for name, path in MODULES.items():
        # A package's own `__init__` imports its files, and they import what it declares.
        imported = imported_modules(path) & set(MODULES)
        graph[name] = {other for other in imported if other != name}
    # It raises CycleError where there is a circle.
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("path", sorted((ROOT / "eval").rglob("*.py")), ids=name_of)
def test_eval_knows_no_training_framework(path: Path) -> None:
    assert not imported_packages(path) & TRAINERS


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_compress_knows_tf_keras(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    forbidden = {"tf_keras", "tensorflow_model_optimization"}
    assert layer == "compress" or not imported_packages(path) & forbidden


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=name_of)
def test_a_folder_holds_few_files(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MAX_FILES


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_is_short(path: Path) -> None:
    num_lines = len(path.read_text().splitlines())
    assert num_lines <= MAX_LINES or name_of(path) in LONG_FILES


def test_the_map_names_every_file_and_no_other() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    named = re.findall(r"^\| `([\w/.]+\.py)` \|", text, re.MULTILINE)
    files = [name_of(path) for path in SOURCES if path.read_text().strip()] + ["cli.py"]
    assert sorted(named) == sorted(files)


def test_few_values_are_untyped_dictionaries() -> None:
    assert sum(path.read_text().count("dict[str, Any]") for path in SOURCES) <= MAX_UNTYPED
