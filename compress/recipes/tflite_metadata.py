"""TFLite metadata: a flatbuffer within the model that says what its input and output hold.

MediaPipe's ImageClassifier, Android's libraries and model viewers read it.
"""

from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder

from compress.graph.tensor_names import INPUT
from compress.recipes.flatbuffer import pack
from eval.metadata import FileMetadata

TFLITE_ENTRY = "TFLITE_METADATA"
LABELS_MEMBER = "labels.txt"
"""Where the labels are, in the ZIP behind the model."""
MEMBERS = {
    "ModelMetadata": "name description version subgraph_metadata author license associated_files "
    "min_parser_version",
    "SubGraphMetadata": "name description input_tensor_metadata output_tensor_metadata",
    "TensorMetadata": "name description dimension_names content process_units stats "
    "associated_files",
    "Content": "content_properties_type content_properties",
    "ImageProperties": "color_space",
    "FeatureProperties": "",
    "ProcessUnit": "options_type options",
    "NormalizationOptions": "mean std",
    "AssociatedFile": "name description type",
}
"""The tables used here and their members in order, as TFLite's metadata_schema.fbs has them."""
PARSER_VERSION = "1.0.0"
"""Every reader of that schema knows these members."""
RGB, TENSOR_AXIS_LABELS = 1, 2
FEATURE_PROPERTIES, IMAGE_PROPERTIES, NORMALIZATION_OPTIONS = 1, 2, 1


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


class _Table(NamedTuple):
    kind: str
    members: dict[str, Any]


def tflite_metadata(metadata: FileMetadata) -> bytes:
    """The TFLite metadata flatbuffer: an RGB image in, a value for every class out.

    An input that is quantized has the normalization of its float model: the tensor's own scale
    and zero point come after it, as the schema says.
    """
    graph = _Table(
        "SubGraphMetadata",
        {
            "input_tensor_metadata": [_image(metadata)],
            "output_tensor_metadata": [_answer(metadata)],
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
    builder.Finish(_offset(builder, root), file_identifier=b"M001")
    return bytes(builder.Output())


def _image(metadata: FileMetadata) -> _Table:
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


def _answer(metadata: FileMetadata) -> _Table:
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
    return _Table(kind, {f"{member}_type": number, member: table})


def _offset(builder: Builder, value: Any) -> int:
    """Where the builder put a table, a text or a list of floats or tables."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, list) and not isinstance(value[0], _Table):
        return int(builder.CreateNumpyVector(np.array(value, "float32")))
    if isinstance(value, list):
        offsets = [_offset(builder, table) for table in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())
    # What a table refers to is written before it.
    members = {
        name: each if isinstance(each, int) else _offset(builder, each)
        for name, each in value.members.items()
    }
    slots = MEMBERS[value.kind].split()
    builder.StartObject(len(slots))
    for name, number in members.items():
        if isinstance(value.members[name], int):
            builder.PrependUint8Slot(slots.index(name), number, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slots.index(name), number, 0)
    return int(builder.EndObject())
