"""The user's own Python files with layers: what `--import` does."""

import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from configs.errors import UserError

CustomObjects = Mapping[str, Any]
"""Classes and functions by the names that model files use."""


def import_layers(files: Sequence[Path]) -> CustomObjects:
    """The layers and functions of some Python files, by the names that model files use.

    A class counts under its own name, and under the name it is registered with.

    Raises:
        UserError: a file is missing or fails.
    """
    modules = [_module(file) for file in files]  # this registers the classes that say so
    objects = dict(keras.saving.get_custom_objects())
    for module in modules:
        objects.update(_objects_of(module))
    return objects


def _module(file: Path) -> Any:
    if not file.is_file():
        raise UserError(f"--import {file}: there is no such file. Expected a Python file.")
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # the file may import others that lie beside it
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"--import {file}: this is no Python file. Expected one ending in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(
            f"--import {file} failed: {type(error).__name__}: {error}. Check that\n"
            f"  python {file}\nruns without an error."
        ) from error
    return module


def _objects_of(module: Any) -> CustomObjects:
    """The layers that a module knows, and the functions that it defines."""
    layers = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, keras.Layer)
    }
    functions = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }
    return layers | functions
