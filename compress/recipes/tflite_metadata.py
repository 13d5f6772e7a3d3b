"""TFLite metadata: a flatbuffer inside the model that describes its input and its output.

MediaPipe's ImageClassifier, Android's libraries and model viewers read it.
"""

from typing import NamedTuple, Union

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder

from compress.graph.tensor_names import INPUT
from compress.recipes.flatbuffer import pack
from eval.contract.foreign_metadata import (
    LABELS_MEMBER,
    MEMBERS,
    NORMALIZATION_OPTIONS,
    TFLITE_ENTRY,
)
from eval.metadata import FileMetadata

PARSER_VERSION = "1.0.0"
"""Every reader of the schema knows these members."""
RGB, TENSOR_AXIS_LABELS = 1, 2
FEATURE_PROPERTIES, IMAGE_PROPERTIES = 1, 2


class _Table(NamedTuple):
    """A table of the schema; an int is a member of one byte."""

    kind: str
    members: dict[str, "_Value"]


_Value = Union[int, str, list[float], list[_Table], _Table]  # noqa: UP007


def with_metadata(content: bytes, metadata: FileMetadata) -> bytes:
    """The same TFLite file with TFLite metadata in a buffer of its own."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    entry = schema.MetadataT()
    entry.name, entry.buffer = TFLITE_ENTRY, len(model.buffers)
    model.metadata = model.metadata or []
    if any(other.name == TFLITE_ENTRY.encode() for other in model.metadata):
        raise ValueError("the file has TFLite metadata already")
    model.metadata.append(entry)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(tflite_metadata(metadata), "uint8")
    model.buffers.append(buffer)
    return pack(model)


def tflite_metadata(metadata: FileMetadata) -> bytes:
    """The TFLite metadata as a flatbuffer: the input is an RGB image, the output has the classes.

    A quantized input has the normalization of its float model. As the schema says, readers apply
    the scale and the zero point of the tensor after it.
    """
    graph = _Table(
        "SubGraphMetadata",
        {
            "input_tensor_metadata": [_image_table(metadata)],
            "output_tensor_metadata": [_answer_table(metadata)],
        },
    )
    root = _Table(
        "ModelMetadata",
        {
            "name": metadata.parent,
            "description": metadata.description,
            "subgraph_metadata": [graph],
            "min_parser_version": PARSER_VERSION,
        },
    )
    builder = Builder()
    builder.Finish(_add(builder, root), file_identifier=b"M001")
    return bytes(builder.Output())


def _image_table(metadata: FileMetadata) -> _Table:
    rgb = _Table("ImageProperties", {"color_space": RGB})
    normalization = _Table(
        "NormalizationOptions",
        {"mean": list(metadata.pixels.mean), "std": list(metadata.pixels.std)},
    )
    return _Table(
        "TensorMetadata",
        {
            "name": INPUT,
            "description": "RGB in 0..255, given as (pixel - mean) / std",
            "content": _union("Content", "content_properties", IMAGE_PROPERTIES, rgb),
            "process_units": [
                _union("ProcessUnit", "options", NORMALIZATION_OPTIONS, normalization)
            ],
        },
    )


def _answer_table(metadata: FileMetadata) -> _Table:
    features = _Table("FeatureProperties", {})
    labels = _Table(
        "AssociatedFile",
        {
            "name": LABELS_MEMBER,
            "description": "a class on every line",
            "type": TENSOR_AXIS_LABELS,
        },
    )
    return _Table(
        "TensorMetadata",
        {
            "name": metadata.output,
            "description": f"{metadata.output} of the classes in {LABELS_MEMBER}",
            "content": _union("Content", "content_properties", FEATURE_PROPERTIES, features),
            "associated_files": [labels],
        },
    )


def _union(kind: str, member: str, number: int, table: _Table) -> _Table:
    """A table with a union: the number says which kind of table its member holds."""
    return _Table(kind, {f"{member}_type": number, member: table})


def _add(builder: Builder, value: str | list[float] | list[_Table] | _Table) -> int:
    """Write a value with everything that it refers to; returns its offset in the buffer."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, _Table):
        return _add_table(builder, value)
    tables = [item for item in value if isinstance(item, _Table)]
    if not tables:
        return int(builder.CreateNumpyVector(np.array(value, "float32")))
    offsets = [_add_table(builder, table) for table in tables]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _add_table(builder: Builder, table: _Table) -> int:
    # The builder needs what a table refers to before the table itself.
    offsets = {
        name: _add(builder, value)
        for name, value in table.members.items()
        if not isinstance(value, int)
    }
    slots = MEMBERS[table.kind].split()
    builder.StartObject(len(slots))
    for name, value in table.members.items():
        if isinstance(value, int):
            builder.PrependUint8Slot(slots.index(name), value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slots.index(name), offsets[name], 0)
    return int(builder.EndObject())
