"""NumPy files: what their values mean, and that no pickle in them runs."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema.data import DataConfig
from distill.data.scan import data_step
from made_photos import data_of, num_of, pixels_of, stored_pixels

X = np.stack([pixels_of(seed) for seed in range(24)])
Y = np.arange(24) % 2


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def pixels_in_order(run: Path, path: Path) -> tuple[np.ndarray, list[str]]:
    """The pixels and labels of all photos, as the array has them."""
    facts, photos = data_of(run, path=path)
    photos = sorted(photos, key=lambda photo: photo.path)
    return np.stack([stored_pixels(run, p, facts) for p in photos]), [p.label for p in photos]


def test_photos_and_labels_are_those_of_the_arrays(tmp_path: Path) -> None:
    pixels, labels = pixels_in_order(tmp_path / "run", save(tmp_path / "a.npz", x=X, y=Y))
    assert np.array_equal(pixels, X)
    assert labels == [str(label) for label in Y]


@pytest.mark.parametrize(
    ("x", "tolerance"),
    [
        (X.astype("float32") / 255, 0),
        (X.astype("float64"), 0),
        (X.astype("float32") / 127.5 - 1, 0),
        (X.astype("int64"), 0),
        (np.moveaxis(X, 3, 1), 0),
        (np.asfortranarray(X[..., 0]).copy(order="C"), None),
        (np.concatenate([X, np.full((*X.shape[:3], 1), 255, "uint8")], axis=3), 0),
    ],
    ids=["0..1", "0..255", "-1..1", "integers", "channels first", "grey", "RGBA"],
)
def test_values_of_any_range_become_the_same_pixels(
    tmp_path: Path, x: np.ndarray, tolerance: int | None
) -> None:
    pixels, _ = pixels_in_order(tmp_path / "run", save(tmp_path / "a.npz", x=x, y=Y))
    expected = X if tolerance is not None else np.repeat(X[..., :1], 3, axis=3)
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("y", "more", "names"),
    [
        (Y[:, None], {}, {"0", "1"}),
        (np.eye(2)[Y], {}, {"0", "1"}),
        (Y.astype("float32"), {}, {"0", "1"}),
        (np.array(["cat", "dog"])[Y], {}, {"cat", "dog"}),
        (np.array([b"cat", b"dog"])[Y], {}, {"cat", "dog"}),
        (Y, {"class_names": np.array(["tench", "robin"])}, {"tench", "robin"}),
        (np.arange(24) % 12, {}, {f"{number:02d}" for number in range(12)}),
    ],
)
def test_labels_of_any_kind_become_names(tmp_path: Path, y, more, names: set[str]) -> None:
    facts, _ = data_of(
        tmp_path / "run", path=save(tmp_path / "a.npz", x=X, y=y, **more), test=0.4, validation=0.4
    )
    assert set(facts["classes"]) == names


@pytest.mark.parametrize("form", ["x_{0}", "{0}_images"])
def test_splits_of_a_file_decide(tmp_path: Path, form: str) -> None:
    arrays = {
        form.format(split): X[start : start + 8]
        for split, start in (("train", 0), ("val", 8), ("test", 16))
    }
    labels = {"x_{0}": "y_{0}", "{0}_images": "{0}_labels"}[form]
    arrays |= {labels.format(split): Y[:8] for split in ("train", "val", "test")}
    facts, photos = data_of(tmp_path / "run", path=save(tmp_path / "a.npz", **arrays))
    assert [facts[f"num_{s}"] for s in ("train", "validation", "test")] == [8, 8, 8]
    assert num_of(photos) == {"0": 12, "1": 12}


class Executed:
    def __reduce__(self):
        return os.mkdir, (os.environ["MARK"],)


@pytest.mark.parametrize("key", ["x", "y"])
def test_a_pickle_is_not_loaded(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARK", str(tmp_path / "executed"))
    arrays = {"x": X, "y": Y} | {key: np.array([Executed()] * 24, object)}
    with pytest.raises(UserError, match="holds Python objects"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=save(tmp_path / "a.npz", **arrays)))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": X}, "holds x. Expected photos x"),
        ({"x": X, "y": Y[:5]}, "24 photos in x and 5 labels"),
        ({"x": X[..., :2], "y": Y}, r"x in .* is uint8 \(24, 12, 16, 2\)"),
        ({"x": X[0], "y": Y}, "24 labels"),
        ({"x": X.reshape(24, -1), "y": Y}, r"is uint8 \(24, 576\)"),
        ({"x": X * 100.0, "y": Y}, "values from 0 to 25500"),
        ({"x": X, "y": np.ones((24, 3))}, "several labels for a photo"),
        ({"x": X, "y": Y + 0.5}, "y in .* is float64"),
        ({"x": np.full(X.shape, np.nan), "y": Y}, "values from"),
        ({"x": X[:0], "y": Y[:0]}, r"\(0, 12, 16, 3\)"),
    ],
)
def test_arrays_that_are_no_photos_are_an_error(tmp_path: Path, arrays, says: str) -> None:
    with pytest.raises(UserError, match=says):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=save(tmp_path / "a.npz", **arrays)))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 half"])
def test_a_file_that_is_no_npz_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz cannot be read"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=tmp_path / "a.npz"))


def test_an_array_shorter_than_its_header_says_is_an_error(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.npz", x=X, y=Y)
    with zipfile.ZipFile(whole) as before, zipfile.ZipFile(tmp_path / "a.npz", "w") as after:
        after.writestr("x.npy", before.read("x.npy")[:-500])
        after.writestr("y.npy", before.read("y.npy"))
    with pytest.raises(UserError, match="cut short"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=tmp_path / "a.npz"))


@pytest.mark.parametrize(
    "header", ["((((", "{'descr': '<U999999999', 'fortran_order': False, 'shape': (24,)}", "\0"]
)
def test_an_array_with_a_hostile_header_is_an_error(tmp_path: Path, header: str) -> None:
    encoded = header.encode()
    start = b"\x93NUMPY\x01\x00" + len(encoded).to_bytes(2, "little")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", start + encoded + b"\0" * 100)
        archive.writestr("y.npy", start + encoded + b"\0" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        data_of(tmp_path / "run", path=tmp_path / "a.npz")


def test_a_label_of_impossible_characters_is_an_error(tmp_path: Path) -> None:
    labels = np.array(["cat", "dog"])[Y]
    labels.view("u4")[0] = 0x20000061
    path = save(tmp_path / "a.npz", x=X, y=labels)
    with pytest.raises(UserError, match="cannot be read"):
        data_of(tmp_path / "run", path=path)
