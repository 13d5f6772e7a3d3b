"""Decoded photos come back as they were, wherever they were stored."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from distill.data import photo_store
from distill.data.manifest import Examples
from distill.data.photo_store import PhotoStore
from distill.data.scan import scan_folder
from eval.photo_files import decode_photo

LARGEST_IMAGE = 16
SHORT_SIDE = 32  # twice the largest image


@pytest.fixture
def examples(photo_folder: Path) -> Examples:
    return scan_folder(photo_folder)["train"]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is decoded."""
    paths: list[Path] = []

    def counting(path: Path, max_short_side: int | None = None) -> np.ndarray:
        paths.append(path)
        return decode_photo(path, max_short_side)

    monkeypatch.setattr(photo_store, "decode_photo", counting)
    return paths


def without_memory(store: PhotoStore) -> PhotoStore:
    store._bytes_left = 0
    return store


def read_all(store: PhotoStore, examples: Examples) -> list[np.ndarray]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(store.photo, examples.ids, examples.paths))


def test_memory_and_disk_give_back_what_was_decoded(
    examples: Examples, decoded: list[Path], tmp_path: Path
) -> None:
    in_memory = PhotoStore(LARGEST_IMAGE)
    on_disk = without_memory(PhotoStore(LARGEST_IMAGE, tmp_path))
    for store in (in_memory, on_disk):
        decoded.clear()
        first = read_all(store, examples)
        assert len(decoded) == len(examples)
        second = read_all(store, examples)
        assert len(decoded) == len(examples)  # every photo once
        for photo, again, path in zip(first, second, examples.paths, strict=True):
            np.testing.assert_array_equal(photo, decode_photo(path, SHORT_SIDE))
            np.testing.assert_array_equal(again, photo)


def test_what_does_not_fit_is_decoded_again(
    examples: Examples, decoded: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = without_memory(PhotoStore(LARGEST_IMAGE, tmp_path))
    num_bytes = decode_photo(examples.paths[0], SHORT_SIDE).nbytes
    # The store may use space for three and a half photos.
    usage = type("Usage", (), {"free": int(3.5 * num_bytes / photo_store.SHARE_OF_FREE_SPACE)})
    monkeypatch.setattr(photo_store.shutil, "disk_usage", lambda folder: usage)
    read_all(store, examples)
    read_all(store, examples)
    assert len(decoded) == 2 * len(examples) - 3


def test_stores_of_several_processes_share_the_space(
    examples: Examples, decoded: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = decode_photo(examples.paths[0], SHORT_SIDE).nbytes
    # One store alone might use space for twelve and a half photos, in memory and on the disk.
    free = int(12.5 * num_bytes / photo_store.SHARE_OF_FREE_SPACE)
    disk = type("Usage", (), {"free": free})
    monkeypatch.setattr(photo_store, "free_memory", lambda: free)
    monkeypatch.setattr(photo_store.shutil, "disk_usage", lambda folder: disk)
    store = PhotoStore(LARGEST_IMAGE, tmp_path, num_stores=4)
    read_all(store, examples)
    read_all(store, examples)
    assert len(decoded) == 2 * len(examples) - (3 + 3)


def test_views_of_a_photo_that_are_made_together_decode_it_once(
    examples: Examples, decoded: list[Path]
) -> None:
    """Also where nothing can be stored: labelling makes all views of a photo, one after another."""
    nowhere = without_memory(PhotoStore(LARGEST_IMAGE))
    together = Barrier(4)

    def view(row: int) -> np.ndarray:
        together.wait()
        return nowhere.photo(examples.ids[row // 4], examples.paths[row // 4])

    with ThreadPoolExecutor(4) as pool:
        photos = list(pool.map(view, range(4 * 10)))
    assert len(decoded) < 2 * 10  # a thread may come when the others have it already
    for row, photo in enumerate(photos):
        np.testing.assert_array_equal(photo, decode_photo(examples.paths[row // 4], SHORT_SIDE))


def test_views_that_are_made_together_take_the_space_once(examples: Examples) -> None:
    store = PhotoStore(LARGEST_IMAGE)
    store._bytes_left = 2**30
    with ThreadPoolExecutor(4) as pool:
        rows = [row for row in range(10) for _ in range(4)]
        list(pool.map(lambda row: store.photo(examples.ids[row], examples.paths[row]), rows))
    held = sum(photo.nbytes for photo in store._in_memory.values())
    assert store._bytes_left == 2**30 - held


def test_a_photo_that_cannot_be_decoded_is_an_error_for_every_view(
    examples: Examples, tmp_path: Path
) -> None:
    store = PhotoStore(LARGEST_IMAGE)
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            store.photo("gone", tmp_path / "gone.png")
    assert not store._being_decoded


def test_nothing_stays_on_the_disk(examples: Examples, tmp_path: Path) -> None:
    folder = tmp_path / "overflow"
    folder.mkdir()
    read_all(without_memory(PhotoStore(LARGEST_IMAGE, folder)), examples)
    assert not list(folder.iterdir())


def test_photos_of_other_splits_share_the_store(
    photo_folder: Path, examples: Examples, decoded: list[Path]
) -> None:
    """The student may learn from more photos than the teacher did."""
    fewer = Examples(examples.ids[1:], examples.paths[1:], examples.labels[1:], examples.classes)
    with PhotoStore(LARGEST_IMAGE) as store:
        read_all(store, fewer)
        read_all(store, examples)
    assert len(decoded) == len(examples)


def test_the_end_of_the_block_frees_the_photos(examples: Examples, decoded: list[Path]) -> None:
    with PhotoStore(LARGEST_IMAGE) as store:
        read_all(store, examples)
    assert not store._in_memory
