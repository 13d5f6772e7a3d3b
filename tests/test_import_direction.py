"""Imports go one way: a package may import from those on its left only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    "configs",
    "eval",
    "distill",
    "compress",
    "commands",
    "cli",
]  # each may import those before it
SOURCES = [path for layer in LAYERS[:-1] for path in (ROOT / layer).rglob("*.py")]
TRAINERS = {"tensorflow", "keras", "tf_keras", "tensorflow_model_optimization"}


def imported_by(path: Path) -> set[str]:
    """The top-level names of all modules a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_lower_layers(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    assert not imported_by(path) & set(LAYERS[LAYERS.index(layer) + 1 :])


@pytest.mark.parametrize("path", sorted((ROOT / "eval").rglob("*.py")), ids=lambda p: p.name)
def test_eval_knows_no_training_framework(path: Path) -> None:
    assert not imported_by(path) & TRAINERS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_compress_knows_tf_keras(path: Path) -> None:
    layer = path.relative_to(ROOT).parts[0]
    assert layer == "compress" or not imported_by(path) & {
        "tf_keras",
        "tensorflow_model_optimization",
    }
