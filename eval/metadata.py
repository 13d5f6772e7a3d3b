"""The metadata inside a model file: its classes, its pixels, and where it came from.

`compress/recipes/metadata.py` writes it: into the ZIP behind a `.tflite` model, into the
metadata_props of an `.onnx` model. Files also come from strangers, so nothing in them is trusted:
sizes are bounded, types are checked, and what cannot be read counts as no metadata.
"""

import io
import logging
import os
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from configs.artifacts import ending
from configs.contract import Channels, Fit, Interpolation, Pixels, Statement
from configs.records import to_json
from eval.devices.machine import package_version
from eval.scoring.threshold import Threshold

log = logging.getLogger("potstill")
Record = TypeVar("Record")

JSON_MEMBER = "metadata.json"
OWN_KEY = "potstill"
"""The key of all values of ours, beside the keys that other tools look for."""

MAX_JSON_BYTES = 4 << 20
"""Metadata of fifty thousand classes is smaller."""
MAX_ZIP_BYTES = 2 * MAX_JSON_BYTES
"""How much of the end of a file is searched for a ZIP."""


def class_name(text: str) -> str:
    """The name of a class in Unicode form NFC, because macOS writes names of folders in another."""
    return unicodedata.normalize("NFC", text)


Share = Annotated[float, Field(ge=0, lt=1)]
ClassName = Annotated[str, AfterValidator(class_name)]
ImageSize = Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=2, max_length=2)]


@dataclass(frozen=True)
class SplitShares:
    """Which share of the photos was kept for validation and for the test."""

    validation: Share
    test: Share


@dataclass(frozen=True)
class FileMetadata:
    """What readers of a file need to know.

    Attributes:
        output: `scores` are independent probabilities, as of several sigmoids.
        pixels: the range that the file expects.
        image_size: height and width of the input, in pixels.
        parent: name of the model the file was made from.
        split: of the photos the parent was trained on, so that the same photos test the file again.
        channels: of the input: RGB, or grey for one channel.
        fit, interpolation: how a photo is fitted to the input.
        contract: of the foreign model that the file was made from, where it was not this one's.
        has_names: whether `classes` are names; otherwise nobody knew them, and they are numbers.
        threshold: the score below which a photo may show none of the classes; None if there is
            none.
        version: of Potstill.
    """

    classes: Annotated[list[ClassName], Field(min_length=1)]
    output: Literal["probabilities", "logits", "scores"]
    pixels: Pixels
    image_size: ImageSize
    parent: Annotated[str, Field(alias="source")]
    recipe: str
    split: SplitShares | None = None
    channels: Channels = "rgb"
    fit: Fit = "crop"
    interpolation: Interpolation = "bilinear"
    contract: dict[str, object] | None = None
    has_names: bool = True
    threshold: Threshold | None = None
    version: str = field(default_factory=lambda: package_version("potstill") or "")

    @property
    def description(self) -> str:
        """One line for people."""
        size = " x ".join(map(str, self.image_size))
        return f"{self.parent}, {self.recipe}: {len(self.classes)} classes at {size} pixels"

    def describe(self) -> dict[str, Any]:
        """The JSON value that is written under OWN_KEY, without null and without defaults."""
        values = {**to_json(self), "pixels": self.pixels.describe()}
        defaults = {
            "channels": "rgb",
            "fit": "crop",
            "interpolation": "bilinear",
            "has_names": True,
        }
        return {
            key: value
            for key, value in values.items()
            if value is not None and defaults.get(key) != value
        }

    @property
    def statement(self) -> Statement:
        """What the file says of its contract: everything."""
        return Statement(
            pixels=self.pixels,
            channels=self.channels,
            fit=self.fit,
            interpolation=self.interpolation,
            labels=tuple(self.classes) if self.has_names else None,
            answers=self.output,
        )


@dataclass(frozen=True)
class _JsonMember:
    """`metadata.json` in a ZIP; the keys of other tools are ignored."""

    potstill: FileMetadata | None = None


class _Unreadable(Exception):
    """Metadata that is damaged or hostile. The message says why, in a few words."""


