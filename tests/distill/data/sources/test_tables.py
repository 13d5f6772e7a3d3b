"""Tables of paths and labels, also such as people write by hand."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema.data import ColumnsConfig, DataConfig, GroupConfig
from distill.data.scan import data_step
from made_photos import LABELS, data_of, num_of, png_of, skipped_of

Rows = list[dict[str, Any]]


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Twenty photos of each class in one folder, and what a table says of them."""
    (tmp_path / "all").mkdir()
    made = []
    for k, label in enumerate(LABELS):
        for number in range(20):
            path = tmp_path / "all" / f"{label}{number}.png"
            path.write_bytes(png_of(100 * k + number))
            made.append({"path": f"all/{path.name}", "label": label})
    return made


def write(path: Path, rows: Rows, delimiter: str = ",") -> Path:
    lines = [rows[0].keys(), *(row.values() for row in rows)]
    text = "".join(delimiter.join(map(str, line)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "delimiter", "start"),
    [("a.csv", ",", ""), ("a.csv", ";", ""), ("a.tsv", "\t", ""), ("A.CSV", ",", "\ufeff")],
)
def test_a_table_of_paths_and_labels(
    tmp_path: Path, rows: Rows, name: str, delimiter: str, start: str
) -> None:
    path = write(tmp_path / name, rows, delimiter)
    path.write_text(start + path.read_text(), encoding="utf-8")
    facts, photos = data_of(tmp_path / "run", path=path)
    assert num_of(photos) == {"cat": 20, "dog": 20}
    assert facts["root"] == str(tmp_path)
    assert photos[0].path.startswith("all/")


def test_splits_and_groups_of_a_table(tmp_path: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        row["Split"] = ["Training", "test", "", "val"][number % 4]
        row["patient"] = f"p{number % 4}-{number // 8}"
    path = write(tmp_path / "a.csv", rows)
    facts, photos = data_of(tmp_path / "run", path=path)
    assert (facts["num_train"], facts["num_validation"], facts["num_test"]) == (20, 10, 10)
    group = GroupConfig(column="patient")
    facts, photos = data_of(tmp_path / "run2", path=path, group=group, use_splits=False)
    assert facts["num_groups"] == 20
    sides = defaultdict(set)
    for photo in photos:
        sides[photo.group].add(photo.split)
    assert len(sides) == 20
    assert all(len(splits) == 1 for splits in sides.values())
    assert {photo.split for photo in photos} == {"train", "validation", "test"}


def test_a_column_called_group_is_one(tmp_path: Path, rows: Rows) -> None:
    for number, row in enumerate(rows):
        row["group"] = number // 3 if number < 30 else ""
    facts, photos = data_of(tmp_path / "run", path=write(tmp_path / "a.csv", rows))
    assert facts["num_groups"] == 10
    assert sum(photo.group == "" for photo in photos) == 10


def test_photos_without_a_label_are_learned_through_the_teacher(tmp_path: Path, rows: Rows) -> None:
    for row in rows[:5]:
        row["label"] = ""
    facts, _ = data_of(tmp_path / "run", path=write(tmp_path / "a.csv", rows))
    assert facts["num_unlabelled"] == 5
    assert facts["classes"] == ["cat", "dog"]


def test_columns_of_other_names_are_named(tmp_path: Path, rows: Rows) -> None:
    odd = [{"id": 1, "wo": f"../x/{row['path']}", "was": row["label"]} for row in rows]
    (tmp_path / "x").mkdir()
    path = write(tmp_path / "x" / "a.csv", [{**r, "wo": r["wo"].replace("/x", "")} for r in odd])
    with pytest.raises(UserError, match=r"id, wo, was.*--set data\.columns\.photo=COLUMN"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path))
    columns = ColumnsConfig(photo="wo", label="wass")
    with pytest.raises(UserError, match=r"no column 'wass' .*Did you mean was\?"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path, columns=columns))
    columns = ColumnsConfig(photo="wo", label="was")
    _, photos = data_of(tmp_path / "run", path=path, columns=columns)
    assert len(photos) == 40


def test_paths_may_be_absolute_or_relative_to_another_folder(tmp_path: Path, rows: Rows) -> None:
    names = [{**row, "path": Path(row["path"]).name} for row in rows]
    path = write(tmp_path / "a.csv", names)
    with pytest.raises(UserError, match=r"names cat0\.png, which is not in .*data\.photos=FOLDER"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path))
    assert len(data_of(tmp_path / "run", path=path, photos=tmp_path / "all")[1]) == 40
    whole = [{**row, "path": tmp_path / row["path"]} for row in rows]
    assert len(data_of(tmp_path / "run2", path=write(tmp_path / "b.csv", whole))[1]) == 40


def test_missing_paths_are_skipped_and_too_many_are_an_error(tmp_path: Path, rows: Rows) -> None:
    rows[3]["path"] = "all/gone.png"
    rows[4]["path"] = ""
    rows[5]["path"] = "all/\0.png"
    path = write(tmp_path / "a.csv", rows)
    data_of(tmp_path / "run", path=path)
    assert skipped_of(tmp_path / "run") == {
        "all/gone.png": "No such file or directory",
        "row 6": "row 6 of a.csv names no photo",
        "all/?.png": "no file can have this name",
    }
    for row in rows[10:25]:
        row["path"] += ".missing.png"
    with pytest.raises(
        UserError, match=r"18 of 40 photos (.*\n)+.*No such file(.*\n)+.*max_skipped"
    ):
        data_of(tmp_path / "run", path=write(path, rows))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty. Expected a first line"),
        (b"path,label\n", "holds no rows"),
        (b"path,label\n\xff\xfe.png,cat\n", "Save it as CSV in UTF-8"),
        (b"nothing here\n1\n", "has the columns nothing here. Which one holds the photos"),
        (b"path,label\n" + b"x" * 200_000 + b",cat\n", "field larger than field limit"),
        (b"path,label,split\nall/cat0.png,cat,holdout\n", "row 2 .* has the split 'holdout'"),
    ],
)
def test_a_file_that_is_no_table_of_photos(
    tmp_path: Path, rows: Rows, content: bytes, says: str
) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UserError, match=says):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"columns": ColumnsConfig(label="x")}, r"data\.columns has no effect on source folder"),
        ({"photos": Path("/tmp")}, r"data\.photos has no effect on source folder"),
        ({"group": GroupConfig(column="x")}, r"data\.group\.column has no effect on source folder"),
        ({"source": "folder:x"}, "folder takes no name"),
        ({"source": "table"}, r"/photos is a folder\. Expected a table"),
    ],
)
def test_a_setting_without_effect_is_an_error(photo_folder: Path, settings, says: str) -> None:
    with pytest.raises(UserError, match=says):
        data_step(RunDir(photo_folder / "run"), DataConfig(path=photo_folder, **settings))
