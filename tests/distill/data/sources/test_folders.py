import unicodedata
from pathlib import Path

import pytest

from configs.errors import UserError
from distill.data.sources.folder import folder
from distill.data.sources.folders import ClassFolder, files_below, read_layout, split_of_name
from distill.data.sources.listing import Place
from support import save_photo


def fill(root: Path, *names: str, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """One photo in every class of every folder of these names."""
    for number, name in enumerate(names):
        for label in classes:
            save_photo(root / name / label / "1.png", seed=number)
    return root


def splits_of(root: Path) -> dict[str, str | None]:
    """The split of each file, by its path; None where the split rule decides."""
    return {file.path: file.split for file in folder(Place(root)).files}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[(name, "train") for name in ("train", "TRAIN", "Training", "training_set", "seg_train")],
        *[(name, "train") for name in ("train-images", "Train Data", "trainset", "images_train")],
        *[(name, "train") for name in ("train2017", "train (1)", "dataset.train")],
        *[(name, "validation") for name in ("val", "valid", "Validation", "val_set", "VALID")],
        *[(name, "validation") for name in ("dev", "eval", "evaluation-set", "val2017")],
        *[(name, "test") for name in ("test", "Testing", "test_set", "seg_test", "test images")],
        *[(name, "unlabelled") for name in ("seg_pred", "predictions", "unlabeled")],
        *[(name, None) for name in ("cat", "latest", "contest", "devices", "value", "evaluate me")],
        *[(name, None) for name in ("dataset", "images", "2017", "tést", "training_shoes", "")],
    ],
)
def test_names_of_splits(name: str, split: str | None) -> None:
    assert split_of_name(name) == split


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("training_set", "validation_set", "test_set"),
        ("Training", "Valid", "Testing"),
        ("train-data", "dev-data", "test-data"),
    ],
)
def test_split_folders_of_usual_names_are_splits(
    tmp_path: Path, train: str, validation: str, test: str
) -> None:
    assert splits_of(fill(tmp_path, train, validation, test)) == {
        f"{name}/{label}/1.png": split
        for name, split in ((train, None), (validation, "validation"), (test, "test"))
        for label in ("cat", "dog")
    }


def test_a_split_folder_may_be_nested_in_one_of_its_name(tmp_path: Path) -> None:
    fill(tmp_path, "seg_train/seg_train", "seg_test/seg_test")
    (tmp_path / "__MACOSX" / "seg_train").mkdir(parents=True)
    save_photo(tmp_path / "seg_pred" / "seg_pred" / "1.jpg", seed=9)
    listing = folder(Place(tmp_path))
    assert {file.label for file in listing.files} == {"cat", "dog"}
    assert {file.path for file in listing.files if file.split == "test"} == {
        "seg_test/seg_test/cat/1.png",
        "seg_test/seg_test/dog/1.png",
    }
    (note,) = listing.notes
    assert "seg_pred" in note
    assert "data.unlabelled" in note


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("first", "second"), r"first and second, and both hold the folders cat, dog"),
        (("cats_2019", "cats_2020", "CATS_2021"), r"CATS_2021 and cats_2019"),
        (("val", "test"), r"test and val.*train must be among them"),
        (("train", "holdout"), r"holds train and also holdout"),
    ],
)
def test_folders_with_the_same_folders_inside_are_never_classes(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_layout(fill(tmp_path, *names))


def test_splits_that_lack_a_class_or_differ_in_case_are_still_not_classes(tmp_path: Path) -> None:
    fill(tmp_path, "a", classes=("cat", "dog", "cow"))
    fill(tmp_path, "b", classes=("Cat", "Dog"))
    with pytest.raises(UserError, match="folders a and b"):
        read_layout(tmp_path)


def test_classes_may_hold_folders_of_their_own(tmp_path: Path) -> None:
    fill(tmp_path, "plant", classes=("rose", "tulip", "other"))
    fill(tmp_path, "animal", classes=("cat", "dog", "other"))
    fill(tmp_path, "car", classes=("images",))
    fill(tmp_path, "bus", classes=("images",))
    labels = [part.label for part in read_layout(tmp_path).class_folders]
    assert labels == ["animal", "bus", "car", "plant"]


def test_a_train_may_be_a_class_among_other_vehicles(tmp_path: Path) -> None:
    for name in ("bus", "car", "train"):
        save_photo(tmp_path / name / "1.png", seed=1)
    assert [part.label for part in read_layout(tmp_path).class_folders] == ["bus", "car", "train"]


def test_one_folder_around_the_classes_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "flower_photos")
    with pytest.raises(UserError, match=rf"one folder only.*name that folder.*{tmp_path}/flower"):
        read_layout(tmp_path)


def test_a_train_folder_without_classes_is_refused_and_says_what_is_missing(tmp_path: Path) -> None:
    save_photo(tmp_path / "train" / "cat.0.jpg", seed=1)
    save_photo(tmp_path / "test" / "1.jpg", seed=1)
    with pytest.raises(UserError, match=r"train holds no class folders \(photos directly in it: 1"):
        read_layout(tmp_path)


def test_photos_outside_of_class_folders_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "train")
    for number in range(3):
        save_photo(tmp_path / "test" / f"{number}.jpg", seed=number)
    (tmp_path / "test" / "sample_submission.csv").write_text("id,label")
    save_photo(tmp_path / "cover.jpg", seed=1)
    layout = read_layout(tmp_path)
    assert [part.split for part in layout.class_folders] == [None, None]
    assert layout.notes == [
        f"Photos directly in {tmp_path}, in no class folder, are left out: 1.",
        f"Photos directly in {tmp_path}/test, in no class folder, are left out: 3.",
    ]


JUNK_PATHS = [
    "__MACOSX", "@eaDir", "$RECYCLE.BIN", "$Recycle.Bin", ".ipynb_checkpoints", "lost+found",
    "System Volume Information", "#recycle", ".thumbnails",
]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK_PATHS)
def test_what_systems_leave_behind_is_ignored_at_every_level(tmp_path: Path, junk: str) -> None:
    fill(tmp_path, "train", "test")
    for parent in (".", "train", "train/cat", "train/cat/deeper"):
        save_photo(tmp_path / parent / junk / "1.jpg", seed=1)
    (tmp_path / "train" / "cat" / "Thumbs.db").touch()
    (tmp_path / "train" / "cat" / "._1.png").touch()
    assert set(splits_of(tmp_path)) == {
        f"{split}/{label}/1.png" for split in ("train", "test") for label in ("cat", "dog")
    }
    assert list(files_below(tmp_path, tmp_path / "train" / "dog")) == ["train/dog/1.png"]


def test_class_names_have_one_unicode_form_and_paths_stay_as_they_are(tmp_path: Path) -> None:
    as_macos, as_others = (unicodedata.normalize(form, "Äpfel") for form in ("NFD", "NFC"))
    fill(tmp_path, "train", classes=(as_macos, "Birnen"))
    fill(tmp_path, "test", classes=(as_others, "Birnen"))
    assert read_layout(tmp_path).class_folders == [
        ClassFolder("test/Birnen", "Birnen", "test"),
        ClassFolder(f"test/{as_others}", as_others, "test"),
        ClassFolder(f"train/{as_macos}", as_others, None),
        ClassFolder("train/Birnen", "Birnen", None),
    ]
