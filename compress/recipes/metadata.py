"""Writes the metadata of a file, in the forms that other tools read.

A `.tflite` file gets TFLite metadata, which MediaPipe requires, and behind the model a ZIP with
metadata.json and labels.txt. An `.onnx` file gets metadata_props. Both have our keys and those
that Ultralytics reads.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import onnx

from compress.recipes.tflite_metadata import with_metadata
from configs.artifacts import ending
from eval.contract.foreign_metadata import LABELS_MEMBER
from eval.metadata import JSON_MEMBER, OWN_KEY, FileMetadata

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of all ZIP members, so that the same model gives the same bytes."""


def write_metadata(path: Path, metadata: FileMetadata) -> None:
    """Add metadata to a new file in place. The caller renames the file when it is complete.

    Raises:
        ValueError: the file has metadata already.
    """
    if ending(path) == ".onnx":
        model = onnx.load(path)
        onnx.helper.set_model_props(model, onnx_props(metadata))
        onnx.save(model, path)
        return
    path.write_bytes(with_metadata(path.read_bytes(), metadata))
    # The JSON comes first because older readers of Ultralytics' files read the first member.
    # Members are stored because MediaPipe's readers refuse compressed ones.
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        for name, text in (
            (JSON_MEMBER, json.dumps(common_keys(metadata), indent=2, ensure_ascii=False)),
            (LABELS_MEMBER, "".join(f"{_one_line(name)}\n" for name in metadata.classes)),
        ):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), text)


def common_keys(metadata: FileMetadata) -> dict[str, Any]:
    """The keys that readers of Ultralytics' files need, and all of ours under one key.

    Those readers need stride, task, batch, imgsz and names. Author and license are left to the
    user, and a date would change the bytes of the same model. No value is true, false or null,
    because some readers evaluate the text as Python.
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
    """The same keys as strings: ours as JSON, the others as Python, which readers evaluate."""
    keys = common_keys(metadata)
    return {**{k: str(v) for k, v in keys.items()}, OWN_KEY: json.dumps(keys[OWN_KEY])}


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
