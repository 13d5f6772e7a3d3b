"""Parquet and Arrow files, and data sets of the Hugging Face hub, all without a network."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema.data import ColumnsConfig, DataConfig, GroupConfig
from distill.data.scan import data_step
from distill.data.sources.tables import parquet
from made_photos import LABELS, data_of, num_of, pixels_of, png_of, skipped_of, stored_pixels

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

FEATURES = {"info": {"features": {"image": {"_type": "Image"},
            "label": {"names": list(LABELS), "_type": "ClassLabel"}}}}  # fmt: skip


def rows_of(num: int = 24, first: int = 0) -> dict[str, list[Any]]:
    """Rows as `datasets` writes them, with an animal for every three photos."""
    numbers = range(first, first + num)
    return {
        "image": [{"bytes": png_of(n), "path": f"IMG {n}.png"} for n in numbers],
        "label": [n % 2 for n in numbers],
        "animal": [f"animal {n // 6}{n % 2}" for n in numbers],
    }


def table_of(columns: dict[str, list[Any]], features: Any = FEATURES) -> Any:
    table = pa.table(columns)
    return table.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})


def write(path: Path, columns: dict[str, list[Any]], features: Any = FEATURES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(columns, features), path, row_group_size=10)
    return path


def test_a_parquet_file_of_photos(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", rows_of())
    facts, photos = data_of(tmp_path / "run", path=path)
    assert num_of(photos) == {"cat": 12, "dog": 12}
    by_name = {photo.path: photo for photo in photos}
    # The photos stay where they are: the sixth row of the first group of ten, for example.
    for name, number in (("@image.0.5/IMG-5.png", 5), ("@image.2.3/IMG-23.png", 23)):
        photo = by_name[f"a.parquet/{name}"]
        assert np.array_equal(stored_pixels(tmp_path / "run", photo, facts), pixels_of(number))
    assert not [path for path in (tmp_path / "run").rglob("*.png")]


def test_photos_of_large_row_groups_are_unpacked_and_stay_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", rows_of())
    _, in_place = data_of(tmp_path / "run", path=path)
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 100)
    facts, unpacked = data_of(tmp_path / "other", path=path)
    assert {p.sha256: p.label for p in unpacked} == {p.sha256: p.label for p in in_place}
    by_name = {photo.path: photo for photo in unpacked}
    photo = by_name["0000/000005-IMG-5.png"]
    assert np.array_equal(stored_pixels(tmp_path / "other", photo, facts), pixels_of(5))
    # As a run of an older version, which unpacked all photos, and is not taken again.
    monkeypatch.undo()
    inputs = data_step(RunDir(tmp_path / "other"), DataConfig(path=path)).inputs
    assert inputs == facts["inputs"]


@pytest.mark.parametrize("label", ["text", "integers"])
def test_bytes_without_a_note_of_what_they_are(tmp_path: Path, label: str) -> None:
    rows = rows_of()
    rows["image"] = [cell["bytes"] for cell in rows["image"]]
    if label == "text":
        rows["label"] = [LABELS[number] for number in rows["label"]]
    path = write(tmp_path / "a.parquet", rows, {})
    facts, _ = data_of(tmp_path / "run", path=path)
    assert facts["classes"] == (list(LABELS) if label == "text" else ["0", "1"])


def test_a_parquet_file_of_paths(tmp_path: Path) -> None:
    for number in range(24):
        (tmp_path / f"{number}.png").write_bytes(png_of(number))
    rows = {"file_name": [f"{n}.png" for n in range(24)], "label": [n % 2 for n in range(24)]}
    path = write(tmp_path / "a.parquet", rows)
    facts, photos = data_of(tmp_path / "run", path=path)
    assert num_of(photos) == {"cat": 12, "dog": 12}
    assert facts["root"] == str(tmp_path)
    assert not (tmp_path / "run" / "data" / "photos").exists()


def test_broken_bytes_are_skipped_and_listed(tmp_path: Path) -> None:
    rows = rows_of()
    rows["image"][3] = {"bytes": b"no photo", "path": "three.jpg"}
    rows["image"][4] = {"bytes": png_of(4)[:80], "path": "four.png"}
    rows["image"][5] = {"bytes": None, "path": "five.png"}
    rows["image"][6] = {"bytes": b"", "path": None}
    path = write(tmp_path / "a.parquet", rows)
    _, photos = data_of(tmp_path / "run", path=path)
    assert len(photos) == 20
    skipped = skipped_of(tmp_path / "run")
    assert skipped["a.parquet/@image.0.5/five.png"] == "no bytes"
    assert skipped["a.parquet/@image.0.6/row-7.jpg"] == "empty file"
    assert "not a photo" in skipped["a.parquet/@image.0.3/three.jpg"]
    assert "a.parquet/@image.0.4/four.png" in skipped
    rows["image"] = [{"bytes": b"x", "path": str(n)} for n in range(24)]
    with pytest.raises(UserError, match=r"24 of 24 photos"):
        data_of(tmp_path / "run2", path=write(path, rows))


def test_a_label_that_nobody_knows_is_none(tmp_path: Path) -> None:
    rows = rows_of()
    rows["label"][:4] = [-1, None, 7, -1]
    facts, _ = data_of(tmp_path / "run", path=write(tmp_path / "a.parquet", rows))
    assert facts["num_unlabelled"] == 4


@pytest.mark.parametrize("how", ["cut", "text", "pages"])
def test_a_damaged_file_is_an_error(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "a.parquet", rows_of())
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "text":
        path.write_bytes(b"just text")
    else:
        path.write_bytes(content[:4] + bytes(2000) + content[2004:])
    with pytest.raises(UserError, match=r"a\.parquet cannot be read as a Parquet file"):
        data_of(tmp_path / "run", path=path)


def test_a_folder_of_the_hub_has_its_splits_in_names_of_files(tmp_path: Path) -> None:
    for first, name in enumerate(["train-00000-of-00002", "train-00001-of-00002", "test-0-of-1"]):
        write(tmp_path / "set" / "data" / f"{name}.parquet", rows_of(first=100 * first))
    facts, photos = data_of(tmp_path / "run", source=f"hf:{tmp_path / 'set'}")
    assert facts["num_test"] == 24
    assert len(photos) == 72
    facts, _ = data_of(tmp_path / "run2", source="hf", path=tmp_path / "set", use_splits=False)
    assert facts["num_test"] < 24


def test_groups_come_from_a_column(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train" / "0.parquet", rows_of(num=60))
    source = f"hf:{tmp_path / 'set'}"
    facts, photos = data_of(tmp_path / "run", source=source, group=GroupConfig(column="animal"))
    assert facts["num_groups"] == 20
    sides: dict[str, set[str]] = {}
    for photo in photos:
        sides.setdefault(photo.group, set()).add(photo.split)
    assert all(len(splits) == 1 for splits in sides.values())


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    (tmp_path / "set" / "train").mkdir(parents=True)
    table = table_of(rows_of())
    with pa.OSFile(str(tmp_path / "set" / "train" / "data-00000-of-00001.arrow"), "wb") as file:
        writer = pa.ipc.new_stream(file, table.schema)
        writer.write_table(table, max_chunksize=7)
        writer.close()
    _, photos = data_of(tmp_path / "run", source=f"hf:{tmp_path / 'set'}")
    assert num_of(photos) == {"cat": 12, "dog": 12}


def test_several_columns_that_may_be_the_photo(tmp_path: Path) -> None:
    rows = rows_of()
    rows = {"front": rows["image"], "back": rows["image"][::-1], "label": rows["label"]}
    path = write(tmp_path / "a.parquet", rows)
    with pytest.raises(UserError, match=r"front, back, label.*data\.columns\.photo=COLUMN"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path))
    columns = ColumnsConfig(photo="back")
    assert len(data_of(tmp_path / "run", path=path, columns=columns)[1]) == 24


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the hub, without a network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_data_set_in_the_cache_of_the_hub(tmp_path: Path, offline_hub: Path) -> None:
    folder = offline_hub / "datasets--user--pets"
    link = folder / "snapshots" / "abc123" / "data" / "train-0-of-1.parquet"
    link.parent.mkdir(parents=True)
    link.symlink_to(write(folder / "blobs" / "0123abcd", rows_of()))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc123")
    facts, photos = data_of(tmp_path / "run", source="hf:user/pets")
    assert num_of(photos) == {"cat": 12, "dog": 12}
    photo = next(photo for photo in photos if photo.path.endswith("IMG-5.png"))
    assert np.array_equal(stored_pixels(tmp_path / "run", photo, facts), pixels_of(5))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("hf:user/none", r"neither a folder nor a data set(.*\n)+  hf download --repo-type"),
        ("hf:not/a/name", "neither a folder nor a data set"),
        ("hf:./none", "is not a folder"),
        ("hf", "names no data set"),
    ],
)
def test_a_data_set_that_is_not_here(
    tmp_path: Path, offline_hub: Path, source: str, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        data_step(RunDir(tmp_path / "run"), DataConfig(source=source))


def test_a_folder_without_tables(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="holds no Parquet or Arrow files"):
        data_step(RunDir(tmp_path / "run"), DataConfig(source=f"hf:{tmp_path / 'set'}"))
