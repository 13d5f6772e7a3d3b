"""The door for models that Potstill did not make: any container becomes a plain Keras 3 model."""

import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from compress.foreign.answers import NoCounterpart
from compress.foreign.classes import check_classes, keras_operations, objects_of
from compress.foreign.container import Container, open_container
from compress.foreign.custom import CustomObjects, import_layers
from compress.foreign.keras2.load import load_keras2, wrappers_of
from compress.foreign.plain import as_plain
from compress.foreign.saved_model.load import load_graph
from compress.graph.replay import named_layers
from configs.errors import UserError, is_of_the_machine, opening
from distill.saved_model import check_graphs

log = logging.getLogger("potstill")

MAX_REASON = 300


def load_foreign(
    path: Path, *, imports: Sequence[Path] = (), allow_lambda: bool = False
) -> keras.Model:
    """A model of somebody else's as a plain Keras 3 model in float32.

    Nothing that is in the file is executed, except the code of Lambda layers if it is allowed.

    Args:
        path: a .keras, .h5 or .hdf5 file of Keras 3 or Keras 2, or a SavedModel folder.
        imports: Python files that define the layers of the model.
        allow_lambda: whether the code of Lambda layers may run.

    Raises:
        UserError: it is no model, or none that can be loaded here.
    """
    container = open_container(path)
    objects = import_layers(imports)
    if allow_lambda:
        # Layers are copied later, and Keras would ask again for each copy.
        keras.config.enable_unsafe_deserialization()
    load = _load_saved_model if container.kind == "saved_model" else _load_file
    try:
        with opening(path):
            return _with_a_graph(load(container, objects, allow_lambda), path)
    except UserError:
        raise
    except Exception as error:  # Keras raises errors of every kind for damaged files
        if is_of_the_machine(error):
            raise
        raise _not_loaded(container, error) from error


def _with_a_graph(model: Any, path: Path) -> keras.Model:
    if not getattr(model, "inputs", None):
        raise UserError(
            f"{path} is a model of the class {type(model).__name__}, without a graph of layers. "
            "Write a SavedModel with model.export(folder), and give that folder."
        )
    return as_plain(model, path.name)


def convert(source: Path, target: Path) -> None:
    """Write a foreign model as a .keras file of Keras 3, which needs nothing of this package."""
    load_foreign(source).save(target)


def _load_file(container: Container, objects: CustomObjects, allow_lambda: bool) -> keras.Model:
    wrapped = wrappers_of(container)
    check_classes(container, {*objects, *wrapped}, allow_lambda)
    is_custom = any(named.name in objects for named in objects_of(container.config))
    if container.is_keras2 and is_custom and '"hard_sigmoid"' in json.dumps(container.config):
        raise UserError(
            f"{container.path} is a model of Keras 2 with layers of your own and a hard_sigmoid, "
            "which is another function in Keras 3. Write a SavedModel where it was made, with "
            'model.save("folder"), and give that folder.'
        )
    with _readable(container) as file:
        try:
            # tf_keras cannot use the layers of --import, which are those of Keras 3.
            if container.is_keras2 and not is_custom:
                return load_keras2(container, file)
            return _load_keras3(container, file, objects, allow_lambda)
        except NoCounterpart as error:
            raise UserError(
                f"{container.path} is a model of Keras 2 that cannot be read as Keras 3: {error}. "
                'Write a SavedModel where it was made, with model.save("folder"), and give that '
                "folder."
            ) from None


def _load_keras3(
    container: Container, file: Path, objects: CustomObjects, allow_lambda: bool
) -> keras.Model:
    keras.saving.get_custom_objects().update(objects)  # for copies, too
    names = {**keras_operations(), **objects} if container.kind == "h5" else dict(objects)
    model = keras.saving.load_model(
        file, custom_objects=names, compile=False, safe_mode=not allow_lambda
    )
    if container.kind == "h5":
        _finish_h5(model, container.config)
    return model


def _finish_h5(model: keras.Model, config: Any) -> None:
    """What Keras forgets when it loads an .h5 file, and does when it loads a .keras file."""
    alphas = dict(_lora_alphas(config))
    for _, layer in named_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it derives constants from its weights
        if getattr(layer, "lora_enabled", False):
            layer.lora_alpha = alphas.get(layer.name, layer.lora_rank)


def _lora_alphas(node: Any) -> Iterator[tuple[str, float]]:
    """(name, factor) of the layers that LoRA trained."""
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and node.get("lora_alpha") is not None:
        yield node["name"], node["lora_alpha"]
    for part in parts:
        yield from _lora_alphas(part)


def _load_saved_model(
    container: Container, objects: CustomObjects, allow_lambda: bool
) -> keras.Model:
    """The layers of a SavedModel if it describes them and Keras 3 has them; else its graph."""
    path = container.path
    check_graphs(path)
    wrapped = wrappers_of(container)
    if container.config is None:
        return load_graph(path)
    try:
        check_classes(container, wrapped, allow_lambda)
        return load_keras2(container, path)
    except Exception as error:  # the graph may be whole where the layers are not
        if is_of_the_machine(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.info(
            "%s: its layers cannot be read, so its graph is used instead. The reason: %s",
            path.name, reason,
        )  # fmt: skip
        return load_graph(path)


@contextmanager
def _readable(container: Container) -> Iterator[Path]:
    """The file under a name with the ending of its content, by which Keras chooses how to read."""
    ending = f".{container.kind}"
    if container.path.name.endswith(ending):
        yield container.path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, f"model{ending}")
        link.symlink_to(container.path.absolute())
        yield link


def _not_loaded(container: Container, error: Exception) -> UserError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reader = "tf_keras 2" if container.is_keras2 else f"Keras {keras.__version__}"
    return UserError(
        f"{container.path} is a Keras model that does not load here: {lines[0]:.{MAX_REASON}}\n"
        f"Keras {container.keras_version or '2'} saved it, and {reader} reads it here. If a newer "
        "Keras saved it, update Keras here. If not, write a SavedModel where it was made (Keras 3: "
        "model.export(folder), Keras 2: model.save(folder)), and give that folder."
    )


if __name__ == "__main__":  # distill/labels/converted.py runs it in a child process
    try:
        convert(*map(Path, sys.argv[1:]))
    except UserError as error:
        print(error)
        sys.exit(2)
