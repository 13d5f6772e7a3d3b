"""What a model file says of itself: classes, pixels, where it came from.

In a `.tflite` file it is a ZIP behind the model (labels.txt and metadata.json), as other tools
write it; in an `.onnx` file it is metadata_props.
"""

import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eval.accuracy import OWN_PIXELS, Pixels
from eval.machine import package_version

PREFIX = "potstill."


@dataclass(frozen=True)
class FileMetadata:
    """What readers of a file need to know.

    Attributes:
        output: "probabilities" or "logits".
        pixels: range, mean and std: the input is (pixel - mean) / std.
        image_size: height and width of the input, in pixels.
        split: shares of the validation and test photos, so that the same photos test it again.
        source: name of the model the file was made of.
    """

    classes: list[str]
    output: str
    pixels: dict[str, Any]
    image_size: list[int]
    source: str
    recipe: str
    split: dict[str, float] | None = None
    potstill: str = field(default_factory=lambda: package_version("potstill") or "")


def write_metadata(path: Path, metadata: FileMetadata) -> None:
    """Add metadata to a file in place; the caller keeps it under a temporary name meanwhile."""
    if path.suffix == ".onnx":
        _write_onnx(path, metadata)
        return
    if read_metadata(path) is not None:
        raise ValueError(f"{path} has metadata already")
    # Stored, not deflated: MediaPipe's readers refuse compressed members.
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        for name, text in (
            ("labels.txt", "".join(f"{_one_line(name)}\n" for name in metadata.classes)),
            ("metadata.json", json.dumps(asdict(metadata), indent=2)),
        ):
            # A fixed date: the same model gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _write_onnx(path: Path, metadata: FileMetadata) -> None:
    import onnx

    model = onnx.load(path)
    # "names" is where others look for classes; ours is whole under its own prefix.
    props = {key: json.dumps(value) for key, value in asdict(metadata).items()}
    names = {str(i): name for i, name in enumerate(metadata.classes)}
    onnx.helper.set_model_props(
        model, {**{PREFIX + k: v for k, v in props.items()}, "names": json.dumps(names)}
    )
    onnx.save(model, path)


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
        return dict(json.loads(archive.read("metadata.json")))


def _onnx_values(path: Path) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    props = session.get_modelmeta().custom_metadata_map
    return {
        key.removeprefix(PREFIX): json.loads(value)
        for key, value in props.items()
        if key.startswith(PREFIX)
    }
