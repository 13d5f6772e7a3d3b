"""SavedModel folders: opened only if their graphs do no more than answer."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from configs.errors import UserError, failure_of, is_of_the_machine, opening

SIGNATURES = ("serving_default", "serve")
TOUCHES_FILES = re.compile(
    r"File(?!name)|PyFunc|Reader|TextLine|TFRecord|Lmdb|SummaryWriter|Write\w+Summary"
    r"|Debug(Identity|Nan|Numeric)|(Save|Load|Snapshot)\w*Dataset"
)
"""Names of operations that run Python code or touch files. No classifier needs them to answer."""
OF_CHECKPOINTS = {"MergeV2Checkpoints", "Restore", "RestoreV2", "Save", "SaveV2"}
"""Every SavedModel has them beside the function that answers; within it they touch files."""
CHANGES_ITSELF = {"AssignAddVariableOp", "AssignSubVariableOp", "AssignVariableOp"}
"""Operations by which an answer changes the next one."""


@dataclass(frozen=True)
class ServedModel:
    """The function of a SavedModel that answers.

    Attributes:
        loaded: the whole of it; the function reads its variables.
        function: a signature with one input and one output.
    """

    loaded: Any
    function: Any


def open_saved_model(path: Path) -> ServedModel:
    """The function of a SavedModel that answers.

    Raises:
        UserError: the folder cannot be served, touches files or runs code, has several inputs or
            outputs, or draws random numbers.
    """
    check_graphs(path)  # loading may run some of it
    try:
        with opening(path):
            loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises errors of every kind for damaged files
        if is_of_the_machine(error):
            raise
        raise UserError(
            f"{path} is not a SavedModel that loads here: {failure_of(error)}. Write it again with "
            "model.export(folder)."
        ) from None
    function = _signature(path, loaded)
    kinds = _operations(function)
    if touching := sorted(kinds & OF_CHECKPOINTS):
        raise _touches_files(path, touching)
    if kinds & CHANGES_ITSELF:
        # Keras 3 exports augmentation layers as if they were trained.
        raise UserError(
            f"{path} draws random numbers when it answers. Keras exports augmentation layers "
            "(RandomFlip and others) so. Remove them and export again, or give the .keras file of "
            "the model."
        )
    return ServedModel(loaded, function)


def check_graphs(path: Path) -> None:
    """Raise UserError if a part of a SavedModel touches files or runs code."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString((path / "saved_model.pb").read_bytes())
    except OSError:
        raise UserError(
            f"{path} has no saved_model.pb. Expected a folder that model.export(folder) wrote."
        ) from None
    except DecodeError as error:
        raise UserError(f"{path} is damaged ({error}). Write it again.") from None
    touching: set[str] = set()
    for graph in (meta_graph.graph_def for meta_graph in saved.meta_graphs):
        functions = [part.node_def for part in graph.library.function]
        for node in (node for nodes in (graph.node, *functions) for node in nodes):
            if TOUCHES_FILES.search(node.op) or _prints_to_a_file(node):
                touching.add(node.op)
    if touching:
        raise _touches_files(path, sorted(touching))


def _prints_to_a_file(node: Any) -> bool:
    return node.op == "PrintV2" and node.attr["output_stream"].s.startswith(b"file:")


def _touches_files(path: Path, operations: list[str]) -> UserError:
    return UserError(
        f"{path} runs {', '.join(operations)}, which touches files or runs code. Potstill runs "
        "neither. Export the model without it."
    )


def _signature(path: Path, loaded: Any) -> Any:
    names = [name for name in SIGNATURES if name in loaded.signatures]
    if not names:
        raise UserError(
            f"{path} has the signatures {', '.join(loaded.signatures) or 'none'}. Expected "
            "serving_default. Write it again with model.export(folder)."
        )
    serve = loaded.signatures[names[0]]
    inputs, outputs = serve.structured_input_signature[1], serve.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs. Expected an image "
            "classifier with one input and one output."
        )
    return serve


def _operations(function: Any) -> set[str]:
    """The kinds of operations that a function runs, those of inner functions included."""
    graph = function.graph.as_graph_def()
    inner = {part.signature.name: part for part in graph.library.function}
    kinds: set[str] = set()
    entered: set[str] = set()
    nodes = list(graph.node)
    while nodes:
        node = nodes.pop()
        kinds.add(node.op)
        called = {attribute.func.name for attribute in node.attr.values()} & set(inner)
        for name in called - entered:
            entered.add(name)
            nodes.extend(inner[name].node_def)
    return kinds
