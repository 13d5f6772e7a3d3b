"""What a model file says of itself: classes, pixels, where it came from.

`compress/recipes/metadata.py` writes it: into the ZIP behind a `.tflite` model, into the
metadata_props of an `.onnx` model.
"""

import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.devices.machine import package_version
from eval.pixels import OWN_PIXELS, Pixels

JSON_MEMBER = "metadata.json"
OWN_KEY = "potstill"
"""The key of all that we know, beside the keys that other tools look for."""


@dataclass(frozen=True)
class FileMetadata:
    """What readers of a file need to know.

    Attributes:
        output: "probabilities" or "logits".
        pixels: range, mean and std: the input is (pixel - mean) / std.
        image_size: height and width of the input, in pixels.
        split: shares of the validation and test photos, so that the same photos test it again.
        source: name of the model the file was made of.
        version: of Potstill.
    """

    classes: list[str]
    output: str
    pixels: dict[str, Any]
    image_size: list[int]
    source: str
    recipe: str
    split: dict[str, float] | None = None
    version: str = field(default_factory=lambda: package_version("potstill") or "")

    @property
    def description(self) -> str:
        """One line for people."""
        size = " x ".join(map(str, self.image_size))
        return f"{self.source}, {self.recipe}: {len(self.classes)} classes at {size} pixels"

    def describe(self) -> dict[str, Any]:
        """What is kept under OWN_KEY: all that is known, without null."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def read_metadata(path: Path) -> FileMetadata | None:
    """The metadata of a file, or None where it has none of ours."""
    try:
        values = _onnx_values(path) if path.suffix == ".onnx" else _zip_values(path)
        return FileMetadata(**values) if values else None
    except (TypeError, KeyError, ValueError, zipfile.BadZipFile):
        return None  # somebody else's metadata


def expected_pixels(metadata: FileMetadata | None, given: Pixels | None) -> Pixels:
    """What a file expects of its input: as the user says, else as the file itself says."""
    if given is not None or metadata is None:
        return given or OWN_PIXELS
    return Pixels(tuple(metadata.pixels["mean"]), tuple(metadata.pixels["std"]))


def _zip_values(path: Path) -> dict[str, Any] | None:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return dict(json.loads(archive.read(JSON_MEMBER))[OWN_KEY])


def _onnx_values(path: Path) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(json.loads(session.get_modelmeta().custom_metadata_map[OWN_KEY]))
