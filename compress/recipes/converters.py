"""The inference of a model as a TFLite file, not yet quantized."""

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from compress.graph.inference import TracedModel
from configs.errors import UserError
from configs.schema.files import OutputKind

CONTROL_FLOW = {"Case", "If", "StatelessCase", "StatelessIf", "StatelessWhile", "While"}
"""Operations of TensorFlow that have other operations inside."""


@contextlib.contextmanager
def quiet_converters() -> Iterator[None]:
    """Keep the output of converters off standard output, and their notes out of the log."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def tflite_converter(traced: TracedModel, output: OutputKind) -> Any:
    """A TFLiteConverter of the inference of a model."""
    function = traced.function(output)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    # With the default it would write a SavedModel, read it again, and freeze it all the same.
    converter.experimental_lower_to_saved_model = False
    return converter


def tflite_integer_converter(traced: TracedModel, output: OutputKind) -> Any:
    """The same for a file in which every tensor gets a range.

    Raises:
        UserError: the model has loops or conditions; TensorFlow's calibration crashes on them.
    """
    graph = traced.function(output).graph.as_graph_def()
    if CONTROL_FLOW & set(_operation_types(graph)):
        raise UserError(
            f"model {traced.model.name!r} has loops or conditions (a GRU is one), and no "
            "int8 or int16 ranges are known inside of them. Build its layers with "
            "unroll=True, or choose tflite.dynamic or tflite.weights."
        )
    return tflite_converter(traced, output)


def _operation_types(graph: Any) -> Iterator[str]:
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        yield from (node.op for node in nodes)


def run_tflite_converter(converter: Any) -> bytes:
    """The file that a TFLiteConverter makes.

    Raises:
        UserError: a layer has no counterpart in TFLite.
    """
    from tensorflow.lite.python.convert_phase import ConverterError

    try:
        with quiet_converters():
            return bytes(converter.convert())
    except (ConverterError, RuntimeError) as error:
        message = str(error).strip()
        culprit = re.search(
            r"^(Custom|Flex|TF Select) ops: .*|^.*not yet supported.*", message, re.MULTILINE
        )
        reason = culprit.group() if culprit else message.splitlines()[0][:300]
        raise UserError(
            f"the TFLite converter refused the model: {reason}\n"
            "A layer has no counterpart in TFLite. Replace it, or choose a recipe that has one."
        ) from error
