"""Tars of samples are read where they lie, and give what a folder of the same photos gives."""

import gzip
import io
import json
import signal
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema.data import DataConfig, GroupConfig
from distill.data.manifest import Photo, load_examples
from distill.data.scan import data_step
from eval.photo_files import UnreadablePhoto, decode_photo
from made_photos import data_of, num_of, png_of, skipped_of
from support import opened_files

Members = Iterable[tuple[str, bytes]]


def write_tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(numbers: range, *, kind: str = "cls") -> list[tuple[str, bytes]]:
    """Photos with labels cat and dog in turn, each before its label."""
    members = []
    for number in numbers:
        label = ("cat", "dog")[number % 2]
        text = json.dumps({"label": label, "note": "x"}) if kind == "json" else label
        members += [(f"{number:04d}.png", png_of(number)), (f"{number:04d}.{kind}", text.encode())]
    return members


def shards(folder: Path, *, kind: str = "cls") -> Path:
    for number in range(4):
        numbers = range(20 * number, 20 * number + 20)
        write_tar(folder / f"part-{number:03d}.tar", samples(numbers, kind=kind))
    return folder


def content_of(photos: list[Photo]) -> list[tuple[str, str, str, int, int]]:
    return [(p.sha256, p.label, p.split, p.width, p.height) for p in photos]


def webdataset(run: Path, pattern: Path | str, **settings: object) -> tuple[dict, list[Photo]]:
    return data_of(run, source=f"webdataset:{pattern}", **settings)


@pytest.mark.parametrize("kind", ["cls", "json", "txt"])
def test_shards_give_what_a_folder_of_the_photos_gives(tmp_path: Path, kind: str) -> None:
    for number in range(80):
        path = tmp_path / "folder" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_of(number))
    facts, photos = webdataset(tmp_path / "run", shards(tmp_path / "shards", kind=kind))
    _, expected = data_of(tmp_path / "other", path=tmp_path / "folder")
    assert content_of(photos) == content_of(expected)
    assert facts["num_skipped"] == 0
    for run in ("run", "other"):
        assert load_examples(RunDir(tmp_path / run), "train").classes == ["cat", "dog"]
    ours, theirs = (load_examples(RunDir(tmp_path / run), "train") for run in ("run", "other"))
    for path, other in zip(ours.paths, theirs.paths, strict=True):
        np.testing.assert_array_equal(decode_photo(path), decode_photo(other))
    written = [p for p in (tmp_path / "run").rglob("*") if p.suffix == ".png"]
    assert written == []  # nothing was unpacked


@pytest.mark.parametrize(
    "pattern", ["shards", "shards/part-{000..003}.tar", "shards/part-*.tar",
                "shards/part-{000,001,002}.tar"]
)  # fmt: skip
def test_a_folder_a_pattern_and_a_list_name_tars(tmp_path: Path, pattern: str) -> None:
    shards(tmp_path / "shards")
    _, photos = webdataset(tmp_path / "run", tmp_path / pattern)
    assert num_of(photos) == ({"cat": 30, "dog": 30} if "," in pattern else {"cat": 40, "dog": 40})


def test_tars_may_be_links(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for number, path in enumerate(sorted(shards(tmp_path / "blobs").iterdir())):
        split = "test" if number == 3 else "train"
        (tmp_path / "shards" / f"{split}-{number:03d}.tar").symlink_to(path)
    facts, _ = webdataset(tmp_path / "run", tmp_path / "shards")
    assert facts["num_test"] == 20
    paths = load_examples(RunDir(tmp_path / "run"), "test").paths
    assert [decode_photo(path).shape for path in paths] == [(12, 16, 3)] * 20


def test_numbers_get_the_names_that_lie_beside_the_tars(tmp_path: Path) -> None:
    members = [
        member
        for number in range(60)
        for member in [(f"{number}.png", png_of(number)), (f"{number}.cls", b"%d" % (number % 11))]
    ]
    write_tar(tmp_path / "shards" / "a.tar", members)
    settings = {"validation": 0.2}
    _, photos = webdataset(tmp_path / "run", tmp_path / "shards", **settings)
    assert sorted(num_of(photos)) == [f"{number:02d}" for number in range(11)]
    names = [f"kind {chr(97 + number)}" for number in range(11)]
    (tmp_path / "shards" / "classnames.txt").write_text("\n".join(names))
    _, photos = webdataset(tmp_path / "other", tmp_path / "shards", **settings)
    assert sorted(num_of(photos)) == names


def test_splits_come_from_the_names_of_tars_and_classes_from_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("train-000", "train-001", "val-000", "test-000", "unlabelled")):
        numbers = range(20 * number, 20 * number + 20)
        members = [(f"{('cat', 'dog')[n % 2]}/{n}.png", png_of(n)) for n in numbers]
        write_tar(tmp_path / "shards" / f"{name}.tar", members)
    facts, photos = webdataset(tmp_path / "run", tmp_path / "shards")
    num = {split: facts[f"num_{split}"] for split in ("train", "validation", "test", "unlabelled")}
    assert num == {"train": 40, "validation": 20, "test": 20, "unlabelled": 20}
    assert num_of(photos) == {"cat": 40, "dog": 40, "": 20}


def test_only_a_new_tar_is_opened_by_the_next_scan(tmp_path: Path, settle: None) -> None:
    folder = shards(tmp_path / "shards")
    webdataset(tmp_path / "run", folder)
    write_tar(folder / "part-004.tar", samples(range(80, 90)))
    with opened_files() as opened:
        _, photos = webdataset(tmp_path / "run", folder)
    assert len(photos) == 90
    assert {Path(name).name for name in opened if name.endswith(".tar")} == {"part-004.tar"}


