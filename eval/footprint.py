"""The files of a model: their size on disk and in a download, and the digest of their content."""

import hashlib
import zlib
from pathlib import Path

from configs.artifacts import file_sha256
from configs.errors import UserError
from eval.devices.probe import ModelFileError, weight_files


def model_parts(path: Path) -> list[Path]:
    """A model file, and the files beside it that hold its weights (see `weight_files`).

    Raises:
        UserError: one of them is missing.
    """
    try:
        return [path, *weight_files(path)]
    except ModelFileError as error:
        raise UserError(f"{path} is not complete: {error}.") from None


def file_bytes(path: Path) -> int:
    """Size of a model file in bytes, with its weights."""
    return sum(part.stat().st_size for part in model_parts(path))


def zip_bytes(path: Path) -> int:
    """Size after deflate at its highest level: by this much the package in an app store grows."""
    return sum(map(_deflated_bytes, model_parts(path)))


def model_sha256(path: Path) -> str:
    """The digest of a model file; of all its files where its weights lie in others."""
    own, *others = (file_sha256(part) for part in model_parts(path))
    return hashlib.sha256("".join([own, *others]).encode()).hexdigest() if others else own


def _deflated_bytes(path: Path) -> int:
    compressor = zlib.compressobj(9)
    total = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            total += len(compressor.compress(chunk))
    return total + len(compressor.flush())
