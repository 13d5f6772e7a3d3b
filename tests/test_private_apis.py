"""Every private name of a library that the packages use is listed in docs/ARCHITECTURE.md."""

import ast
from pathlib import Path

import pytest

from test_rooms import ROOT, SOURCES, name_of

PRIVATE_MODULES = (
    "jax._src",
    "keras.src",
    "tensorflow.python",
    "tensorflow.lite.python",
    "tf_keras.src",
)
OWN_NAMES = {"_functions", "_facts", "_retired"}
"""Private names that one object of ours reads from another of its class."""
SYSTEM_NAMES = {"_exit"}
"""Names of Python's own library that are public although they look private."""


def private_modules(tree: ast.AST) -> set[str]:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {str(node.module) for node in imports if str(node.module).startswith(PRIVATE_MODULES)}


def private_attributes(tree: ast.AST) -> set[str]:
    """The names after a dot, unless the object is `self` or `cls`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_private_apis_are_listed(path: Path) -> None:
    tree = ast.parse(path.read_text())
    section = (ROOT / "docs" / "ARCHITECTURE.md").read_text().split("## Private APIs")[1]
    section = section.split("\n## ")[0]
    used = private_modules(tree) | private_attributes(tree) - OWN_NAMES - SYSTEM_NAMES
    missing = {name for name in used if f"`{name}`" not in section}
    assert not missing, f"list {missing} in docs/ARCHITECTURE.md, section Private APIs"
