"""Writes what a file says of itself, in the forms that other tools read.

A `.tflite` file gets TFLite metadata, which MediaPipe asks for, and behind the model a ZIP of
metadata.json and labels.txt. An `.onnx` file gets metadata_props. Beside our own, the keys of both
are those that Ultralytics reads.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import onnx

from compress.recipes.tflite_metadata import LABELS_MEMBER, with_metadata
from configs.artifacts import ending
from eval.metadata import JSON_MEMBER, OWN_KEY, FileMetadata

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of all ZIP members: the same model gives the same bytes."""


def write_metadata(path: Path, metadata: FileMetadata) -> None:
    """Add metadata to a fresh file in place; the caller keeps it under a temporary name meanwhile.

    Raises:
        ValueError: the file has metadata already.
    """
    if ending(path) == ".onnx":
        model = onnx.load(path)
        onnx.helper.set_model_props(model, onnx_props(metadata))
        onnx.save(model, path)
        return
    path.write_bytes(with_metadata(path.read_bytes(), metadata))
    # First what older readers of Ultralytics' files take for metadata: the first member.
    # Stored, not deflated: MediaPipe's readers refuse compressed members.
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        for name, text in (
            (JSON_MEMBER, json.dumps(common_keys(metadata), indent=2, ensure_ascii=False)),
            (LABELS_MEMBER, "".join(f"{_one_line(name)}\n" for name in metadata.classes)),
        ):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), text)


def common_keys(metadata: FileMetadata) -> dict[str, Any]:
    """What readers of Ultralytics' files look for, and all of ours under its own key.

    They need stride, task, batch, imgsz and names. An author and a license are the user's to give,
    and a date would make the same model another file. Nothing is true, false or null: some read
    this as Python.
    """
    return {
        "description": metadata.description,
        "version": metadata.version,
        "task": "classify",
        "stride": 1,
        "batch": 1,
        "channels": 3,
        "imgsz": metadata.image_size,
        "names": dict(enumerate(metadata.classes)),
        OWN_KEY: metadata.describe(),
    }


def onnx_props(metadata: FileMetadata) -> dict[str, str]:
    """The same as strings: ours as JSON, the others in Python's words, which readers evaluate."""
    keys = common_keys(metadata)
    return {**{k: str(v) for k, v in keys.items()}, OWN_KEY: json.dumps(keys[OWN_KEY])}


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
