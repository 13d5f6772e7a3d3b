"""Photos in object storage: a run on them is the run on the same photos in a folder."""

import io
import zipfile
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.run_dir import RunDir
from distill.data.manifest import load_examples
from distill.data.sources.stored import copies
from made_photos import LABELS, data_of, num_of, png_of, skipped_of
from object_storage import Put

PHOTOS = {
    f"photos/{label}/{number}.png": png_of(100 * k + number)
    for k, label in enumerate(LABELS)
    for number in range(12)
}


def in_a_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_a_folder_in_a_storage_gives_the_manifest_of_the_same_folder_here(
    put_files: Put, tmp_path: Path
) -> None:
    others = {
        "photos/.DS_Store": b"x", "photos/cat/notes.txt": b"x", "photos/dog/../up.png": b"x",
        "photos/dog/broken.png": b"x",
    }  # fmt: skip
    url = f"{put_files({**PHOTOS, **others})}/photos"
    here = in_a_folder(tmp_path, {**PHOTOS, "photos/dog/broken.png": b"x"}) / "photos"
    _, expected = data_of(tmp_path / "here", path=here)
    facts, photos = data_of(tmp_path / "run", path=url)
    assert photos == expected
    assert facts["root"] == "stored/photos"
    assert skipped_of(tmp_path / "run").keys() == {"dog/broken.png"}
    assert all(path.exists() for path in load_examples(RunDir(tmp_path / "run"), "train").paths)


def test_only_what_changed_in_a_storage_is_copied_again(
    put_files: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    url = f"{put_files(PHOTOS)}/photos"
    data_of(tmp_path / "run", path=url)
    read: list[str] = []

    def reading(url: str) -> bytes:
        read.append(url.rpartition("/photos/")[2])
        return original(url)

    original = copies.read_stored
    monkeypatch.setattr(copies, "read_stored", reading)
    data_of(tmp_path / "run", path=url)
    assert not read
    system, bucket = s3fs.S3FileSystem(), url.removeprefix("s3://")
    system.pipe_file(f"{bucket}/cat/0.png", png_of(999) + b"longer")
    system.pipe_file(f"{bucket}/cat/new.png", png_of(1000))
    system.rm_file(f"{bucket}/dog/3.png")
    _, photos = data_of(tmp_path / "run", path=url)
    assert sorted(read) == ["cat/0.png", "cat/new.png"]
    assert num_of(photos) == {"cat": 13, "dog": 11}
    assert not (tmp_path / "run/data/stored/photos/dog/3.png").exists()


def test_a_copy_that_is_stopped_goes_on(
    put_files: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{put_files(PHOTOS)}/photos"
    original, read = copies.read_stored, []

    def dying(url: str) -> bytes:
        read.append(url)
        if len(read) == 10:
            raise KeyboardInterrupt
        return original(url)

    monkeypatch.setattr(copies, "read_stored", dying)
    monkeypatch.setattr(copies, "READERS", 1)
    with pytest.raises(KeyboardInterrupt):
        data_of(tmp_path / "run", path=url)
    _, photos = data_of(tmp_path / "run", path=url)
    assert len(photos) == len(PHOTOS)
    assert len(read) == len(PHOTOS) + 1


def test_large_photos_are_copied_in_parts(
    put_files: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{put_files({**PHOTOS, 'photos/cat/large.png': png_of(7) + bytes(4000)})}/photos"
    fetched: list[str] = []

    def fetching(url: str, target: Path) -> None:
        fetched.append(url.rpartition("/photos/")[2])
        original(url, target)

    original = copies.fetch
    monkeypatch.setattr(copies, "fetch", fetching)
    monkeypatch.setattr(copies, "PART_BYTES", 4000)
    for _ in range(2):
        data_of(tmp_path / "run", path=url)
        assert fetched == ["cat/large.png"]
    copy = tmp_path / "run/data/stored/photos/cat/large.png"
    assert copy.read_bytes() == png_of(7) + bytes(4000)


def test_a_table_names_photos_in_a_storage(put_files: Put, tmp_path: Path) -> None:
    bucket = put_files(PHOTOS)
    names = [name.removeprefix("photos/") for name in PHOTOS]
    rows = [f"{name},{name.partition('/')[0]}" for name in [*names[1:], "cat/missing.png"]]
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(["path,label", *rows]))
    _, photos = data_of(tmp_path / "relative", path=table, photos=f"{bucket}/photos")
    assert len(photos) == len(names) - 1
    assert skipped_of(tmp_path / "relative").keys() == {"cat/missing.png"}
    copied = (tmp_path / "relative/data/stored").rglob("*.png")
    assert len(list(copied)) == len(names) - 1, "a photo that the table does not name was copied"

    table.write_text("\n".join(["path,label", *(f"{bucket}/photos/{row}" for row in rows)]))
    _, photos = data_of(tmp_path / "urls", path=table)
    assert num_of(photos) == {"cat": 11, "dog": 12}

    table.write_text(f"path,label\n{bucket}/photos/cat/1.png,cat\nphotos/dog/1.png,dog\n")
    with pytest.raises(UserError, match="only URLs such as s3://bucket"):
        data_of(tmp_path / "both", path=table)


def test_a_table_or_an_archive_may_lie_in_a_storage_itself(put_files: Put, tmp_path: Path) -> None:
    rows = [f"{name},{name.split('/')[1]}" for name in PHOTOS]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in PHOTOS.items():
            archive.writestr(name, content)
    table = "\n".join(["path,label", *rows]).encode()
    bucket = put_files({**PHOTOS, "all.csv": table, "all.zip": packed.getvalue()})
    for name in ("all.csv", "all.zip"):
        _, photos = data_of(tmp_path / name, path=f"{bucket}/{name}")
        assert num_of(photos) == {"cat": 12, "dog": 12}


def test_photos_without_labels_may_lie_in_a_storage(put_files: Put, tmp_path: Path) -> None:
    bucket = put_files({**PHOTOS, "more/1.png": png_of(5000), "more/in/2.png": png_of(5001)})
    _, photos = data_of(tmp_path / "run", path=f"{bucket}/photos", unlabelled=f"{bucket}/more")
    assert sum(photo.split == "unlabelled" for photo in photos) == 2


def test_a_run_can_be_moved_with_all_photos_that_were_copied_into_it(
    put_files: Put, tmp_path: Path
) -> None:
    bucket = put_files({**PHOTOS, "more/in/1.png": png_of(5000)})
    data_of(tmp_path / "run", path=f"{bucket}/photos", unlabelled=f"{bucket}/more")
    (tmp_path / "run").rename(tmp_path / "moved")
    (path,) = load_examples(RunDir(tmp_path / "moved"), "unlabelled").paths
    assert path.read_bytes() == png_of(5000)
    facts, _ = data_of(tmp_path / "moved", path=f"{bucket}/photos", unlabelled=f"{bucket}/more")
    assert (
        facts["inputs_digest"]
        == data_of(tmp_path / "other", path=f"{bucket}/photos", unlabelled=f"{bucket}/more")[0][
            "inputs_digest"
        ]
    )


def test_a_folder_without_classes_is_named_by_its_url(put_files: Put, tmp_path: Path) -> None:
    bucket = put_files({"photos/1.png": png_of(1)})
    with pytest.raises(UserError, match=rf"^{bucket}/photos holds no folders"):
        data_of(tmp_path / "run", path=f"{bucket}/photos")
    with pytest.raises(UserError, match="source hf reads no URL"):
        data_of(tmp_path / "run", path=f"{bucket}/photos", source="hf:x")