_OWN = TypeAdapter(FileMetadata)
_MEMBER = TypeAdapter(_JsonMember)

_DAMAGED_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError,
    RuntimeError, ValueError, LookupError,
)  # fmt: skip
"""What `zipfile` raises on damaged or unsupported archives; NotImplementedError is among them."""


def read_metadata(path: Path, num_classes: int | None = None) -> FileMetadata | None:
    """The metadata of a file; None where it has none of ours, or none that can be read.

    Args:
        num_classes: of the model in the file; metadata with another number is not its own.
    """
    try:
        is_onnx = ending(path) == ".onnx"
        metadata = _from_onnx(path) if is_onnx else _from_zip(path)
        if metadata and num_classes not in (None, len(metadata.classes)):
            raise _Unreadable(f"it has {len(metadata.classes)} classes, the model {num_classes}")
    except _Unreadable as problem:
        log.warning(
            "%s: its metadata is ignored, with class names and pixel range: %s.", path, problem
        )
        return None
    return metadata


class ZipMembers:
    """The small text files in the ZIP behind a model, read within bounds.

    Raises nothing for what is damaged or hostile: a member that cannot be read is not there.
    """

    def __init__(self, path: Path) -> None:
        self._stream = _end_of(path)

    def text(self, name: str) -> str | None:
        """A member as text; None without it."""
        try:
            content = _zip_member(self._stream, name)
            return None if content is None else content.decode()
        except (_Unreadable, UnicodeDecodeError):
            return None


def _from_zip(path: Path) -> FileMetadata | None:
    content = _zip_member(_end_of(path), JSON_MEMBER)
    return None if content is None else _parsed(_MEMBER, content).potstill


def _end_of(path: Path) -> io.BytesIO:
    """The last bytes of a file; `zipfile` finds an archive at their end."""
    with open(path, "rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - MAX_ZIP_BYTES, 0))
        return io.BytesIO(file.read(MAX_ZIP_BYTES))


def _zip_member(stream: io.BytesIO, name: str) -> bytes | None:
    """The content of a member of a ZIP; None without a ZIP or without this member."""
    try:
        if not zipfile.is_zipfile(stream):
            return None
        with zipfile.ZipFile(stream) as archive:
            if name not in archive.namelist():
                return None
            member = archive.getinfo(name)
            # The other methods decompress a whole block at once, whatever its size.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _Unreadable(f"{name} is compressed in a way that is not supported")
            if member.flag_bits & 1:
                raise _Unreadable(f"{name} is encrypted")
            with archive.open(member) as file:
                content = file.read(MAX_JSON_BYTES + 1)
    except _DAMAGED_ZIP as error:
        raise _Unreadable(f"its ZIP is damaged ({error})") from None
    if max(member.file_size, len(content)) > MAX_JSON_BYTES:
        raise _Unreadable(f"{name} has more than {MAX_JSON_BYTES:,} bytes")
    return content


def _from_onnx(path: Path) -> FileMetadata | None:
    text = _onnx_properties(path).get(OWN_KEY)
    if text is None:
        return None
    if len(text) > MAX_JSON_BYTES:
        raise _Unreadable(f"{OWN_KEY} has more than {MAX_JSON_BYTES:,} bytes")
    return _parsed(_OWN, text)


def onnx_properties(path: Path) -> Mapping[str, str]:
    """The metadata_props of an ONNX file; empty for a file that cannot be loaded."""
    try:
        return _onnx_properties(path)
    except _Unreadable:
        return {}


def _onnx_properties(path: Path) -> Mapping[str, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        return dict(session.get_modelmeta().custom_metadata_map)
    except Exception as error:  # onnxruntime's own classes share no base but this
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _Unreadable(f"it cannot be loaded ({first_line})") from None


def _parsed(adapter: TypeAdapter[Record], content: bytes | str) -> Record:
    """The record in a JSON text. Pydantic's parser refuses more than 200 nested levels."""
    try:
        return adapter.validate_json(content, strict=True)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = "".join(f"{part}: " for part in problem["loc"][-2:])
        raise _Unreadable(where + problem["msg"]) from None
