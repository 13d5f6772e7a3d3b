"""Files in object storage: listed, read, copied both ways; and what goes wrong, in sentences."""

import asyncio
import gc
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import StepFailed, UserError
from configs.remote import storage
from configs.remote.storage import NotStored, fetch, is_url, put, read_stored, stored_files
from object_storage import Put


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("s3://bucket/photos", True), ("gs://bucket", True), ("memory://x", True),
        ("photos", False), ("/data/photos", False), ("tfds:cats_vs_dogs", False),
        ("C://photos", False), ("hf:user/flowers", False), ("://x", False),
    ],
)  # fmt: skip
def test_a_url_is_told_from_a_path(place: str, expected: bool) -> None:
    assert is_url(place) == expected


def test_files_are_listed_below_a_folder_and_read(put_files: Put) -> None:
    bucket = put_files({"p/cat/1.png": b"one", "p/cat/deep/2.png": b"four", "other/3.png": b""})
    files = {file.name: file.num_bytes for file in stored_files(f"{bucket}/p")}
    assert files == {"cat/1.png": 3, "cat/deep/2.png": 4}
    assert [file.name for file in stored_files(f"{bucket}/p/cat", below=False)] == ["1.png"]
    assert {f.name for f in stored_files(bucket)} == {f"p/{n}" for n in files} | {"other/3.png"}
    assert read_stored(f"{bucket}/p/cat/deep/2.png") == b"four"
    (file,) = stored_files(f"{bucket}/p/cat", below=False)
    assert abs(file.seconds - time.time()) < 60


def test_a_large_file_comes_back_as_it_was_put(
    put_files: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", 5 * 2**20)  # the smallest that S3 allows
    content = os.urandom(12 * 2**20)
    (tmp_path / "labels.npy").write_bytes(content)
    url = f"{put_files({})}/labels.npy"
    put(tmp_path / "labels.npy", url)
    fetch(url, tmp_path / "copy" / "labels.npy")
    assert (tmp_path / "copy" / "labels.npy").read_bytes() == content
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["labels.npy"]


def test_a_copy_that_is_cut_short_shows_nothing(
    put_files: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsspec would finish it when Python drops the file."""
    monkeypatch.setattr(storage, "PART_BYTES", 5 * 2**20)
    bucket = put_files({"old.npy": b"whole"})
    (tmp_path / "labels.npy").write_bytes(os.urandom(12 * 2**20))

    class Interrupted:
        def __init__(self, path: Path, mode: str) -> None:
            self.parts = [b"a" * (5 * 2**20)]

        def __enter__(self) -> "Interrupted":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def read(self, num_bytes: int) -> bytes:
            if self.parts:
                return self.parts.pop()
            raise KeyboardInterrupt

    monkeypatch.setattr(storage, "open", Interrupted, raising=False)
    for name in ("old.npy", "new.npy"):
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path / "labels.npy", f"{bucket}/{name}")
    gc.collect()
    assert read_stored(f"{bucket}/old.npy") == b"whole"
    assert [file.name for file in stored_files(bucket)] == ["old.npy"]


def test_a_file_that_is_copied_to_its_own_folder_stays_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "a folder" / "labels.npy"
    source.parent.mkdir()
    source.write_bytes(b"labels")
    put(source, f"file://{source}")
    assert source.read_bytes() == b"labels"
    put(source, f"file://{tmp_path}/another one/labels.npy")
    assert (tmp_path / "another one" / "labels.npy").read_bytes() == b"labels"
    assert len(list(tmp_path.rglob("*.npy"))) == 2


@pytest.mark.parametrize("name", ["a::b.png", "a b?.png", "50%20.png", "a#b.png"])
def test_names_of_any_characters_are_read(put_files: Put, name: str, tmp_path: Path) -> None:
    bucket = put_files({f"p/{name}": b"one", "p/a": b"another"})
    assert name in {file.name for file in stored_files(f"{bucket}/p")}
    assert read_stored(f"{bucket}/p/{name}") == b"one"
    fetch(f"{bucket}/p/{name}", tmp_path / "photo")
    assert (tmp_path / "photo").read_bytes() == b"one"


def test_what_is_not_there_is_said(put_files: Put) -> None:
    bucket = put_files({"p/1.png": b"one"})
    with pytest.raises(NotStored, match=r"s3://no-such-bucket/p does not exist\. Check the names"):
        list(stored_files("s3://no-such-bucket/p"))
    with pytest.raises(NotStored, match="q does not exist"):
        list(stored_files(f"{bucket}/q"))
    with pytest.raises(NotStored, match=r"2\.png does not exist"):
        read_stored(f"{bucket}/p/2.png")


def test_a_storage_without_credentials_asks_for_them(
    put_files: Put, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_clients: Callable[[], None]
) -> None:
    bucket = put_files({"p/1.png": b"one"})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    new_clients()
    with pytest.raises(UserError, match=r"no permission for s3://.*AWS_PROFILE"):
        read_stored(f"{bucket}/p/1.png")


def test_a_storage_that_refuses_the_credentials_names_them(
    put_files: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = put_files({"p/1.png": b"one"})
    # From now on the server looks for the owner of a key, and has no such user.
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0.0)
    with pytest.raises(UserError, match=rf"no permission for {bucket}/p .*AWS_ACCESS_KEY_ID"):
        list(stored_files(f"{bucket}/p"))


def test_an_endpoint_that_is_down_is_named(
    put_files: Put, monkeypatch: pytest.MonkeyPatch, new_clients: Callable[[], None]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    new_clients()
    with pytest.raises(StepFailed, match=rf"reached at {endpoint} \(AWS_ENDPOINT_URL\): "):
        list(stored_files("s3://bucket/photos"))


def test_an_endpoint_that_never_answers_is_left_in_time(
    put_files: Put, monkeypatch: pytest.MonkeyPatch, new_clients: Callable[[], None]
) -> None:
    monkeypatch.setattr(storage, "SECONDS_TO_ANSWER", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        new_clients()
        start = time.monotonic()
        with pytest.raises(StepFailed, match="no answer in 1 seconds"):
            list(stored_files("s3://bucket/photos"))
        assert time.monotonic() - start < 5


def test_a_long_list_may_take_its_time(put_files: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes in pages, and the limit is for one request."""
    import s3fs

    bucket = put_files({"p/1.png": b"one"})
    original = s3fs.S3FileSystem._lsdir

    async def slow(*values: object, **options: object) -> object:
        await asyncio.sleep(1.5)
        return await original(*values, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_lsdir", slow)
    monkeypatch.setattr(storage, "SECONDS_TO_ANSWER", 1)
    assert [file.name for file in stored_files(f"{bucket}/p")] == ["1.png"]


def test_an_unknown_kind_of_url_and_a_missing_package_are_said() -> None:
    with pytest.raises(UserError, match="nowhere://x cannot be read"):
        read_stored("nowhere://x")
    with pytest.raises(UserError, match=r"pip install 'potstill\[gs\]'"):
        read_stored("gs://bucket/photo.png")
