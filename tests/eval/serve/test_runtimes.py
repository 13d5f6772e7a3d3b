"""The runtimes of browsers: downloaded once, and only if they are the expected files."""

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from configs.errors import StepFailed, UserError
from eval.serve import runtimes
from eval.serve.runtimes import Package, fetch_runtimes, installed_runtimes


def archive_of(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


CONTENT = archive_of(
    {"package/dist/index.js": b'import { a } from "@litertjs/wasm-utils";', "../evil": b"x"}
)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry with one small package, and an empty cache."""
    package = Package(
        "@some/runtime", "1.0.0", hashlib.sha256(CONTENT).hexdigest(),
        {"package/dist/index.js": "litert.js"},
    )  # fmt: skip
    monkeypatch.setattr(runtimes, "PACKAGES", (package,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "registry"
    path = root / "@some" / "runtime" / "-" / "runtime-1.0.0.tgz"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever).start()
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
    yield path
    server.shutdown()
    server.server_close()


def test_they_are_downloaded_and_unpacked(registry: Path) -> None:
    assert installed_runtimes() == {}
    folder = fetch_runtimes()
    assert installed_runtimes() == {"litert.js": folder / "litert.js"}
    # Browsers find no package by its name.
    assert (folder / "litert.js").read_bytes() == b'import { a } from "./wasm-utils.js";'
    assert sorted(path.name for path in folder.iterdir()) == ["litert.js", "manifest.json"]


def test_other_bytes_than_expected_are_not_unpacked(registry: Path) -> None:
    registry.write_bytes(archive_of({"package/dist/index.js": b"something else"}))
    with pytest.raises(UserError, match="is not the file that was expected: its SHA-256"):
        fetch_runtimes()
    assert installed_runtimes() == {}


def test_a_machine_without_a_network_takes_the_archives_of_another(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
    with pytest.raises(StepFailed, match="npm pack @some/runtime"):
        fetch_runtimes()
    with pytest.raises(UserError, match="npm pack @some/runtime"):
        fetch_runtimes(tmp_path)
    (tmp_path / "some-runtime-1.0.0.tgz").write_bytes(CONTENT)
    fetch_runtimes(tmp_path)
    assert set(installed_runtimes()) == {"litert.js"}
