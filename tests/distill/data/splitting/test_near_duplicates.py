"""Copies of a photo are found, other photos are not, and none is on two sides."""

import csv
import io
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema.data import DataConfig
from distill.data.scan import data_step, scan_folder
from distill.data.splitting import near_duplicates as near
from support import save_photo


def photo_of(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Smooth noise with as much detail as a thumbnail holds."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def recompressed(photo: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def groups_of(photos: list[Image.Image]) -> list[list[int]]:
    return of_thumbnails([near.thumbnail(photo) for photo in photos])


def of_thumbnails(thumbnails: list[bytes | None]) -> list[list[int]]:
    """Groups among thumbnails; None stands for a photo that is not compared."""
    pixels = np.frombuffer(b"".join(t or bytes(32 * 32) for t in thumbnails), "uint8")
    rows = np.flatnonzero([content is not None for content in thumbnails])
    groups = near.near_duplicates(pixels.reshape(-1, 32, 32), rows)
    return [rows[group].tolist() for group in groups]


@pytest.mark.parametrize(
    "change",
    [
        lambda photo: photo.resize((60, 45)),
        lambda photo: photo.resize((200, 150)),
        lambda photo: recompressed(photo, 25),
        lambda photo: photo.crop((2, 1, 119, 89)),
        lambda photo: ImageEnhance.Brightness(photo).enhance(0.8),
        lambda photo: photo.convert("L").convert("RGB"),
    ],
    ids=["smaller", "larger", "JPEG", "cropped", "darker", "grey"],
)
def test_a_changed_copy_is_found_among_other_photos(change) -> None:
    photos = [photo_of(seed) for seed in range(40)]
    assert groups_of(photos) == []
    assert groups_of([*photos, change(photos[7])]) == [[7, 40]]


def test_photos_that_show_too_little_are_not_compared() -> None:
    flat = Image.new("RGB", (64, 64), (200, 10, 10))
    small = photo_of(1, (31, 64))
    assert groups_of([flat, flat, small, small]) == []
    assert groups_of([photo_of(1, (32, 64))] * 2) == [[0, 1]]


def test_the_correlation_of_thumbnails_is_that_of_numpy() -> None:
    first, second = np.random.default_rng(0).integers(0, 256, (2, 32, 32)).astype("uint8")
    means = [t.reshape(16, 2, 16, 2).mean(axis=(1, 3)).ravel() for t in (first, second)]
    whole = np.corrcoef(*means)[0, 1]
    views = near._views(np.stack([first, second]))
    assert views.shape == (2, 10, 256)
    assert views[0, 0] @ views[1, 0] == pytest.approx(whole, abs=1e-5)
    assert near.correlation(first[None], second[None])[0] >= whole - 1e-5
    assert near.correlation(first[None], first[None])[0] == pytest.approx(1, abs=1e-5)


def rough_photo_of(seed: int) -> Image.Image:
    """Noise as fine as a thumbnail: a crop of it is far from the whole."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((240, 240), Image.Resampling.BICUBIC)


def test_the_quick_look_before_the_correlation_loses_no_pair() -> None:
    photos = [make(seed) for make in (photo_of, rough_photo_of) for seed in range(30)]
    crops = [
        photo.crop((left, top, left + photo.width * 19 // 20, top + photo.height * 19 // 20))
        for photo in photos
        for left, top in ((0, 0), (photo.width // 20, 0), (photo.width // 40, photo.height // 40))
    ]
    thumbnails = b"".join(near.thumbnail(photo) or b"" for photo in (*photos, *crops))
    pixels = np.frombuffer(thumbnails, "uint8").reshape(-1, 32, 32)
    rows = np.arange(len(pixels))
    pairs = np.stack(np.triu_indices(len(pixels), 1), axis=1)
    is_near = near.correlation(*(pixels[part] for part in pairs.T)) >= near.MIN_CORRELATION
    can_be_near = near._can_be_near(pixels, rows, pairs, near.crop_angles(pixels, rows))
    assert is_near.sum() > 80
    assert can_be_near[is_near].all()
    assert can_be_near.mean() < 0.1
    first, second = (near._views(pixels[part])[:, 0] for part in pairs[is_near].T)
    # Some whole photos differ so much that a fixed limit would have lost them.
    assert np.einsum("pd,pd->p", first, second).min() < 0.75


def test_the_hash_says_where_brightness_rises() -> None:
    ramp = np.tile(np.arange(32, dtype="uint8"), (32, 1))
    (to_the_right,) = near.difference_hash(ramp[None])
    assert int(np.bitwise_count(to_the_right).sum()) == 56  # 8 rows of 7 steps
    both = near.difference_hash((ramp + ramp.T)[None])[0]
    assert int(np.bitwise_count(both).sum()) == 112
    assert int(np.bitwise_count(near.difference_hash(255 - ramp[None])[0]).sum()) == 0


def test_photos_that_all_look_alike_are_not_compared_for_ever(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.setattr(near, "MAX_CANDIDATES", 2)
    noise = np.random.default_rng(0).integers(-2, 3, (20, 32, 32))
    ramp = 20 + 3 * np.add.outer(np.arange(32), np.arange(32))
    alike = [(ramp + n).astype("uint8").tobytes() for n in noise]
    assert of_thumbnails(alike) == []
    assert "look too much alike" in warnings[0]


def flipped(hashes: np.ndarray, num_bits: int, rng: np.random.Generator) -> np.ndarray:
    """Hashes that differ in so many of their 112 bits."""
    bits = np.unpackbits(hashes.view("uint8"), axis=1)
    for row in bits:
        row[rng.permutation(112)[:num_bits]] ^= 1
    return np.packbits(bits, axis=1).view("uint64")


def test_neighbours_in_several_orders_are_the_pairs_that_differ_little() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (20_000, 128), dtype=np.uint8)
    bits[:, 112:] = 0
    hashes = np.packbits(bits, axis=1).view("uint64")
    # 300 photos have a copy, whose hash differs in 12 bits. Unlike hashes differ in 56 +- 5.
    hashes[10_000:10_300] = flipped(hashes[:300], 12, rng)
    pairs = [tuple(pair) for part in near._of_neighbours(hashes) for pair in part.tolist()]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) <= {(row, 10_000 + row) for row in range(300)}
    # Two such hashes agree in their first log2(20000 / 64) = 8 bits in 40 % of the orders, so a
    # photo is missed by all 48 orders with a probability of 1e-10.
    assert len(pairs) == 300


def test_many_photos_have_the_groups_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [photo_of(seed) for seed in range(60)]
    copies = [photo.resize((60, 45)) for photo in photos[:20]]
    expected = groups_of([*photos, *copies])
    assert len(expected) == 20
    monkeypatch.setattr(near, "MAX_ALL_PAIRS", 10)
    assert groups_of([*photos, *copies]) == expected


@pytest.fixture
def folder_with_copies(tmp_path: Path) -> Path:
    """Two classes of forty photos; five of each have two changed copies."""
    root = tmp_path / "photos"
    for number, label in enumerate(("cat", "dog")):
        (root / label).mkdir(parents=True)
        for seed in range(40):
            photo = photo_of(1000 * number + seed)
            photo.save(root / label / f"{seed}.png")
            if seed < 5:
                photo.resize((80, 60)).save(root / label / f"{seed} small.png")
                photo.save(root / label / f"{seed} saved again.jpg", quality=40)
    return root


def test_copies_are_on_one_side_and_listed(folder_with_copies: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    facts = take_step(data_step(run, DataConfig(path=folder_with_copies, test=0.4)))
    assert facts["num_near_duplicates"] == 30
    with open(run.photos_manifest, newline="") as file:
        split_of = {row["path"]: row["split"] for row in csv.DictReader(file)}
    with open(run.photos_manifest.with_name("near_duplicates.csv"), newline="") as file:
        listed = list(csv.DictReader(file))
    sides: dict[str, set[str]] = {}
    for row in listed:
        sides.setdefault(row["number"], set()).add(split_of[row["path"]])
        assert row["split"] == split_of[row["path"]]
    assert len(listed) == 30
    assert Counter(map(len, sides.values())) == {1: 10}
    assert len({next(iter(side)) for side in sides.values()}) > 1
    assert set(split_of) == {p.relative_to(folder_with_copies).as_posix() for p in
                             folder_with_copies.glob("*/*")}  # fmt: skip


def test_photos_without_copies_stay_where_they_were(folder_with_copies: Path, tmp_path) -> None:
    with_check, without = (
        take_and_read(RunDir(tmp_path / str(value)), folder_with_copies, value)
        for value in (True, False)
    )
    alone = [path for path in without if int(Path(path).stem.split()[0]) >= 5]
    assert len(alone) == 70
    assert {path: with_check[path] for path in alone} == {path: without[path] for path in alone}


def take_and_read(run: RunDir, folder: Path, near_duplicates: bool | None) -> dict[str, str]:
    take_step(data_step(run, DataConfig(path=folder, near_duplicates=near_duplicates)))
    with open(run.photos_manifest, newline="") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def test_a_run_that_an_older_version_split_keeps_its_splits(
    folder_with_copies: Path, tmp_path: Path
) -> None:
    """That version had neither the key nor its fact in the manifest."""
    run = RunDir(tmp_path / "run")
    before = take_and_read(run, folder_with_copies, False)
    assert "near_duplicates" not in DataConfig().as_input()
    save_photo(folder_with_copies / "cat" / "new.png", seed=1)
    after = take_and_read(run, folder_with_copies, None)
    assert {path: after[path] for path in before} == before
    assert len(after) == len(before) + 1
    assert not run.photos_manifest.with_name("near_duplicates.csv").exists()


def test_a_copy_of_a_given_test_photo_is_not_learned(tmp_path: Path) -> None:
    rng = random.Random(0)
    for label, first in (("cat", 0), ("dog", 500)):
        for split, seeds in (("train", range(20)), ("test", range(100, 110))):
            (tmp_path / split / label).mkdir(parents=True)
            for seed in seeds:
                photo_of(first + seed).save(tmp_path / split / label / f"{seed}.png")
    leaked = photo_of(103).resize((90, 70))
    leaked.save(tmp_path / "train" / "cat" / "leak.jpg", quality=rng.randint(50, 60))
    parts = scan_folder(tmp_path)
    names = {split: {path.name for path in part.paths} for split, part in parts.items()}
    assert "103.png" in names["test"]
    assert not any("leak.jpg" in part for part in names.values())
    assert sum(map(len, parts.values())) == 60


def test_the_flowers_keep_nearly_all_photos_on_their_side(flowers: Path) -> None:
    from distill.data.scan import scan
    from distill.data.sources import SOURCES
    from distill.data.sources.listing import Place
    from distill.data.splitting.rule import SplitRule

    rule = SplitRule(validation=0.1, test=0.2)
    listing = SOURCES["folder"](Place(flowers))
    without = {p.id: p.split for p in scan(listing, rule, max_skipped=0.2, find_near=False).photos}
    scanned = scan(listing, rule, max_skipped=0.2)
    assert {photo.id for photo in scanned.photos} == set(without)
    moved = [photo for photo in scanned.photos if photo.split != without[photo.id]]
    in_sets = {photo.id for photos in scanned.near for photo in photos}
    assert {photo.id for photo in moved} <= in_sets
    assert 40 <= len(in_sets) <= 60
