"""Weights of PyTorch, of both its formats, and safetensors."""

import io
import json
import pickle
import random
import struct
import zipfile
from pathlib import Path

import numpy as np

from fuzz.harness import Kind
from fuzz.mutations import as_json, mutated_bytes, mutated_json
from torch_files import NEW_STATE_DICT, number, save_safetensors, save_zip, tensor, text, write_file

STARTS = b"\x80\x02"
HOSTILE_PICKLES = (
    b"cos\nsystem\n" + text("touch canary") + b"\x85R",
    b"cbuiltins\nexec\n" + text("open('canary', 'w')") + b"\x85R",
    b"cposix\nsystem\n" + text("touch canary") + b"\x85R",
    b"(" + text("touch canary") + b"ios\nsystem\n",
    b"\x8c\x02os\x8c\x06system\x93" + text("touch canary") + b"\x85R",
    b"ctorch._utils\n_rebuild_tensor_v2\n" + number(1) + b"\x85R",
    b"ctorch._utils\n_rebuild_parameter\n)R",
    b"ccollections\nOrderedDict\n)\x81}b",
    b"ctorch\nFloatStorage\n)R",
    NEW_STATE_DICT + text("a") + text("b") + b"s" + b"}" + text("__class__") + number(3) + b"sb",
    b"(" * 100_000,
    b"\x95" + struct.pack("<Q", 2**62),
    b"\x8e" + struct.pack("<Q", 2**62),
    b"X" + struct.pack("<I", 2**31),
    b"q\xff" + b"r" + struct.pack("<I", 2**31),
    b"\x8b" + struct.pack("<i", -1),
)


def _write_weights(seeds: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "conv.weight": rng.normal(size=(4, 3, 3, 3)).astype("float32"),
        "conv.bias": rng.normal(size=4).astype("float32"),
        "fc.weight": rng.normal(size=(3, 4)).astype("float32"),
    }
    save_zip(seeds / "new.pth", arrays)
    write_file(
        seeds / "legacy.pth",
        NEW_STATE_DICT + tensor("a", (2, 3), (3, 1)) + tensor("b", (3,), (2,), offset=1),
    )
    save_safetensors(seeds / "plain.safetensors", arrays)


def _make_weights(rng: random.Random, seeds: Path, folder: Path) -> Path:
    source = rng.choice(sorted(seeds.iterdir()))
    content = source.read_bytes()
    change = rng.random()
    if source.suffix == ".safetensors" and change < 0.6:
        content = _changed_header(rng, content)
    elif source.name == "new.pth" and change < 0.6:
        content = _changed_zip(rng, content)
    elif source.name == "legacy.pth" and change < 0.3:
        head = b"".join(pickle.dumps(p, 2) for p in (0x1950A86A20F9469CFC6C, 1001))
        parts = [head, pickle.dumps({"little_endian": True}, 2), STARTS]
        content = b"".join(parts) + rng.choice(HOSTILE_PICKLES) + b"." + content[-60:]
    else:
        content = mutated_bytes(rng, content)
    path = folder / f"model{source.suffix if rng.random() < 0.9 else '.pt'}"
    path.write_bytes(content)
    return path


def _changed_header(rng: random.Random, content: bytes) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    header = mutated_json(rng, json.loads(content[8 : 8 + size]))
    encoded = rng.choice((as_json(header), as_json(header), b"[" * 100_000, b'{"a":' * 5000))
    said = rng.choice((len(encoded),) * 8 + (2**63, 2**64 - 1, 0, len(encoded) + 8))
    return struct.pack("<Q", said) + encoded + content[8 + size :]


def _changed_zip(rng: random.Random, content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    pickled = next(n for n in members if n.endswith("data.pkl"))
    if rng.random() < 0.4:
        members[pickled] = STARTS + rng.choice(HOSTILE_PICKLES) + b"."
    elif rng.random() < 0.5:
        members[pickled] = mutated_bytes(rng, members[pickled])
    elif rng.random() < 0.5:
        members[name] = rng.choice((members[name][:-3], members[name] * 3, b"", b"\0" * 10**7))
    else:
        members[rng.choice(("../../escaped", "/escaped", "b/data.pkl"))] = members.pop(name)
    target = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target.getvalue()


def _read(path: Path) -> None:
    from distill.backbones.weights.torch_file import read_torch_weights

    read_torch_weights(path)


def _words(path: Path) -> list[str]:
    """Training starts from them, once there are photos."""
    photos = path.parent / "photos"
    from support import save_photo

    for label, first in (("cat", 0), ("dog", 100)):
        for number_of_photo in range(15):
            save_photo(photos / label / f"{number_of_photo}.png", seed=first + number_of_photo)
    words = ["distill", "teacher", str(photos), "--run", str(path.parent / "run")]
    for setting in (
        f"teacher.backbone={{name: efficientnet_lite0, weights: {path}}}",
        "teacher.image_size=32",
        "teacher.epochs=1",
        "student.image_size=32",
    ):
        words += ["--set", setting]
    return words


WEIGHTS = Kind(
    ("numpy", "distill.backbones.weights.torch_file"), _write_weights, _make_weights, _read, _words
)
