import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema.data import DataConfig
from distill.data.manifest import Photo, load_examples, student_examples
from distill.data.scan import (
    data_step,
    scan,
    scan_folder,
)
from distill.data.scanning.listed import list_source
from distill.data.splitting.rule import SplitRule
from support import save_photo


def scanned(
    root: Path, *, max_skipped: float = 1.0, source: str = "folder"
) -> tuple[list[Photo], dict[str, str]]:
    """Usable photos, and the reasons of the others by path."""
    listing, _ = list_source(DataConfig(source=source, path=root), RunDir(root / "run"))
    result = scan(listing, SplitRule(validation=0.2, test=0.3), max_skipped=max_skipped)
    return result.photos, {s.path: s.reason for s in result.skipped}


def write_heic(path: Path) -> None:
    """The first bytes of a HEIC file, which no decoder reads."""
    path.write_bytes(b"\0\0\0\x18ftypheic" + path.name.encode() * 20)


def test_class_folders_become_labelled_examples_in_three_splits(photo_folder: Path) -> None:
    photos, skipped = scanned(photo_folder)
    assert len(photos) == 60
    assert not skipped
    assert {photo.label for photo in photos} == {"cat", "dog"}
    assert {photo.split for photo in photos} == {"train", "validation", "test"}


def test_fractions_are_right_in_expectation() -> None:
    rule = SplitRule(validation=0.1, test=0.2)
    splits = [rule.split_of(f"{i:064x}") for i in range(10_000)]
    # Four standard deviations of a binomial share at n = 10,000 are at most 0.016.
    assert splits.count("test") / 10_000 == pytest.approx(0.2, abs=0.016)
    assert splits.count("validation") / 10_000 == pytest.approx(0.1, abs=0.012)


def test_renames_and_additions_move_no_photo_to_another_split(photo_folder: Path) -> None:
    before = {photo.sha256: photo.split for photo in scanned(photo_folder)[0]}
    (photo_folder / "cat" / "0.png").rename(photo_folder / "cat" / "zebra crossing ß.png")
    save_photo(photo_folder / "dog" / "new.png", seed=77_777)
    after = {photo.sha256: photo.split for photo in scanned(photo_folder)[0]}
    assert {sha: after[sha] for sha in before} == before


def test_hidden_files_and_empty_folders_shift_no_class(photo_folder: Path) -> None:
    (photo_folder / ".DS_Store").write_bytes(b"x")
    (photo_folder / "cat" / ".DS_Store").write_bytes(b"x")
    (photo_folder / ".cache").mkdir()
    (photo_folder / "aardvark").mkdir()
    photos, skipped = scanned(photo_folder)
    assert {photo.label for photo in photos} == {"cat", "dog"}
    assert not skipped


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("suffix", [".png", ".TIFF"])
def test_photos_of_every_mode_are_used(photo_folder: Path, mode: str, suffix: str) -> None:
    if mode == "CMYK" and suffix == ".png":
        suffix = ".JPG"
    if mode == "I;16":
        image = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160)
    else:
        image = Image.effect_noise((20, 20), 50).convert("RGB").convert(mode)
    image.save(photo_folder / "cat" / f"odd{suffix}")
    photos, skipped = scanned(photo_folder)
    assert f"cat/odd{suffix}" in {photo.path for photo in photos}
    assert not skipped


@pytest.mark.parametrize(
    "suffix", [".webp", ".bmp", ".gif", ".JPEG", ".PNG", ".JFIF", ".avif", ".ppm"]
)
def test_photos_of_every_kind_of_file_are_used(photo_folder: Path, suffix: str) -> None:
    Image.effect_noise((20, 20), 50).convert("RGB").save(photo_folder / "cat" / f"odd{suffix}")
    assert f"cat/odd{suffix}" in {photo.path for photo in scanned(photo_folder)[0]}


