"""Decoded photos come back as they were, wherever they were kept."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from distill.data import photo_store
from distill.data.manifest import Examples
from distill.data.photo_store import PhotoStore, shared_store
from distill.data.scan import scan_folder
from eval.images import decode_photo


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


def read_all(store: PhotoStore, count: int) -> list[np.ndarray]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(store, np.arange(count)))


def test_memory_and_disk_give_back_what_was_decoded(
    examples: Examples, decoded: list[Path], tmp_path: Path
) -> None:
    in_memory = PhotoStore(examples, 32)
    on_disk = without_memory(PhotoStore(examples, 32, tmp_path))
    for store in (in_memory, on_disk):
        decoded.clear()
        first = read_all(store, len(examples))
        assert len(decoded) == len(examples)
        second = read_all(store, len(examples))
        assert len(decoded) == len(examples)  # once each
        for photo, again, path in zip(first, second, examples.paths, strict=True):
            np.testing.assert_array_equal(photo, decode_photo(path, 32))
            np.testing.assert_array_equal(again, photo)


def test_what_does_not_fit_is_decoded_again(
    examples: Examples, decoded: list[Path], tmp_path: Path
) -> None:
    store = without_memory(PhotoStore(examples, 32, tmp_path))
    store._overflow._bytes_left = 3 * decode_photo(examples.paths[0], 32).nbytes
    read_all(store, len(examples))
    read_all(store, len(examples))
    assert len(decoded) == 2 * len(examples) - 3


def test_nothing_stays_on_the_disk(examples: Examples, tmp_path: Path) -> None:
    folder = tmp_path / "overflow"
    folder.mkdir()
    read_all(without_memory(PhotoStore(examples, 32, folder)), len(examples))
    assert not list(folder.iterdir())


def test_those_who_see_the_same_photos_share_a_store(examples: Examples, tmp_path: Path) -> None:
    store = shared_store(examples, 32, tmp_path)
    assert shared_store(examples, 32, tmp_path) is store
    assert shared_store(examples, 64, tmp_path) is not store
    fewer = Examples(examples.ids[1:], examples.paths[1:], examples.labels[1:], examples.classes)
    assert shared_store(fewer, 64, tmp_path) is not shared_store(examples, 64, tmp_path)
