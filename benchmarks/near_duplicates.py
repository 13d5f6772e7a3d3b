"""How well near-duplicates are found: precision, recall and time on a made set.

    python benchmarks/near_duplicates.py FOLDER

Copies of some photos of FOLDER are resized, recompressed and cropped by 5 %. A pair is right if
one photo was made from the other, or both from one. FOLDER may hold near-duplicates of its own:
photos of pairs that are found before copies are made are left out of the made set and counted.
With --crops N, N small crops of each photo join them, and what is found among so many by sorting is
compared with what is found by comparing all pairs.
"""

import argparse
import io
import random
import time
from pathlib import Path

import numpy as np
from PIL import Image

from distill.data.sources.folders import files_below
from distill.data.splitting import near_duplicates as near
from eval.photo_files import decoded_photo

CHANGES = (
    "half the size", "1.5 times the size", "JPEG quality 30", "cropped by 5 %, anywhere",
    "cropped by 5 %, at a corner", "cropped by 5 %, half the size, JPEG quality 40",
)  # fmt: skip


def changed(photo: Image.Image, change: str, rng: random.Random) -> Image.Image:
    """A copy of a photo after one of CHANGES."""
    if "cropped" in change:
        width, height = round(photo.width * 0.95), round(photo.height * 0.95)
        at_corner = "corner" in change
        left = 0 if at_corner else rng.randint(0, photo.width - width)
        top = 0 if at_corner else rng.randint(0, photo.height - height)
        photo = photo.crop((left, top, left + width, top + height))
    scale = 0.5 if "half" in change else 1.5 if "1.5" in change else 1.0
    if scale != 1.0:
        size = round(photo.width * scale), round(photo.height * scale)
        photo = photo.resize(size, Image.Resampling.BICUBIC)
    if "JPEG" in change:
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=int(change.rpartition(" ")[2]))
        photo = Image.open(file).convert("RGB")
    return photo


def stacked(thumbnails: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails as an array, and the numbers of all its rows."""
    pixels = np.frombuffer(b"".join(thumbnails), "uint8").reshape(-1, near.SIDE, near.SIDE)
    return pixels, np.arange(len(pixels))


def crops_of(path: Path, number: int, rng: random.Random) -> list[bytes]:
    """Thumbnails of crops of 45 to 75 % of the sides of a photo, too different to be copies."""
    crops = []
    with decoded_photo(path) as photo:
        for _ in range(number):
            share = rng.uniform(0.45, 0.75)
            width, height = round(photo.width * share), round(photo.height * share)
            left = rng.randint(0, photo.width - width)
            top = rng.randint(0, photo.height - height)
            crops.append(photo.image.crop((left, top, left + width, top + height)))
    return [content for content in map(near.thumbnail, crops) if content]


def compare_ways(pixels: np.ndarray) -> None:
    """Print what sorting misses of the near-duplicates that comparing all pairs finds."""
    pairs, seconds, usual = [], [], near.MAX_ALL_PAIRS
    for limit in (len(pixels), 0):
        near.MAX_ALL_PAIRS = limit
        start = time.process_time()
        found = near.near_pairs(pixels, np.arange(len(pixels)))
        seconds.append(time.process_time() - start)
        pairs.append({tuple(pair) for pair in found.tolist()})
    near.MAX_ALL_PAIRS = usual
    share = len(pairs[1] & pairs[0]) / len(pairs[0])
    print(
        f"{len(pixels)} photos: all pairs {seconds[0]:.1f} s, {len(pairs[0])} near-duplicates; "
        f"by sorting {seconds[1]:.1f} s, {share:.2%} of them"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copies", type=int, default=400, help="photos that are copied")
    parser.add_argument("--crops", type=int, default=0, help="further crops of each photo")
    options = parser.parse_args()
    rng = random.Random(1)
    paths = [options.folder / name for name in files_below(options.folder, options.folder)]
    start = time.perf_counter()
    originals = []
    seconds_of_thumbnails = 0.0
    for path in paths:
        with decoded_photo(path) as photo:
            before = time.perf_counter()
            originals.append(near.thumbnail(photo.image))
            seconds_of_thumbnails += time.perf_counter() - before
    decoded = time.perf_counter()
    compared = [row for row, content in enumerate(originals) if content]
    groups = [
        [compared[place] for place in group]
        for group in near.near_duplicates(*stacked([originals[row] for row in compared]))
    ]
    seconds_to_compare = time.perf_counter() - decoded
    of_their_own = {row for group in groups for row in group}
    print(
        f"{len(paths)} photos read in {decoded - start:.1f} s, of which thumbnails took "
        f"{seconds_of_thumbnails:.1f} s; compared in {seconds_to_compare:.1f} s"
    )
    print(f"near-duplicates of their own: {len(of_their_own)} photos in {len(groups)} groups")

    unique = [row for row in range(len(paths)) if row not in of_their_own and originals[row]]
    contents, parents, changes = (
        [originals[row] for row in unique],
        list(unique),
        [""] * len(unique),
    )
    for row in rng.sample(unique, options.copies):
        with decoded_photo(paths[row]) as photo:
            for change in CHANGES:
                contents.append(near.thumbnail(changed(photo.image, change, rng)))
                parents.append(row)
                changes.append(change)
    pixels, rows = stacked(contents)
    if options.crops:
        contents += [crop for path in paths for crop in crops_of(path, options.crops, rng)]
        compare_ways(stacked(contents)[0])
    place = {row: index for index, row in enumerate(unique)}
    for min_correlation in (0.95, 0.96, 0.97, 0.98, 0.99):
        near.MIN_CORRELATION = min_correlation
        pairs = {(int(a), int(b)) for a, b in near.near_pairs(pixels, rows)}
        right = sum(parents[a] == parents[b] for a, b in pairs)
        copies = [i for i, change in enumerate(changes) if change]
        recall = {
            change: np.mean(
                [(place[parents[i]], i) in pairs for i in copies if changes[i] == change]
            )
            for change in CHANGES
        }
        of_copies = np.mean([(place[parents[i]], i) in pairs for i in copies])
        print(
            f"limit {min_correlation}: precision {right / len(pairs):.4f} "
            f"({len(pairs) - right} wrong of {len(pairs)} pairs), recall {of_copies:.4f}"
        )
        print("   " + "; ".join(f"{change} {share:.3f}" for change, share in recall.items()))


if __name__ == "__main__":
    main()
