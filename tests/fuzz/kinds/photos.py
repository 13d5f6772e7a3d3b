"""Photos in every format that is read."""

import random
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from eval.photo_files import UnreadablePhoto
from fuzz.harness import Kind
from fuzz.kinds.runtime_files import write_onnx
from fuzz.mutations import NUMBERS, mutated_bytes

OTHERS = (".jpg", ".png", ".tif", ".webp", ".gif", ".bmp", ".ppm", ".jp2", ".avif", ".dng", ".heic")


def _write_photos(seeds: Path) -> None:
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (19, 23, 3), "uint8"))
    grey, alpha = photo.convert("L"), photo.convert("RGBA")
    wide = Image.fromarray(rng.integers(0, 65536, (19, 23)).astype("uint16"))
    floats = Image.fromarray(rng.uniform(0, 1, (19, 23)).astype("float32"))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "camera"
    profile = b"\0" * 128 + b"profile"
    photo.save(seeds / "plain.jpg", quality=80, exif=exif, icc_profile=profile)
    photo.save(seeds / "progressive.jpg", progressive=True, subsampling=2)
    photo.convert("CMYK").save(seeds / "cmyk.jpg")
    grey.save(seeds / "grey.jpg", comment="a comment")
    photo.save(seeds / "several.mpo", save_all=True, append_images=[photo.rotate(90)])
    photo.save(seeds / "plain.png", exif=exif, icc_profile=profile)
    photo.quantize(16).save(seeds / "palette.png", transparency=0)
    alpha.save(seeds / "alpha.png")
    wide.save(seeds / "wide.png")
    photo.save(seeds / "moving.png", save_all=True, append_images=[photo.rotate(90)])
    photo.save(seeds / "lossy.webp", exif=exif)
    alpha.save(seeds / "lossless.webp", lossless=True)
    photo.save(seeds / "moving.webp", save_all=True, append_images=[photo.rotate(90)])
    photo.save(seeds / "moving.gif", save_all=True, append_images=[photo.rotate(90)], loop=0)
    grey.save(seeds / "grey.gif", transparency=3)
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_lzma"):
        photo.save(seeds / f"{compression}.tif", compression=compression, exif=exif)
    photo.convert("1").save(seeds / "group4.tif", compression="group4")
    wide.save(seeds / "wide.tif")
    floats.save(seeds / "floats.tif")
    photo.save(seeds / "several.tif", save_all=True, append_images=[photo.rotate(90)])
    photo.save(seeds / "plain.bmp")
    photo.quantize(16).save(seeds / "palette.bmp")
    alpha.save(seeds / "alpha.bmp")
    photo.save(seeds / "plain.ppm")
    photo.save(seeds / "plain.jp2")
    photo.save(seeds / "plain.avif")
    (seeds / "plain.pgm").write_bytes(b"P2\n3 2\n65535\n1 2 3 4 5 65535\n")


def _make_photo(rng: random.Random, seeds: Path, folder: Path) -> Path:
    source = rng.choice(sorted(seeds.iterdir()))
    content = source.read_bytes()
    if source.suffix == ".png" and rng.random() < 0.5:
        content = _changed_png(rng, content)
    elif source.suffix == ".ppm" and rng.random() < 0.5:
        words = [str(rng.choice((*NUMBERS, -1, 23, 19, 255))) for _ in range(3)]
        content = (
            f"P{rng.randrange(9)}\n{words[0]} {words[1]}\n{words[2]}\n".encode() + content[13:]
        )
    else:
        content = mutated_bytes(rng, content)
    name = "photo" + (source.suffix if rng.random() < 0.8 else rng.choice(OTHERS))
    path = folder / name
    path.write_bytes(content)
    return path


def _changed_png(rng: random.Random, content: bytes) -> bytes:
    """A PNG with one chunk changed and right checksums, so that the decoder sees the change."""
    chunks, at = [], 8
    while at < len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    number = rng.randrange(len(chunks))
    kind, data = chunks[number]
    if kind == b"IHDR" and rng.random() < 0.6:
        sides = [rng.choice((1, 19, 23, 20000, 10**5, *NUMBERS)) % 2**32 for _ in range(2)]
        data = struct.pack(">II", *sides) + data[8:]
    elif kind in (b"IDAT", b"fdAT") and rng.random() < 0.5:
        data = zlib.compress(mutated_bytes(rng, zlib.decompress(data)) if kind == b"IDAT" else data)
    elif rng.random() < 0.2:
        kind = rng.choice((b"zTXt", b"iTXt", b"iCCP", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"eXIf"))
        data = rng.choice((b"a\0\0" + zlib.compress(b"\0" * 10**8), data, b""))
    else:
        data = mutated_bytes(rng, data)
    chunks[number] = kind, data
    if rng.random() < 0.1:
        rng.shuffle(chunks)
    parts = [
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    ]
    return content[:8] + b"".join(parts)


def _decode(path: Path) -> None:
    """What the scan and the evaluation view do with a photo."""
    from configs.contract import OWN_CONTRACT
    from distill.data.splitting.near_duplicates import thumbnail
    from eval.images import evaluation_image
    from eval.photo_files import decode_photo, decoded_photo

    with decoded_photo(path) as decoded:
        thumbnail(decoded.image)
    evaluation_image(path, (8, 8), OWN_CONTRACT)
    decode_photo(path, 8)


def _predict(path: Path) -> list[str]:
    model = path.with_name("model.onnx")
    write_onnx(model)
    return ["evaluate", "predict", str(model), str(path)]


PHOTOS = Kind(
    imports=("numpy", "distill.data.splitting.near_duplicates", "eval.images", "pillow_heif"),
    write_seeds=_write_photos,
    make=_make_photo,
    check=_decode,
    words=_predict,
    refusals=(UnreadablePhoto,),
)
