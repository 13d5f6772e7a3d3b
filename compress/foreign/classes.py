"""Which classes a model file asks for: those of libraries, those of its author, and code."""

import importlib.util
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.applications import convnext

from compress.foreign.container import Container
from configs.errors import UserError

HUBS = {"keras_hub": "keras-hub", "keras_cv": "keras-cv", "keras_nlp": "keras-nlp"}
"""Packages whose layers register themselves when they are imported, and how they are installed."""
LAMBDAS = {"Lambda", "__lambda__"}
LOADS_CODE = {"TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
"""Layers of Keras that run a program from somewhere else."""
NOT_LAYERS = {"compile_config", "build_config", "training_config"}
"""Entries that describe no part of the inference."""
MODELS = {"Functional", "Model", "Sequential", "Network"}
KERAS2_LAYERS = {
    "TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty",
    "TensorFlowOpLayer", "AddLoss", "AddMetric", "LayerScale", "StochasticDepth",
}  # fmt: skip
"""Layers of Keras 2 that are no public names of `tf_keras.layers`."""


@dataclass(frozen=True)
class Named:
    """An object that a file names.

    Attributes:
        name: of the class or function, as the file writes it.
        kind: the same without the package that a class is registered in.
        layer: the name of the layer that it is, or that it belongs to.
        package: of the module that the file names; "" if it names none.
    """

    name: str
    kind: str
    layer: str
    package: str = ""
    is_function: bool = False


def check_classes(container: Container, imported: Collection[str], allow_lambda: bool) -> None:
    """Raise UserError if the file needs code that is not here or that must not run unasked.

    Args:
        imported: names of the classes and functions that the user has named with --import.
        allow_lambda: whether the code of Lambda layers may run.
    """
    path, unknown = container.path, []
    for named in objects_of(container.config):
        if named.kind in LOADS_CODE:
            raise UserError(
                f"{path} has the layer {named.layer!r} ({named.name}), which runs a program from "
                "outside of the file. Potstill never runs it. Save the model without this layer."
            )
        if named.kind in LAMBDAS:
            if not allow_lambda:
                raise UserError(
                    f"{path} has Python code inside: the Lambda layer {named.layer!r}. Potstill "
                    "runs no code of a file unasked. If you trust the file, add --allow-lambda."
                )
        elif named.package in HUBS:
            _import_hub(container, named)
        elif named.name not in imported and not _is_of_keras(named, container):
            unknown.append(named)
    if unknown:
        raise _unknown_error(container, unknown)


def objects_of(node: Any, layer: str = "") -> Iterator[Named]:
    """The layers and functions that a config names, nested ones included."""
    if isinstance(node, list):
        for part in node:
            yield from objects_of(part, layer)
    if not isinstance(node, dict):
        return
    class_name, config = node.get("class_name"), node.get("config")
    if isinstance(class_name, str):
        name = config.get("name") if isinstance(config, dict) else None
        package = str(node.get("module") or "").split(".")[0]
        kind = class_name.rsplit(">", 1)[-1]
        if class_name == "function":
            yield Named(str(config), str(config), layer, package, is_function=True)
        elif kind in LAMBDAS | LOADS_CODE or isinstance(name, str):
            # Initializers, regularizers and policies have no name of their own, layers have.
            layer = name if isinstance(name, str) else layer
            if not _is_policy(class_name):
                yield Named(str(node.get("registered_name") or class_name), kind, layer, package)
    elif isinstance(activation := node.get("activation"), str):
        yield Named(activation, activation, str(node.get("name", layer)), is_function=True)
    for key, part in node.items():
        if key not in NOT_LAYERS:
            yield from objects_of(part, layer)


def _is_policy(class_name: str) -> bool:
    return class_name.endswith("Policy") or class_name in ("PolicyV1", "DTypePolicyMap")


def _is_of_keras(named: Named, container: Container) -> bool:
    if named.is_function:
        name = named.name.rsplit(">", 1)[-1]
        return named.package == "keras" or name in _activations(container.is_keras2)
    if named.package in ("keras", "tf_keras"):
        return True  # Keras itself looks no further than into its own modules
    return named.name in MODELS or named.name in _layers(container.is_keras2)


def _activations(is_keras2: bool) -> set[str]:
    import tf_keras

    return set(dir(tf_keras.activations if is_keras2 else keras.activations))


def _layers(is_keras2: bool) -> set[str]:
    if not is_keras2:
        return set(dir(keras.layers)) | set(keras_operations())
    import tf_keras

    return (
        set(dir(tf_keras.layers))
        | set(dir(tf_keras.layers.experimental.preprocessing))
        | KERAS2_LAYERS
    )


def keras_operations() -> dict[str, type]:
    """Classes of Keras that a file names without their module, by name.

    They are the operations of `keras.ops`, which `x / 255` makes, and two layers of ConvNeXt.
    """
    from keras.src.ops import core, image, math, nn, numpy

    operations = {
        name: value
        for module in (core, image, math, nn, numpy)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, keras.Operation)
    }
    blocks = {cls.__name__: cls for cls in (convnext.LayerScale, convnext.StochasticDepth)}
    return operations | blocks


def _import_hub(container: Container, named: Named) -> None:
    package = named.package
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{container.path} has layers of {HUBS[package]}, such as {named.name}, and that "
            f"package is not installed. Install it and give the same command again:\n"
            f"  pip install {HUBS[package]}"
        )
    importlib.import_module(package)


def _unknown_error(container: Container, unknown: list[Named]) -> UserError:
    kinds = {
        named.name: f"{named.name} ({'in' if named.is_function else 'as'} layer {named.layer!r})"
        for named in unknown
    }
    return UserError(
        f"{container.path} needs {', '.join(kinds.values())}. Keras has nothing of this name. Name "
        "the Python file that defines it for Keras 3: --import my_layers.py. The class must have "
        "the same name there."
    )
