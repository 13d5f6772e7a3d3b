"""What files of other tools say of themselves: TFLite metadata, Ultralytics' keys, labels.txt.

Files come from strangers. Sizes are bounded, nothing is executed, and what cannot be read counts
as not said.
"""

import ast
import json
import logging
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import flatbuffers
import numpy as np

from configs.contract import OWN_PIXELS, RANGES, Pixels, Statement
from eval.metadata import MAX_JSON_BYTES, ZipMembers, class_name, onnx_properties

log = logging.getLogger("potstill")

TFLITE_ENTRY = "TFLITE_METADATA"
LABELS_MEMBER = "labels.txt"
"""The file with the labels, in the ZIP behind a model."""
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
"""The tables of TFLite's metadata_schema.fbs that we use, and all their members in their order."""
KINDS_OF_LABELS = (0, 2, 3)
"""The types of an AssociatedFile that may hold labels; 4 is one of calibration, for example."""
NORMALIZATION_OPTIONS = 1
"""The number of this table in the union of a ProcessUnit."""
BROKEN = (
    OverflowError, ValueError, TypeError, IndexError, KeyError, struct.error, SyntaxError,
    RecursionError, MemoryError, AttributeError, UnicodeError,
)  # fmt: skip
"""What reading foreign bytes raises when they are not what they should be."""


def tflite_statement(path: Path) -> Statement:
    """What the TFLite metadata of a file, and the ZIP behind it, say."""
    members = ZipMembers(path)
    try:
        pixels, label_file = _described(path)
    except BROKEN:
        pixels, label_file = None, None
    text = members.text(label_file or LABELS_MEMBER)
    labels = None if text is None else labels_of_lines(text)
    if labels is None:
        keys = members.text("metadata.json")
        values = _json(keys) if keys else {}
        return _ultralytics_statement(values, pixels)
    return Statement(pixels=pixels, labels=labels)


def onnx_statement(path: Path) -> Statement:
    """What the metadata_props of an ONNX file say."""
    return _ultralytics_statement(onnx_properties(path), None)


def labels_beside(path: Path, num_classes: int | None) -> Statement:
    """What a file of labels beside a model says: of the model's own name, or `labels.txt`.

    Args:
        num_classes: of the model; None for any. A file with another number is not its own.
    """
    names = [f"{path.stem}_labels.txt", f"{path.stem}.txt", "labels.txt", "class_names.txt"]
    for file in (path.with_name(name) for name in names):
        labels = labels_of_file(file) if file.is_file() else None
        if labels is not None and num_classes in (None, len(labels)):
            return Statement(labels=labels)
        if labels is not None:
            log.warning(
                "%s has %d labels, and %s answers with %d classes. These labels are not used. If "
                "the file belongs to the model, correct it.",
                file, len(labels), path.name, num_classes,
            )  # fmt: skip
    return Statement()


def labels_of_file(path: Path) -> tuple[str, ...] | None:
    """The labels of a text file; None if it is empty or far too large."""
    if path.stat().st_size > MAX_JSON_BYTES:
        return None
    return labels_of_lines(path.read_text("utf-8-sig", "replace"))


def labels_of_lines(text: str) -> tuple[str, ...] | None:
    """The labels of a text with one on every line; None without any.

    Teachable Machine and others write the number of the class before its name: `0 cat`.
    """
    lines = [line.strip() for line in text.splitlines()]
    labels = [line for line in lines if line]
    numbered = [re.fullmatch(r"(\d{1,6})[\s:,]+(.+)", label) for label in labels]
    if all(match and int(match[1]) == i for i, match in enumerate(numbered)):
        names = [match[2] for match in numbered if match]
        labels = names if len(set(names)) == len(names) else labels  # 0 stars, 1 stars, ...
    return tuple(map(class_name, labels)) or None


def natural_order(names: Sequence[str]) -> list[str]:
    """Names sorted with numbers by their value: 1, 2, 10 (as timm sorts class folders)."""

    def key(name: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", name.lower())
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]

    return sorted(names, key=key)