def test_a_chosen_member_is_the_photo(tmp_path: Path) -> None:
    members = []
    for number in range(40):
        members += [
            (f"{number}.mask.png", png_of(1000 + number)),
            (f"{number}.png", png_of(number)),
            (f"{number}.json", json.dumps({"kind": number % 2, "label": "all"}).encode()),
        ]
    write_tar(tmp_path / "a.tar", members)
    _, plain = webdataset(tmp_path / "run", tmp_path / "a.tar", columns={"label": "kind"})
    columns = {"photo": "mask.png", "label": "kind"}
    _, masks = webdataset(tmp_path / "other", tmp_path / "a.tar", columns=columns)
    assert num_of(plain) == num_of(masks) == {"0": 20, "1": 20}
    assert not {p.sha256 for p in plain} & {p.sha256 for p in masks}


def test_json_names_splits_and_groups_beside_other_labels(tmp_path: Path) -> None:
    members = []
    for number in range(60):
        facts = {"split": "test" if number % 6 == 5 else "train", "animal": f"a{number // 6}"}
        if number % 6 == 5:
            facts["animal"] = f"b{number}"
        members += [
            (f"{number}.png", png_of(number)), (f"{number}.json", json.dumps(facts).encode()),
            (f"{number}.cls", ("cat", "dog")[number % 2].encode()),
        ]  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    facts, _ = webdataset(tmp_path / "run", tmp_path / "a.tar")
    assert "num_groups" not in facts
    group = GroupConfig(column="animal")
    facts, photos = webdataset(tmp_path / "run", tmp_path / "a.tar", group=group)
    assert num_of(photos) == {"cat": 30, "dog": 30}
    assert facts["num_test"] == 10
    assert facts["num_groups"] == 20


def test_hostile_members_are_skipped_and_write_nothing(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        [
            *samples(range(40)),
            ("../../outside.png", png_of(100)), ("../../outside.cls", b"cat"),
            ("/absolute.png", png_of(101)), ("/absolute.cls", b"dog"),
            ("a\nb\r,\"c.png", png_of(102)), ("a\nb\r,\"c.cls", b"dog"),
            ("..png", b"x"), (".png", b"x"), ("@1+2/x.png", png_of(103)), ("@1+2/x.cls", b"cat"),
            ("bytes.png", png_of(104)), ("bytes.cls", b"\xff\xfe"),
            ("deep.png", png_of(105)), ("deep.json", b"[" * 100_000),
            ("empty.png", b""), ("empty.cls", b"cat"),
            ("no.png", png_of(106)), ("no.json", b'{"label": {"a": 1}}'),
        ],
    )  # fmt: skip
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"link{ord(kind)}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    before = {p for p in tmp_path.rglob("*")}
    _, photos = webdataset(tmp_path / "run", path)
    assert num_of(photos) == {"cat": 22, "dog": 22}
    skipped = skipped_of(tmp_path / "run")
    assert sorted(Path(name).name for name in skipped) == [
        "bytes.png", "deep.png", "empty.png", "no.png"
    ]  # fmt: skip
    assert {p for p in tmp_path.rglob("*") if tmp_path / "run" not in p.parents} == {
        *before, tmp_path / "run"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.tar", lambda whole: whole[: len(whole) // 3], "cannot be read as a tar"),
        ("text.tar", lambda whole: b"not a tar" * 1000, "cannot be read as a tar"),
        ("empty.tar", lambda whole: b"", "cannot be read as a tar"),
        ("packed.tar.gz", gzip.compress, "is compressed"),
        ("hidden.tar", gzip.compress, "cannot be read as a tar"),
        ("none.tar", lambda whole: bytes(10240), "hold no photo"),
        ("large.tar", lambda whole: whole[:124] + b"77777777777\0" + whole[136:], "a tar"),
    ],
)  # fmt: skip
def test_a_damaged_tar_is_an_error(tmp_path: Path, name: str, content, reason: str) -> None:
    whole = write_tar(tmp_path / "whole" / "a.tar", samples(range(40))).read_bytes()
    (tmp_path / name).write_bytes(content(whole))
    with pytest.raises(UserError, match=reason):
        data_step(RunDir(tmp_path / "run"), DataConfig(source=f"webdataset:{tmp_path / name}"))


def test_a_member_of_a_negative_size_is_an_error(tmp_path: Path) -> None:
    """CVE-2025-8194: tarfile steps back by the size and finds the member again, without end."""
    path = write_tar(tmp_path / "a.tar", samples(range(40)))
    content = bytearray(path.read_bytes())
    second = 512 + -(-len(png_of(0)) // 512) * 512
    header = content[second : second + 512]
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[second : second + 512] = header
    path.write_bytes(content)

    def too_late(*_: object) -> None:
        raise AssertionError("the tar was read for ten seconds")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(10)
    try:
        with pytest.raises(UserError, match="cannot be read as a tar: a member of -512 bytes"):
            data_step(RunDir(tmp_path / "run"), DataConfig(source=f"webdataset:{path}"))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_no_tars_is_an_error(tmp_path: Path) -> None:
    for name in ("", "/missing.tar", "/*.tar", "/{0..99999999}.tar"):
        with pytest.raises(UserError, match="Expected"):
            data_step(RunDir(tmp_path / "run"), DataConfig(source=f"webdataset:{tmp_path}{name}"))


def test_a_photo_of_a_tar_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards")
    webdataset(tmp_path / "run", folder)
    examples = load_examples(RunDir(tmp_path / "run"), "train")
    path = next(path for path in examples.paths if "part-003" in str(path))
    write_tar(folder / "part-003.tar", [])
    with pytest.raises(UnreadablePhoto, match="shorter"):
        decode_photo(path)
