"""Archives of folders, also such as nobody should unpack."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema.data import DataConfig
from distill.data.manifest import load_examples
from distill.data.scan import data_step
from distill.data.sources import archive as archive_module
from made_photos import LABELS, data_of, num_of, png_of, skipped_of


def members(prefix: str = "photos/", splits: tuple[str, ...] = ("",)) -> dict[str, bytes]:
    """Ten photos of each class and split."""
    return {
        f"{prefix}{split}{label}/{number}.png": png_of(1000 * i + 100 * k + number)
        for i, split in enumerate(splits)
        for k, label in enumerate(LABELS)
        for number in range(10)
    }


def write_zip(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path


def write_tar(path: Path, content: dict[str, bytes]) -> Path:
    mode = {".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


WRITERS = [
    ("photos.zip", write_zip), ("Photos.ZIP", write_zip), ("photos.tar", write_tar),
    ("photos.tar.gz", write_tar), ("photos.tar.xz", write_tar), ("photos.tar.bz2", write_tar),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write"), WRITERS)
@pytest.mark.parametrize("prefix", ["", "photos/", "./a/b/"])
def test_an_archive_of_class_folders_is_read(
    tmp_path: Path, name: str, write: Callable[..., Path], prefix: str
) -> None:
    path = write(tmp_path / name, members(prefix))
    facts, photos = data_of(tmp_path / "run", path=path)
    assert num_of(photos) == {"cat": 10, "dog": 10}
    assert facts["num_skipped"] == 0
    assert {photo.path for photo in photos} == {
        f"{label}/{number}.png" for label in LABELS for number in range(10)
    }


def test_split_folders_in_an_archive_decide(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "p.zip", members("set/", ("train/", "test/")))
    facts, photos = data_of(tmp_path / "run", source="archive", path=path)
    assert facts["num_test"] == 20
    assert {p.split for p in photos if p.path.startswith("train")} == {"train", "validation"}


def test_names_of_old_tools_and_junk(tmp_path: Path) -> None:
    content = {name.replace("/", "\\"): data for name, data in members().items()}
    content |= {"__MACOSX/photos/._1.png": b"x", "photos/cat/.DS_Store": b"x"}
    facts, photos = data_of(tmp_path / "run", path=write_zip(tmp_path / "p.zip", content))
    assert len(photos) == 20
    assert facts["num_skipped"] == 0


def test_it_is_unpacked_once_and_again_when_it_changed(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "p.zip", members())
    before, photos = data_of(tmp_path / "run", path=path)
    file = tmp_path / "run" / "data" / before["root"] / photos[0].path
    made = file.stat().st_ino
    again, _ = data_of(tmp_path / "run", path=path)
    assert again == before
    assert file.stat().st_ino == made
    write_zip(path, {**members(), "photos/cat/new.png": png_of(77)})
    after, photos = data_of(tmp_path / "run", path=path)
    assert len(photos) == 21
    assert not file.exists()
    assert len(list((tmp_path / "run" / "data" / "photos").glob("[!.]*/"))) == 1
    assert after["root"] != before["root"]


def test_a_copied_archive_gives_the_same_manifest(tmp_path: Path) -> None:
    """So later steps of a run stay up to date."""
    path = write_zip(tmp_path / "p.zip", members())
    data_of(tmp_path / "run", path=path)
    manifest = RunDir(tmp_path / "run").photos_manifest
    before = manifest.read_bytes()
    path.write_bytes(path.read_bytes())  # another time of change
    facts, photos = data_of(tmp_path / "run", path=path)
    assert manifest.read_bytes() == before
    assert (manifest.parent / facts["root"] / photos[0].path).exists()  # it was unpacked again
    assert data_of(tmp_path / "run", path=path)[0] == facts


@pytest.mark.parametrize(
    "name",
    ["../escaped.png", "cat/../../escaped.png", "/tmp/escaped-potstill.png", "C:\\escaped.png",
     "..\\escaped.png", "a" * 300 + ".png"],
)  # fmt: skip
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_member_outside_is_refused_before_anything_is_written(
    tmp_path: Path, name: str, write: Callable[..., Path]
) -> None:
    path = write(tmp_path / ("p.zip" if write is write_zip else "p.tar"), {**members(), name: b"x"})
    with pytest.raises(UserError, match="Nothing was unpacked"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path))
    assert not list(tmp_path.rglob("*.png"))
    assert not Path("/tmp/escaped-potstill.png").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = write_tar(tmp_path / "p.tar", members())
    with tarfile.open(path, "a") as file:
        info = tarfile.TarInfo("photos/cat/link.png")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    with pytest.raises(UserError, match=r"is a (link|device)"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path))
    assert not list(tmp_path.rglob("*.png"))


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "p.zip", members())
    with zipfile.ZipFile(path, "a") as file:
        info = zipfile.ZipInfo("photos/cat/link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="is a link"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path))


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_bomb_is_refused_by_its_size(
    tmp_path: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "LEAST_LIMIT_BYTES", 2**20)
    name = "p.zip" if write is write_zip else "p.tar.gz"
    path = write(tmp_path / name, {**members(), "photos/cat/zeros.bmp": bytes(2**25)})
    with pytest.raises(UserError, match="larger than an archive of this size may be"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path))
    assert not list(tmp_path.rglob("*.bmp"))


def damaged(path: Path, how: str) -> Path:
    content = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "text":
        path.write_bytes(b"this is no archive, just text")
    else:
        content[len(content) // 3] ^= 0xFF
        path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "write", "how"),
    [
        # gzip has one sum for the whole file, so that a wrong bit shows in a photo or at the end.
        *[(*writer, how) for writer in WRITERS[3:] for how in ("cut", "text")],
        *[(*writer, "bit") for writer in (WRITERS[0], *WRITERS[4:])],
        *[(*WRITERS[0], how) for how in ("cut", "text")],
    ],
)
def test_a_damaged_archive_is_an_error(
    tmp_path: Path, name: str, write: Callable[..., Path], how: str
) -> None:
    path = damaged(write(tmp_path / name, members()), how)
    with pytest.raises(UserError, match=r"photos\..* (cannot be read|is damaged)"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path))


def test_an_encrypted_archive_says_so(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "p.zip", members())
    content = path.read_bytes()
    # The flag of encryption, in the headers of the members and in the directory.
    for start, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        parts = content.split(start)
        parts[1:] = [p[: at - 4] + b"\x01" + p[at - 3 :] for p in parts[1:]]
        content = start.join(parts)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is encrypted"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path))


def test_an_archive_without_class_folders_is_told_by_its_own_name(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "p.zip", {"1.png": png_of(1)})
    with pytest.raises(UserError, match=r"p\.zip holds no folders"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path))


def test_a_broken_photo_in_an_archive_is_skipped(tmp_path: Path) -> None:
    content = {**members(), "photos/cat/cut.png": png_of(5)[:60], "photos/dog/notes.txt": b"hello"}
    data_of(tmp_path / "run", path=write_zip(tmp_path / "p.zip", content))
    assert set(skipped_of(tmp_path / "run")) == {"cat/cut.png", "dog/notes.txt"}


def test_a_killed_unpacking_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "p.zip", members())
    finish, done = archive_module.finish, []

    def killed(unfinished: Path, target: Path) -> None:
        if len(done) == 7:
            raise KeyboardInterrupt
        finish(unfinished, target)
        done.append(target.stat().st_ino)

    monkeypatch.setattr(archive_module, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path))
    monkeypatch.setattr(archive_module, "finish", finish)
    facts, photos = data_of(tmp_path / "run", path=path)
    assert len(photos) == 20
    root = tmp_path / "run" / "data" / facts["root"]
    assert set(done) <= {file.stat().st_ino for file in root.rglob("*.png")}
    assert not list(root.rglob(".unfinished*"))


def test_a_run_is_moved_with_its_unpacked_photos(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "p.zip", members())
    data_of(tmp_path / "run", path=path)
    (tmp_path / "run").rename(tmp_path / "moved")
    paths = load_examples(RunDir(tmp_path / "moved"), "train").paths
    assert paths
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("damage", ["no name", "no place"])
def test_a_damaged_list_of_members_is_an_error(tmp_path: Path, damage: str) -> None:
    path = write_zip(tmp_path / "photos.zip", members())
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2")  # the last one in the list
    if damage == "no name":
        content[entry + 28 : entry + 30] = bytes(2)
    else:  # it begins before the file does
        end = content.rindex(b"PK\5\6")
        place = int.from_bytes(content[end + 16 : end + 20], "little")
        content[end + 16 : end + 20] = (place + 10**6).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read|is damaged"):
        data_of(tmp_path / "run", path=path)
