"""LiteRT.js and ONNX Runtime Web on this machine, for pages that run files in a browser.

They come from the npm registry once. What comes is compared with the SHA-256 that stand here before
it is unpacked, and afterwards no page needs a network.
"""

import hashlib
import io
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.artifacts import digest, whole_file, write_json
from configs.errors import StepFailed, UserError
from configs.progress import track

REGISTRY = "https://registry.npmjs.org"
MAX_BYTES = 64 << 20
SECONDS = 60
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Package:
    """A package of the npm registry.

    Attributes:
        sha256: of its archive, in hexadecimal digits.
        members: the files that a page needs, and what they are called here.
    """

    name: str
    version: str
    sha256: str
    members: Mapping[str, str]

    @property
    def archive(self) -> str:
        """The name of the archive, as `npm pack` calls it."""
        return f"{self.name.replace('@', '').replace('/', '-')}-{self.version}.tgz"

    @property
    def words(self) -> str:
        """The package as npm's commands name it."""
        return f"{self.name}@{self.version}"


LITERT_BUILDS = (
    "litert_wasm_internal",
    "litert_wasm_compat_internal",
    "litert_wasm_threaded_internal",
)
"""For browsers with relaxed SIMD, for those without, and with threads."""

PACKAGES = (
    Package(
        "@litertjs/core",
        "2.5.3",
        "a97660833e9e7e1063c95e12016718881240b14f7438728a2f62785e912d30fd",
        {
            "package/dist/index.js": "litert.js",
            **{
                f"package/wasm/{build}.{kind}": f"{build}.{kind}"
                for build in LITERT_BUILDS
                for kind in ("js", "wasm")
            },
        },
    ),
    Package(
        "@litertjs/wasm-utils",
        "2.5.3",
        "ce2a1f8379c067be49e59752e5a7f40db6be09f6e497f0f11e59f17b515366a7",
        {"package/dist/index.js": "wasm-utils.js"},
    ),
    Package(
        "onnxruntime-web",
        "1.30.0",
        "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
        {
            "package/dist/ort.wasm.bundle.min.mjs": "ort.mjs",
            "package/dist/ort-wasm-simd-threaded.wasm": "ort.wasm",
            "package/dist/ort.webgpu.bundle.min.mjs": "ort-webgpu.mjs",
            "package/dist/ort-wasm-simd-threaded.asyncify.wasm": "ort-webgpu.wasm",
        },
    ),
)

IMPORTED = {"litert.js": {b'"@litertjs/wasm-utils"': b'"./wasm-utils.js"'}}
"""Browsers find no package by its name, so one import is written as a path."""


def runtimes_folder() -> Path:
    """Where the runtimes lie: in the user's cache, one folder for each set of files."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    parts = [[package.sha256, dict(package.members)] for package in PACKAGES]
    return Path(cache) / "potstill" / "browser" / digest(parts)


def installed_runtimes() -> dict[str, Path]:
    """The files of the runtimes by the names that pages use; empty before they were fetched."""
    folder = runtimes_folder()
    if not (folder / MANIFEST).is_file():
        return {}
    return {name: folder / name for package in PACKAGES for name in package.members.values()}


def fetch_runtimes(archives: Path | None = None) -> Path:
    """Download, check and unpack the runtimes; returns their folder.

    Args:
        archives: a folder with the archives that `npm pack` wrote, for machines without a network.

    Raises:
        UserError: an archive is missing, or it is another one than expected.
        StepFailed: the registry does not answer.
    """
    folder = runtimes_folder()
    for package in PACKAGES:
        content = _downloaded(package) if archives is None else _read(package, archives)
        found = hashlib.sha256(content).hexdigest()
        if found != package.sha256:
            raise UserError(
                f"{package.archive} is not the file that was expected: its SHA-256 is {found}, "
                f"expected {package.sha256}. Nothing of it was unpacked."
            )
        _unpack(package, content, folder)
    write_json(folder / MANIFEST, {p.words: p.sha256 for p in PACKAGES})
    return folder


def _read(package: Package, archives: Path) -> bytes:
    path = archives / package.archive
    if not path.is_file():
        words = " ".join(p.words for p in PACKAGES)
        raise UserError(
            f"{path} does not exist. Get the archives on a machine with a network:\n"
            f"  npm pack {words}"
        )
    return path.read_bytes()


def _downloaded(package: Package) -> bytes:
    registry = os.environ.get("NPM_CONFIG_REGISTRY", REGISTRY).rstrip("/")
    url = f"{registry}/{package.name}/-/{package.name.split('/')[-1]}-{package.version}.tgz"
    content = io.BytesIO()
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as response:
            size = int(response.headers.get("Content-Length") or 0)
            with track(package.words, size) as advance:
                while (part := response.read(1 << 18)) and content.tell() <= MAX_BYTES:
                    content.write(part)
                    advance(content.tell())
    except (OSError, urllib.error.URLError) as error:
        words = " ".join(p.words for p in PACKAGES)
        raise StepFailed(
            f"{url} cannot be loaded ({error}). On a machine with a network, type\n"
            f"  npm pack {words}\nand here\n  evaluate runtimes --from FOLDER"
        ) from None
    return content.getvalue()


def _unpack(package: Package, content: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member, name in package.members.items():
            file = archive.extractfile(member)
            if file is None:
                raise UserError(f"{package.archive} has no file {member}.")
            text = file.read()
            for old, new in IMPORTED.get(name, {}).items():
                text = text.replace(old, new)
            with whole_file(folder / name) as unfinished:
                unfinished.write_bytes(text)