def test_an_animation_is_used_by_its_first_frame(photo_folder: Path) -> None:
    frames = [Image.effect_noise((20, 16), 50 + i).convert("RGB") for i in range(3)]
    frames[0].save(photo_folder / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
    moving = next(p for p in scanned(photo_folder)[0] if p.path == "cat/moving.gif")
    assert (moving.width, moving.height) == (20, 16)


def test_the_manifest_has_the_size_of_the_upright_photo(photo_folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.effect_noise((30, 20), 50).save(photo_folder / "cat" / "turned.jpg", exif=exif)
    turned = next(p for p in scanned(photo_folder)[0] if p.path == "cat/turned.jpg")
    assert (turned.width, turned.height) == (20, 30)


def test_files_that_are_not_photos_are_skipped_and_listed(photo_folder: Path) -> None:
    whole = save_photo(photo_folder / "cat" / "whole.jpg", seed=5, size=(200, 200))
    (photo_folder / "cat" / "cut.jpg").write_bytes(whole.read_bytes()[:-800])
    (photo_folder / "cat" / "empty.jpg").touch()
    (photo_folder / "cat" / "text.jpg").write_text("not a photo")
    (photo_folder / "cat" / "notes.txt").write_text("notes")
    (photo_folder / "cat" / "gone.jpg").symlink_to(photo_folder / "nowhere.jpg")
    photos, skipped = scanned(photo_folder)
    names = {"cut.jpg", "empty.jpg", "text.jpg", "notes.txt", "gone.jpg"}
    assert set(skipped) == {f"cat/{name}" for name in names}
    assert not {photo.path for photo in photos} & set(skipped)


def test_a_name_that_is_not_utf8_is_skipped_and_listed(photo_folder: Path) -> None:
    shutil.copy(photo_folder / "cat" / "0.png", os.fsencode(photo_folder / "cat") + b"/\xff.png")
    skipped = scanned(photo_folder)[1]
    assert skipped == {"cat/\\udcff.png": "file name is not UTF-8"}


def test_names_with_spaces_and_letters_of_all_kinds_survive_the_manifest(
    photo_folder: Path, tmp_path: Path
) -> None:
    odd = photo_folder / "cat" / 'Gänse, "grün" 鳥 .png'
    (photo_folder / "cat" / "0.png").rename(odd)
    run = RunDir(tmp_path / "run")
    take_step(data_step(run, DataConfig(path=photo_folder)))
    paths = [
        p for split in ("train", "validation", "test") for p in load_examples(run, split).paths
    ]
    assert odd in paths
    assert all(path.exists() for path in paths)


def test_linked_folders_are_followed_once(photo_folder: Path, tmp_path: Path) -> None:
    shutil.move(photo_folder / "dog", tmp_path / "dogs elsewhere")
    (photo_folder / "dog").symlink_to(tmp_path / "dogs elsewhere")
    (tmp_path / "dogs elsewhere" / "loop").symlink_to(photo_folder / "dog")
    assert len(scanned(photo_folder)[0]) == 60


def test_a_photo_that_is_there_twice_is_used_once(photo_folder: Path) -> None:
    shutil.copy(photo_folder / "cat" / "0.png", photo_folder / "cat" / "copy.png")
    photos, skipped = scanned(photo_folder)
    assert len(photos) == 60
    assert list(skipped.values()) in (
        ["the same photo as cat/0.png"],
        ["the same photo as cat/copy.png"],
    )


def test_a_photo_under_two_labels_is_not_used(photo_folder: Path) -> None:
    shutil.copy(photo_folder / "cat" / "0.png", photo_folder / "dog" / "copy.png")
    photos, skipped = scanned(photo_folder)
    reason = "the same photo under cat and dog"
    assert skipped == {"cat/0.png": reason, "dog/copy.png": reason}
    assert len(photos) == 59


def test_split_folders_decide_and_a_photo_in_train_and_test_is_only_tested(tmp_path: Path) -> None:
    for number in range(20):
        for label, first in (("cat", 0), ("dog", 1000)):
            save_photo(tmp_path / "train" / label / f"{number}.png", seed=first + number)
            save_photo(tmp_path / "test" / label / f"t{number}.png", seed=first + 500 + number)
    shutil.copy(tmp_path / "test" / "cat" / "t0.png", tmp_path / "train" / "cat" / "leak.png")
    photos, skipped = scanned(tmp_path)
    assert {p.split for p in photos if p.path.startswith("test/")} == {"test"}
    # Validation has no folder of its own and comes from train; test never does.
    assert {p.split for p in photos if p.path.startswith("train/")} == {"train", "validation"}
    assert skipped == {"train/cat/leak.png": "the same photo as test/cat/t0.png"}


def test_kinds_that_are_not_read_count_as_lost_photos_and_other_files_do_not(
    photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(12):
        write_heic(photo_folder / "cat" / f"IMG_{number}.HEIC")
    save_photo(photo_folder / "dog" / "shot.dng.png", seed=1).rename(
        photo_folder / "dog" / "shot.DNG"
    )
    for number in range(200):
        (photo_folder / "cat" / f"{number}.txt").touch()
    with caplog.at_level("INFO"):
        photos, skipped = scanned(photo_folder, max_skipped=13 / 73)
    assert len(photos) == 60
    assert "RAW photos" in skipped["dog/shot.DNG"]
    assert skipped["cat/0.txt"] == "not a photo (.txt)"
    assert "skipped 213 files: 200 .txt, 12 .heic, 1 .dng" in caplog.messages
    assert any(line.startswith("1 .dng: RAW photos") for line in caplog.messages)
    with pytest.raises(UserError, match=r"13 of 73 photos .*\(12 \.heic, 1 \.dng\), more than"):
        scanned(photo_folder, max_skipped=12.9 / 73)


def test_a_few_of_the_skipped_photos_are_named_with_their_reasons(
    photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = sorted((photo_folder / "cat").iterdir())
    shutil.copy(names[0], photo_folder / "cat" / "copy.png")
    for number in range(2):
        (photo_folder / "dog" / f"cut-{number}.png").write_bytes(names[1].read_bytes()[:99])
    (photo_folder / "dog" / "notes.txt").touch()
    with caplog.at_level("INFO"):
        _, skipped = scanned(photo_folder)
    start = caplog.messages.index("skipped 4 files: 3 .png, 1 .txt")
    # one example of each reason, lost photos first
    (copy,) = [name for name, reason in skipped.items() if "same photo" in reason]
    shown = [f"{name}: {skipped[name]}" for name in ("dog/cut-0.png", copy)]
    assert caplog.messages[start + 1 : start + 3] == shown
    assert not any("notes.txt" in line for line in caplog.messages)


def test_the_limit_that_the_error_names_is_enough(photo_folder: Path) -> None:
    for number in range(31):
        write_heic(photo_folder / "cat" / f"IMG_{number}.heic")
    with pytest.raises(UserError) as error:
        scanned(photo_folder, max_skipped=0.2)
    assert "--set data.max_skipped=0.35" in str(error.value)  # 31 of 91 are 34.1 %
    assert len(scanned(photo_folder, max_skipped=0.35)[0]) == 60


def test_without_any_photo_left_a_higher_limit_is_no_help(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        write_heic(tmp_path / label / f"{label}.heic")
    with pytest.raises(UserError, match=r"2 of 2 photos") as error:
        scanned(tmp_path, max_skipped=0.2)
    assert "--set" not in str(error.value)


def test_without_a_run_the_error_names_no_setting(photo_folder: Path) -> None:
    for number in range(30):
        write_heic(photo_folder / "cat" / f"IMG_{number}.heic")
    with pytest.raises(UserError, match=r"30 \.heic") as error:
        scan_folder(photo_folder)
    assert "--set" not in str(error.value)


def test_too_few_photos_and_the_endings_of_the_others(photo_folder: Path) -> None:
    for path in photo_folder.glob("dog/*.png"):
        path.rename(path.with_suffix(".heic.txt"))
    with pytest.raises(UserError, match=r"at least two folders.*\nskipped 30 files: 30 \.txt"):
        scanned(photo_folder)


@pytest.mark.parametrize("seed", range(6))
def test_a_small_folder_has_all_splits(tmp_path: Path, seed: int) -> None:
    """By the contents alone, four photos of a class leave a split empty in two of three folders."""
    for number in range(4):
        save_photo(tmp_path / "cat" / f"{number}.png", seed=100 * seed + number)
        save_photo(tmp_path / "dog" / f"{number}.png", seed=100 * seed + 50 + number)
    photos, _ = scanned(tmp_path)
    splits = [(photo.label, photo.split) for photo in photos]
    expected = {(c, s) for c in ("cat", "dog") for s in ("train", "validation", "test")}
    assert set(splits) == expected


def test_a_small_class_beside_a_test_folder_keeps_it_and_gives_validation_a_photo(
    tmp_path: Path,
) -> None:
    for number in range(5):
        for label, seed in (("cat", 0), ("dog", 50)):
            save_photo(tmp_path / "training_set" / label / f"{number}.png", seed=seed + number)
            save_photo(tmp_path / "test_set" / label / f"{number}.png", seed=500 + seed + number)
    photos, _ = scanned(tmp_path)
    for label in ("cat", "dog"):
        drawn = {p.split for p in photos if p.path.startswith(f"training_set/{label}")}
        assert drawn == {"train", "validation"}
    assert sum(p.split == "test" for p in photos) == 10


def test_a_class_that_has_every_split_is_split_by_its_contents_alone(photo_folder: Path) -> None:
    rule = SplitRule(validation=0.2, test=0.3)
    photos, _ = scanned(photo_folder)
    assert {p.sha256: p.split for p in photos} == {
        p.sha256: rule.split_of(p.sha256) for p in photos
    }


def test_class_folders_without_a_usable_photo_are_named(
    photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photo_folder / "orchid").mkdir()
    (photo_folder / "lily").mkdir()
    (photo_folder / "lily" / "notes.txt").touch()
    run = RunDir(tmp_path / "run")
    with caplog.at_level("WARNING"):
        facts = take_step(data_step(run, DataConfig(path=photo_folder)))
    assert facts["classes"] == ["cat", "dog"]
    assert facts["empty_classes"] == ["lily", "orchid"]
    assert any(line.endswith("can be used: lily, orchid.") for line in caplog.messages)
    assert load_examples(run, "train").empty_classes == ("lily", "orchid")
    assert scan_folder(photo_folder)["test"].empty_classes == ("lily", "orchid")


def test_too_many_broken_photos_stop_the_scan(photo_folder: Path) -> None:
    for number in range(10):
        (photo_folder / "cat" / f"broken{number}.jpg").write_text("x")
    with pytest.raises(UserError, match=r"10 of 70 photos .* data.max_skipped \(5%\)"):
        scanned(photo_folder, max_skipped=0.05)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: shutil.rmtree(root), "does not exist"),
        (lambda root: shutil.rmtree(root / "dog"), "at least two folders"),
        (lambda root: [shutil.rmtree(root / n) for n in ("cat", "dog")], "no folders"),
        (lambda root: (root / "train").mkdir(), "also cat, dog"),
        (
            lambda root: [p.unlink() for p in root.rglob("*.png") if p.stem not in ("0", "1")],
            "no photo to train on|split is empty",
        ),
    ],
)
def test_a_folder_that_cannot_train_a_classifier_is_refused(
    photo_folder: Path, prepare, message: str
) -> None:
    prepare(photo_folder)
    with pytest.raises(UserError, match=message):
        scanned(photo_folder)


def test_skipped_files_are_listed_in_the_run(photo_folder: Path, tmp_path: Path) -> None:
    (photo_folder / "cat" / "empty.jpg").touch()
    run = RunDir(tmp_path / "run")
    facts = take_step(data_step(run, DataConfig(path=photo_folder)))
    with open(run.photos_manifest.with_name("skipped.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["cat/empty.jpg"]
    assert facts["num_skipped"] == 1
    assert facts["skipped_endings"] == {".jpg": 1}


def test_the_digits_are_real_photos_of_ten_classes(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    facts = take_step(data_step(run, DataConfig(source="digits")))
    assert facts["classes"] == [str(digit) for digit in range(10)]
    assert sum(facts[f"num_{s}"] for s in ("train", "validation", "test")) == 1797


def test_a_folder_outside_a_run_is_split_by_the_same_rule(
    photo_folder: Path, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    take_step(data_step(run, DataConfig(path=photo_folder)))
    assert scan_folder(photo_folder)["test"].ids == load_examples(run, "test").ids


def test_the_flower_photos_under_two_labels_are_found(flowers: Path) -> None:
    _, skipped = scanned(flowers)
    assert sum("under rose and tulip" in reason for reason in skipped.values()) == 8


def test_unlabelled_photos_are_a_split_of_their_own(photo_folder: Path, tmp_path: Path) -> None:
    before, _ = scanned(photo_folder)
    further = tmp_path / "further"
    for number in range(3):
        save_photo(further / "holiday" / f"{number}.png", seed=5000 + number)
    for photo in before[:4]:  # of train and test alike
        shutil.copy(photo_folder / photo.path, further / f"copy of {photo.id}.png")
    run = RunDir(tmp_path / "run")
    data = DataConfig(path=photo_folder, unlabelled=further, validation=0.2, test=0.3)
    facts = take_step(data_step(run, data))
    assert facts["num_unlabelled"] == 3
    assert facts["num_skipped"] == 4  # the copies: what is tested is not learned
    assert facts["classes"] == ["cat", "dog"]
    assert facts["num_test"] == sum(photo.split == "test" for photo in before)
    examples = student_examples(run)
    assert examples.labels.tolist() == [*load_examples(run, "train").labels, -1, -1, -1]
    assert all(path.exists() for path in examples.paths)


def test_a_missing_folder_of_unlabelled_photos_is_an_error(
    photo_folder: Path, tmp_path: Path
) -> None:
    data = DataConfig(path=photo_folder, unlabelled=tmp_path / "none")
    with pytest.raises(UserError, match=r"data\.unlabelled is .*none\. Expected a folder"):
        data_step(RunDir(tmp_path / "run"), data)


def test_a_photo_that_is_replaced_during_the_scan_is_scanned_again(
    photo_folder: Path, tmp_path: Path
) -> None:
    data, replaced = DataConfig(path=photo_folder), photo_folder / "cat" / "0.png"
    step = data_step(RunDir(tmp_path / "run"), data)  # the files are listed
    content = save_photo(tmp_path / "other.png", seed=77_777, size=(30, 31)).read_bytes()
    replaced.write_bytes(content[: len(content) // 2])  # while it is copied
    facts = take_step(step)
    assert facts["num_skipped"] == 1
    replaced.write_bytes(content)
    facts = take_step(data_step(RunDir(tmp_path / "run"), data))
    assert facts["num_skipped"] == 0
    take_step(data_step(RunDir(tmp_path / "undisturbed"), data))
    manifests = [tmp_path / run / "data" / "manifest.csv" for run in ("run", "undisturbed")]
    assert manifests[0].read_text() == manifests[1].read_text()


def test_split_folders_are_looked_up_once_and_not_for_every_photo(photo_folder: Path) -> None:
    class Counted(list):
        num_passes = 0

        def __iter__(self):
            Counted.num_passes += 1
            return super().__iter__()

    listing, _ = list_source(DataConfig(path=photo_folder), RunDir(photo_folder / "run"))
    counted = replace(listing, files=Counted(listing.files))
    scanned = scan(counted, SplitRule(validation=0.2, test=0.3), max_skipped=1.0)
    assert len(scanned.photos) == 60
    assert Counted.num_passes < 10
