"""A scan opens what is new or has changed, and nothing else, and ends as a first scan does."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.artifacts import digest, read_json, write_json
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema.data import DataConfig
from distill.data.scan import data_step
from distill.data.scanning.known import RECORD, KnownPhotos, Learned
from distill.data.scanning.reading import FILES_OF_A_TASK
from made_photos import data_of
from support import Killed, opened_files, save_photo


def opened_photos(run: Path, folder: Path, **settings: object) -> list[str]:
    """The photos that a scan opens, by their names."""
    with opened_files() as opened:
        data_of(run, path=folder, **settings)
    return sorted(Path(name).name for name in opened if Path(name).is_relative_to(folder))


def manifest_of(run: Path) -> bytes:
    return RunDir(run).photos_manifest.read_bytes()


def test_a_second_scan_opens_only_what_changed(
    photo_folder: Path, tmp_path: Path, settle: None
) -> None:
    run = tmp_path / "run"
    assert len(opened_photos(run, photo_folder)) == 60
    assert opened_photos(run, photo_folder) == []
    save_photo(photo_folder / "cat" / "new.png", seed=5000)
    save_photo(photo_folder / "dog" / "3.png", seed=6000)
    (photo_folder / "dog" / "4.png").unlink()
    assert opened_photos(run, photo_folder) == ["3.png", "new.png"]
    data_of(tmp_path / "other", path=photo_folder)
    assert manifest_of(run) == manifest_of(tmp_path / "other")
    names = ("skipped.csv", "near_duplicates.csv")
    for name in names:
        first, second = (p / "data" / name for p in (run, tmp_path / "other"))
        assert first.read_bytes() == second.read_bytes()


def test_near_duplicates_of_known_photos_are_found(tmp_path: Path, settle: None) -> None:
    folder = tmp_path / "photos"
    for number, label in enumerate(("cat", "dog")):
        for seed in range(15):
            save_photo(folder / label / f"{seed}.png", seed=100 * number + seed, size=(48, 40))
    run = tmp_path / "run"
    assert data_of(run, path=folder)[0]["num_near_duplicates"] == 0
    with Image.open(folder / "cat" / "3.png") as photo:
        photo.resize((96, 80)).save(folder / "cat" / "copy.png")
    assert opened_photos(run, folder) == ["copy.png"]
    assert data_of(run, path=folder)[0]["num_near_duplicates"] == 2


def test_thumbnails_are_made_when_they_are_wanted_later(
    photo_folder: Path, tmp_path: Path, settle: None
) -> None:
    run = tmp_path / "run"
    assert len(opened_photos(run, photo_folder, near_duplicates=False)) == 60
    assert len(opened_photos(run, photo_folder, near_duplicates=True)) == 60
    assert opened_photos(run, photo_folder, near_duplicates=False) == []


def test_a_photo_of_equal_size_and_date_is_noticed(
    photo_folder: Path, tmp_path: Path, settle: None
) -> None:
    """The clock was set back, or the new photo came out of an archive with its old date."""
    path = photo_folder / "cat" / "0.png"
    path.write_bytes(b"P6 2 2 255 " + bytes(12))
    before = path.stat()
    run = tmp_path / "run"
    data_of(run, path=photo_folder)
    path.write_bytes(b"P6 2 2 255 " + bytes(range(12)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    first = manifest_of(run)
    assert opened_photos(run, photo_folder) == ["0.png"]
    assert manifest_of(run) != first


def test_a_scan_that_was_killed_goes_on(photo_folder: Path, tmp_path: Path, settle: None) -> None:
    run = tmp_path / "run"
    last = photo_folder / "dog" / "9.png"  # of the last task of several threads
    with pytest.raises(Killed), opened_files(fail_at=last):
        data_of(run, path=photo_folder)
    with open(run / "data" / ".potstill" / "scanned.bin", "ab") as file:
        file.write(b"half a record")
    with opened_files() as opened:
        data_of(run, path=photo_folder)
    num_left = sum(Path(name).is_relative_to(photo_folder) for name in opened)
    assert num_left == 60 % FILES_OF_A_TASK  # all other tasks were done
    data_of(tmp_path / "other", path=photo_folder)
    assert manifest_of(run) == manifest_of(tmp_path / "other")


def test_files_of_two_disks_may_have_the_same_inodes(tmp_path: Path) -> None:
    identities = [(disk, inode, 0, 10, 5, 5) for inode in (7, 8) for disk in (1, 2)]
    learned = [Learned(3, 4, f"{number:064x}", -1) for number in range(4)]
    with KnownPhotos(tmp_path) as known:
        for pair in zip(identities, learned, strict=True):
            known.add(*pair)
    with KnownPhotos(tmp_path) as known:
        assert known.find(identities, with_thumbnails=True) == learned


def test_records_without_their_thumbnails_are_read_again(tmp_path: Path) -> None:
    """As after a power cut, when one of two files reached the disk."""
    identities = [(1, number, 0, 10, 5, 5) for number in range(3)]
    with KnownPhotos(tmp_path) as known:
        for number, identity in enumerate(identities):
            row = known.add_thumbnail(bytes([number]) * 1024)
            known.add(identity, Learned(3, 4, f"{number:064x}", row))
    os.truncate(tmp_path / "thumbnails.bin", 2 * 1024)
    with KnownPhotos(tmp_path) as known:
        found = known.find(identities, with_thumbnails=True)
        assert found == [Learned(3, 4, f"{0:064x}", 0), Learned(3, 4, f"{1:064x}", 1), None]
    with KnownPhotos(tmp_path) as known:  # a killed scan left it as it was
        assert known.find(identities, with_thumbnails=True) == found
        assert known.add_thumbnail(bytes(1024)) == 2
        known.add(identities[0], Learned(9, 9, "f" * 64, 1))
    with KnownPhotos(tmp_path) as known:  # of two records the later one is right
        assert known.find(identities[:1], with_thumbnails=True) == [Learned(9, 9, "f" * 64, 1)]
        other = (1, 0, 0, 10, 5, 6)
        assert known.find([other], with_thumbnails=True) == [None]
    assert np.fromfile(tmp_path / "scanned.bin", RECORD)["height"].tolist() == [4, 4, 9]


def test_what_no_file_needs_is_forgotten(tmp_path: Path, settle: None) -> None:
    folder, run = tmp_path / "photos", tmp_path / "run"
    for scan in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        for number, label in enumerate(("cat", "dog")):
            for seed in range(15):
                path = folder / label / f"{scan} {seed}.png"
                save_photo(path, seed=1000 * scan + 100 * number + seed, size=(48, 40))
        assert len(opened_photos(run, folder)) == 30
        records = np.fromfile(run / "data" / ".potstill" / "scanned.bin", RECORD)
        assert sorted(records["thumbnail"].tolist()) == list(range(30))
    assert (run / "data" / ".potstill" / "thumbnails.bin").stat().st_size == 30 * 1024
    with Image.open(folder / "cat" / "2 3.png") as photo:
        photo.resize((96, 80)).save(folder / "cat" / "copy.png")
    assert opened_photos(run, folder) == ["copy.png"]
    assert data_of(run, path=folder)[0]["num_near_duplicates"] == 2


def test_runs_of_older_versions_stay_up_to_date(photo_folder: Path, tmp_path: Path) -> None:
    run, data = RunDir(tmp_path / "run"), DataConfig(path=photo_folder)
    take_step(data_step(run, data))
    path = run.photos_manifest.with_suffix(".json")
    facts = read_json(path)
    del facts["inputs"]["inodes"]
    write_json(path, {**facts, "inputs_digest": digest(facts["inputs"])})
    (photo_folder / "cat" / "0.png").chmod(0o600)  # another time of the inode
    assert data_step(run, data).inputs == facts["inputs"]
