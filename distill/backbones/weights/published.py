"""Published files of weights: in Keras' folder, or downloaded into it once."""

import hashlib
import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

from keras.src.backend import config as keras_config

from configs.artifacts import whole_file
from configs.errors import StepFailed, UserError, ran_out_of_space
from configs.progress import track

CATALOGUE = Path(__file__).parents[1] / "catalogue.json"
CHUNK_BYTES = 2**20
TIMEOUT_SECONDS = 30.0
MD5_DIGITS = 32


@dataclass(frozen=True)
class Published:
    """A file of weights that somebody publishes.

    Attributes:
        file: its name in `$KERAS_HOME/models/`.
        checksum: MD5 (32 digits), or the first digits of the SHA-256. None where its publisher
            gives none; then the length that the server states has to do.
    """

    file: str
    url: str
    checksum: str | None

    @property
    def path(self) -> Path:
        """The place of the file on this machine, whether it is there or not."""
        return Path(keras_config.keras_home()).expanduser() / "models" / self.file

    @property
    def kind_of_checksum(self) -> str:
        """For people."""
        return "MD5" if len(self.checksum or "") == MD5_DIGITS else "SHA-256"


@cache
def catalogue() -> Mapping[str, Mapping]:
    """What is known of each backbone without building it: counts, and files of weights.

    `benchmarks/backbone_walk.py --catalogue` writes it.
    """
    return json.loads(CATALOGUE.read_text(encoding="utf-8"))


def published_weights(name: str) -> Mapping[float, Published]:
    """The published ImageNet weights of a backbone, by the width of the network; may be empty."""
    files = catalogue().get(name, {}).get("imagenet", {})
    return {float(width): Published(**file) for width, file in files.items()}


def find_published(name: str) -> Path | None:
    """The published file of a backbone on this machine, or None if it is not here."""
    published = published_weights(name).get(1.0)
    return published.path if published and published.path.exists() else None


def published_file(published: Published, *, of: str, instead: str) -> Path:
    """The file on this machine. It is downloaded if it is missing.

    Args:
        of: the backbone, for errors.
        instead: what a user without the file can do, as the end of "..., or ".

    Raises:
        UserError: the file that is there is not the published one.
        StepFailed: the download fails.
    """
    path = published.path
    if path.exists():
        digest = _checked_digest(published, path)
        if digest is not None:
            # It may be a file of the user's own, so it is kept.
            raise UserError(
                f"{path} is not the published file: its {published.kind_of_checksum} is {digest}, "
                f"not {published.checksum}.\nRemove it, or replace it by {published.url}"
            )
        return path
    try:
        _download(published, path)
    except (OSError, ValueError) as error:
        if ran_out_of_space(error):
            raise
        reason = error.reason if type(error) is urllib.error.URLError else error
        raise StepFailed(
            f"the ImageNet weights of {of} cannot be downloaded: {reason}\n"
            f"On a machine with a network, fetch\n  {published.url}\nand put it here as\n  {path}\n"
            f"(KERAS_HOME chooses another folder), or {instead}."
        ) from None
    return path


def _download(published: Published, path: Path) -> None:
    with (
        urllib.request.urlopen(published.url, timeout=TIMEOUT_SECONDS) as response,
        whole_file(path) as unfinished,
    ):
        num_bytes = int(response.headers.get("Content-Length") or 0)
        num_megabytes = math.ceil(num_bytes / 1e6)
        num_done = 0
        with (
            open(unfinished, "wb") as file,
            track(f"downloading {published.file} (MB)", num_megabytes) as advance,
        ):
            for chunk in _chunks(response):
                file.write(chunk)
                num_done += len(chunk)
                advance(min(math.ceil(num_done / 1e6), num_megabytes))
        if num_bytes and num_done != num_bytes:
            raise ValueError(f"{num_done} of {num_bytes} bytes came")
        digest = _checked_digest(published, unfinished)
        if digest is not None:
            raise ValueError(
                f"the {published.kind_of_checksum} of what came is {digest}, "
                f"not {published.checksum}"
            )


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _checked_digest(published: Published, path: Path) -> str | None:
    """The digest of a file that is not the published one; None if it is."""
    if published.checksum is None:
        return None
    is_md5 = len(published.checksum) == MD5_DIGITS
    digest = hashlib.md5(usedforsecurity=False) if is_md5 else hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
    digits = digest.hexdigest()
    return None if digits.startswith(published.checksum) else digits
