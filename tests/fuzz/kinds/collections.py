"""Files that hold photos or labels: archives, tables, arrays, and stored soft labels."""

import csv
import io
import json
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fuzz.harness import Kind
from fuzz.mutations import WORDS, as_json, mutated_bytes, mutated_json, mutated_text

NUM_PHOTOS = 12


class _Hostile:
    """Its pickle writes a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("canary", "w")


def _photo(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (9, 8, 3), "uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _write_collections(seeds: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    photos = [_photo(number) for number in range(2 * NUM_PHOTOS)]
    labels = ["cat", "dog"] * NUM_PHOTOS
    for number, content in enumerate(photos):
        (seeds / f"{number}.png").write_bytes(content)
    with zipfile.ZipFile(seeds / "photos.zip", "w") as archive:
        for number, content in enumerate(photos):
            archive.writestr(f"{labels[number]}/{number}.png", content)
    for name, mode in (("photos.tar", "w"), ("photos.tar.gz", "w:gz"), ("photos.tar.xz", "w:xz")):
        with tarfile.open(seeds / name, mode) as tar:
            for number, content in enumerate(photos):
                info = tarfile.TarInfo(f"{labels[number]}/{number}.png")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    with open(seeds / "photos.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label"])
        writer.writerows([f"{number}.png", label] for number, label in enumerate(labels))
    table = pyarrow.table(
        {"image": [{"bytes": photo, "path": None} for photo in photos], "label": labels}
    )
    pyarrow.parquet.write_table(table, seeds / "photos.parquet")
    images = [
        {"id": n, "file_name": f"{n}.png", "width": 8, "height": 9} for n in range(len(photos))
    ]
    boxes = [
        {"id": n, "image_id": n, "category_id": n % 2, "bbox": [0, 0, 5, 5]}
        for n in range(len(photos))
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(("cat", "dog"))]
    document = {"images": images, "annotations": boxes, "categories": categories}
    (seeds / "photos.json").write_text(json.dumps(document))


def _make_collection(rng: random.Random, seeds: Path, folder: Path) -> Path:
    source = rng.choice(sorted(seeds.glob("photos.*")))
    for path in seeds.glob("*.png"):
        (folder / path.name).symlink_to(path)
    content, change = source.read_bytes(), rng.random()
    if source.suffix == ".zip" and change < 0.5:
        content = _changed_zip(rng, content)
    elif source.name == "photos.tar" and change < 0.5:
        content = _changed_tar(rng, content)
    elif source.suffix == ".csv" and change < 0.8:
        content = mutated_text(rng, content.decode()).encode("utf-8", "surrogatepass")
    elif source.suffix == ".json" and change < 0.8:
        content = as_json(mutated_json(rng, json.loads(content)))
    else:
        content = mutated_bytes(rng, content)
    path = folder / source.name
    path.write_bytes(content)
    return path


HOSTILE_NAMES = (
    "../../escaped.png", "/escaped.png", "..\\..\\escaped.png", "C:\\escaped.png",
    "cat/../../x.png",
    "cat/\x00.png", "con/a.png", "cat/" + "x" * 300 + ".png", "cat/dog/a.png", "cat", "", ".",
    "cat//a.png", "./cat/./a.png", "cat/\udcff.png", "cat/a.png/b.png", "__MACOSX/._a.png",
)  # fmt: skip


def _changed_zip(rng: random.Random, content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w") as archive:
        for info in source.infolist():
            data = source.read(info)
            if rng.random() < 0.06:
                info.filename = rng.choice((*HOSTILE_NAMES, *WORDS[5:])) or "a"
                info.filename = info.filename.encode("utf-8", "replace").decode()
            if rng.random() < 0.03:
                info.external_attr = rng.choice((0o120777, 0o060644, 0o040755)) << 16
                data = b"/etc"
            if rng.random() < 0.03:
                data, info.compress_type = b"\0" * 3 * 10**7, zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return target.getvalue()


def _changed_tar(rng: random.Random, content: bytes) -> bytes:
    target = io.BytesIO()
    reading, writing = io.BytesIO(content), target
    with tarfile.open(fileobj=reading) as source, tarfile.open(fileobj=writing, mode="w") as tar:
        for info in source:
            data = source.extractfile(info).read()  # type: ignore[union-attr]
            if rng.random() < 0.06:
                info.name = rng.choice(HOSTILE_NAMES).replace("\x00", "")
            if rng.random() < 0.03:
                info.type = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"3"))
                info.linkname, info.size, data = "/etc/hostname", 0, b""
            tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


def _scan(path: Path) -> None:
    """What `distill data` does with a file of photos."""
    from configs.schema.data import DataConfig
    from distill.data.scan import scan
    from distill.data.sources import list_photos
    from distill.data.splitting.groups import with_groups
    from distill.data.splitting.rule import SplitRule

    data = DataConfig(path=path)
    listing = with_groups(list_photos(data, path.parent / "run" / "data"), data.group)
    scan(listing, SplitRule(validation=0.2, test=0.2), max_skipped=0.5)


def _data_words(path: Path) -> list[str]:
    return ["distill", "data", str(path), "--run", str(path.parent / "run")]


COLLECTIONS = Kind(
    ("numpy", "pyarrow.parquet", "distill.data.scan", "distill.data.sources"),
    _write_collections,
    _make_collection,
    _scan,
    _data_words,
)


def _write_arrays(seeds: Path) -> None:
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (24, 9, 8, 3), "uint8")
    names = np.array(["cat", "dog"])
    labels = np.arange(24) % 2
    np.savez(seeds / "plain.npz", x=photos, y=labels, classes=names)
    np.savez(seeds / "floats.npz", x_train=photos / 255, y_train=names[labels])
    np.savez(seeds / "objects.npz", x=photos, y=np.array([_Hostile()] * 24, object))
    np.save(seeds / "labels.npy", rng.normal(size=(6, 2, 5)).astype("<f2"))
    np.save(seeds / "hostile.npy", np.array([_Hostile()] * 6, object), allow_pickle=True)


HEADERS = (
    "{'descr': '|O', 'fortran_order': False, 'shape': (24,), }",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999999,), }",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (24,), }",
    "{'descr': '<U999999999', 'fortran_order': False, 'shape': (24,), }",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (9999999999,), }",
    "{'descr': '<f2', 'fortran_order': False, 'shape': (0, 0, 0), }",
    "{'descr': '<f2', 'fortran_order': True, 'shape': (6, 2, 5), }",
    "{'descr': '<M8[D]', 'fortran_order': False, 'shape': (24,), }",
    "__import__('os').system('touch canary')",
    "(" * 3000,
)


def _make_array(rng: random.Random, seeds: Path, folder: Path) -> Path:
    source = rng.choice(sorted(seeds.iterdir()))
    content = source.read_bytes()
    if source.suffix == ".npy":
        content = _changed_array(rng, content)
    elif rng.random() < 0.6:
        target = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(target, "w") as new:
            for info in archive.infolist():
                data = archive.read(info)
                new.writestr(info, _changed_array(rng, data) if rng.random() < 0.5 else data)
        content = target.getvalue()
    else:
        content = mutated_bytes(rng, content)
    path = folder / f"photos{source.suffix}"
    path.write_bytes(content)
    return path


def _changed_array(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.5 or content[:6] != b"\x93NUMPY":
        return mutated_bytes(rng, content)
    size = int.from_bytes(content[8:10], "little")
    header = rng.choice(HEADERS)
    if rng.random() < 0.6:
        header = mutated_text(rng, content[10 : 10 + size].decode().strip())
    encoded = header.encode("latin-1", "replace")[:60000]
    return content[:8] + len(encoded).to_bytes(2, "little") + encoded + content[10 + size :]


def _read_array(path: Path) -> None:
    if path.suffix == ".npz":
        _scan(path)
        return
    from distill.labels.label_file import LabelFormat, label_reader

    label_reader(path, LabelFormat(num_classes=5))(np.arange(6), np.zeros(6, int))


ARRAYS = Kind(
    ("numpy", "distill.data.scan", "distill.labels.label_file"),
    _write_arrays,
    _make_array,
    _read_array,
    _data_words,
)