def _ultralytics_statement(values: Mapping[str, object], pixels: Pixels | None) -> Statement:
    """What the keys of Ultralytics say. Its classifiers take pixels from 0 to 1."""
    names = values.get("names")
    if isinstance(names, str):
        try:
            names = ast.literal_eval(names) if len(names) <= MAX_JSON_BYTES else None
        except BROKEN:
            names = None
    if isinstance(names, Mapping):
        try:
            names = [names[key] for key in sorted(names, key=int)]
        except BROKEN:
            names = None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return Statement(pixels=pixels)
    is_ultralytics = values.get("task") == "classify" and "stride" in values
    return Statement(
        pixels=pixels or (RANGES["0..1"] if is_ultralytics else None),
        labels=tuple(map(class_name, names)) or None,
    )


def _json(text: str) -> Mapping[str, object]:
    try:
        values = json.loads(text)
    except BROKEN:
        return {}
    return values if isinstance(values, dict) else {}


def _described(path: Path) -> tuple[Pixels | None, str | None]:
    """The range of pixels and the name of the file with labels, in the flatbuffer of a model."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    for i in range(min(model.MetadataLength(), 64)):
        entry = model.Metadata(i)
        if entry.Name() == TFLITE_ENTRY.encode():
            return _of_model_metadata(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    return None, None


def _of_model_metadata(data: bytes) -> tuple[Pixels | None, str | None]:
    offset = flatbuffers.encode.Get(flatbuffers.number_types.UOffsetTFlags.packer_type, data, 0)
    root = _Table(data, offset, "ModelMetadata")
    graphs = root.tables("subgraph_metadata", "SubGraphMetadata")
    pixels = label_file = None
    for graph in graphs[:1]:
        for image in graph.tables("input_tensor_metadata", "TensorMetadata")[:1]:
            pixels = next(
                filter(None, map(_pixels, image.tables("process_units", "ProcessUnit"))), None
            )
        for answer in graph.tables("output_tensor_metadata", "TensorMetadata")[:1]:
            names = [
                file.text("name")
                for file in answer.tables("associated_files", "AssociatedFile")
                if file.byte("type") in KINDS_OF_LABELS
            ]
            label_file = next(filter(None, names), None)
    return pixels, label_file


def _pixels(unit: "_Table") -> Pixels | None:
    options = unit.table("options", "NormalizationOptions")
    if unit.byte("options_type") != NORMALIZATION_OPTIONS or options is None:
        return None
    mean, std = options.floats("mean"), options.floats("std")
    if not mean or not std or min(std) <= 0 or not np.isfinite([*mean, *std]).all():
        return None
    triples = [values * 3 if len(values) == 1 else values for values in (mean, std)]
    if any(len(values) != 3 for values in triples):
        return None
    pixels = Pixels(*map(tuple, triples))  # type: ignore[arg-type]
    return OWN_PIXELS if pixels == OWN_PIXELS else pixels


class _Table:
    """A table of a flatbuffer, read by the names of its members."""

    def __init__(self, data: bytes, position: int, kind: str) -> None:
        self._table = flatbuffers.table.Table(data, position)
        self._members = MEMBERS[kind].split()

    def _offset(self, member: str) -> int:
        """Where the value is; 0 if the table has none."""
        slot = int(self._table.Offset(4 + 2 * self._members.index(member)))
        return slot and slot + int(self._table.Pos)

    def text(self, member: str) -> str | None:
        """A string."""
        offset = self._offset(member)
        return self._table.String(offset).decode() if offset else None

    def byte(self, member: str) -> int:
        """A number of one byte; 0 by default."""
        offset = self._offset(member)
        return int(self._table.Bytes[offset]) if offset else 0

    def floats(self, member: str) -> list[float]:
        """A vector of float32."""
        slot = self._table.Offset(4 + 2 * self._members.index(member))
        if not slot:
            return []
        vector = self._table.GetVectorAsNumpy(flatbuffers.number_types.Float32Flags, slot)
        return [float(value) for value in vector]

    def table(self, member: str, kind: str) -> "_Table | None":
        """Another table."""
        offset = self._offset(member)
        return _Table(self._table.Bytes, self._table.Indirect(offset), kind) if offset else None

    def tables(self, member: str, kind: str) -> "list[_Table]":
        """A vector of other tables, at most a hundred."""
        slot = self._table.Offset(4 + 2 * self._members.index(member))
        if not slot:
            return []
        start = self._table.Vector(slot)
        return [
            _Table(self._table.Bytes, self._table.Indirect(start + 4 * i), kind)
            for i in range(min(self._table.VectorLen(slot), 100))
        ]
