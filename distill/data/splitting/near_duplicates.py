"""Photos that are nearly the same: resized, recompressed, recoloured, or cropped by a few percent.

A difference hash finds candidates: 112 bits, which say for an 8 x 8 grid whether brightness rises
to the right and downwards. The correlation of two thumbnails, whole or cropped, then decides.
`benchmarks/near_duplicates.py` measures both limits on flowers.
"""

import logging
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

log = logging.getLogger("potstill")

SIDE = 32
"""Height and width of a thumbnail. Smaller photos have none: too little tells them apart."""

MAX_BITS = 24
"""Candidates differ in so many of the 112 bits at most."""

MIN_CORRELATION = 0.97
"""Of the thumbnails of two photos that are nearly the same."""

ROUNDING = 1e-3
"""Of angles, in radians: an arc cosine in float32 is no more exact near 0."""

CROP = 0.05
"""The share of width and height that a crop of one photo may lack."""

MIN_CONTRAST = 2.0
"""Standard deviation, in grey levels, below which a thumbnail shows nothing to compare."""

MAX_CANDIDATES = 200
"""For each photo, on average. Beyond, the photos are too alike for a hash, as X-rays are."""

ROWS_AT_ONCE, COLUMNS_AT_ONCE = 8, 8192
"""Hashes that are compared together: so few stay in the cache of a core."""

PAIRS_AT_ONCE, HASHES_AT_ONCE, VIEWS_AT_ONCE, PLACES_AT_ONCE = 1024, 4096, 256, 512

MAX_ALL_PAIRS = 2**15
"""Up to so many photos are all compared with all. That takes a second; beyond, it grows fourfold
with every doubling."""

NUM_BITS, NUM_ORDERS, WINDOW = 112, 48, 64
"""More photos are sorted by their hashes this number of times. In each order, a photo is compared
with so many that follow."""


def thumbnail(image: Image.Image) -> bytes | None:
    """The grey thumbnail of a photo, (SIDE, SIDE) bytes; None if it shows too little."""
    if min(image.size) < SIDE:
        return None
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0).convert("L")
    pixels = np.asarray(small)
    return pixels.tobytes() if pixels.std() >= MIN_CONTRAST else None


def near_duplicates(pixels: np.ndarray, rows: np.ndarray) -> list[list[int]]:
    """Groups of two and more photos in which every one is nearly the same as another one.

    Args:
        pixels: thumbnails, uint8 (photos, SIDE, SIDE); they may be mapped from the disk.
        rows: of `pixels`, those that are compared.

    Returns:
        The places in `rows` of the photos of each group, ascending.
    """
    pairs = near_pairs(pixels, rows)
    first, second = pairs.T
    graph = coo_array((np.ones(len(pairs)), (first, second)), shape=(len(rows), len(rows)))
    _, group_of = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = {}
    for index in np.unique(pairs).tolist():
        groups.setdefault(group_of[index], []).append(index)
    return list(groups.values())


def near_pairs(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The pairs of photos that are nearly the same; arguments as above.

    Returns:
        Places in `rows`, int64 (pairs, 2), the smaller one first. None where too many photos are
        alike.
    """
    hashes = np.zeros((len(rows), 2), "uint64")
    for start in range(0, len(rows), HASHES_AT_ONCE):
        part = slice(start, start + HASHES_AT_ONCE)
        hashes[part] = difference_hash(pixels[rows[part]])
    reaches = crop_angles(pixels, rows)
    parts = [np.empty((0, 2), "int64")]
    num_candidates = 0
    for candidates in _in_batches(_candidates(hashes)):
        num_candidates += len(candidates)
        if num_candidates > MAX_CANDIDATES * len(rows):
            log.warning(
                "these photos look too much alike to find near-duplicates among them. If several "
                "show one thing, as bursts do, say so with data.group."
            )
            return parts[0]
        candidates = candidates[_can_be_near(pixels, rows, candidates, reaches)]
        first, second = rows[candidates].T
        is_near = correlation(pixels[first], pixels[second]) >= MIN_CORRELATION
        parts.append(candidates[is_near])
    return np.concatenate(parts)


def _in_batches(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same pairs, PAIRS_AT_ONCE of them together."""
    held = np.empty((0, 2), "int64")
    for part in parts:
        held = np.concatenate([held, part])
        while len(held) >= PAIRS_AT_ONCE:
            yield held[:PAIRS_AT_ONCE]
            held = held[PAIRS_AT_ONCE:]
    if len(held):
        yield held


def difference_hash(pixels: np.ndarray) -> np.ndarray:
    """112 bits of every thumbnail: uint64, (photos, 2)."""
    cells = pixels.reshape(len(pixels), 8, SIDE // 8, 8, SIDE // 8).mean(
        axis=(2, 4), dtype="float32"
    )
    to_the_right = (np.diff(cells, axis=2) > 0).reshape(len(cells), 56)
    downwards = (np.diff(cells, axis=1) > 0).reshape(len(cells), 56)
    padding = np.zeros((len(cells), 16), bool)
    bits = np.concatenate([to_the_right, downwards, padding], axis=1)
    return np.packbits(bits, axis=1).view("uint64")


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The largest correlation between one photo and a crop of the other, either way round.

    Args:
        first, second: thumbnails, uint8 (pairs, SIDE, SIDE).

    Returns:
        float32, (pairs,).
    """
    views, others = _views(first), _views(second)
    whole_first = np.einsum("pd,pvd->pv", views[:, 0], others).max(axis=1)
    whole_second = np.einsum("pd,pvd->pv", others[:, 0], views).max(axis=1)
    return np.maximum(whole_first, whole_second)


def crop_angles(pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How far the crops of each photo turn away from it: the largest angle, float32 (photos,).

    The angle between two photos is the arc cosine of their correlation, in radians.
    """
    angles = np.zeros(len(rows), "float32")
    for start in range(0, len(rows), VIEWS_AT_ONCE):
        part = slice(start, start + VIEWS_AT_ONCE)
        views = _views(pixels[rows[part]])
        least = np.einsum("pd,pvd->pv", views[:, 0], views[:, 1:]).min(axis=1)
        angles[part] = np.arccos(np.clip(least, -1, 1))
    return angles


def _can_be_near(
    pixels: np.ndarray, rows: np.ndarray, pairs: np.ndarray, reaches: np.ndarray
) -> np.ndarray:
    """Which pairs can be near-duplicates, for a tenth of the cost of `correlation`.

    Angles obey the triangle inequality. If a crop of the one photo is near the other photo, then
    the whole photos are at most the angle of that crop and the angle of near-duplicates apart.

    Args:
        pairs: places in `rows`, (pairs, 2).
        reaches: `crop_angles` of all rows.
    """
    photos, of_pair = np.unique(pairs, return_inverse=True)
    first, second = _whole(pixels[rows[photos]])[of_pair.reshape(-1, 2).T]
    angles = np.arccos(np.clip(np.einsum("pd,pd->p", first, second), -1, 1))
    return angles <= reaches[pairs].max(axis=1) + np.arccos(MIN_CORRELATION) + ROUNDING


def _whole(pixels: np.ndarray) -> np.ndarray:
    """The first of `_views` alone: float32, (photos, SIDE / 2 * SIDE / 2)."""
    rows = pixels[:, ::2].astype("uint16") + pixels[:, 1::2]
    cells = (rows[:, :, ::2] + rows[:, :, 1::2]).reshape(len(pixels), -1).astype("float32")
    return _standardized(cells)


def _candidates(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """The pairs whose hashes differ little, in parts: int64, (pairs, 2)."""
    return _of_all_pairs(hashes) if len(hashes) <= MAX_ALL_PAIRS else _of_neighbours(hashes)


def _of_all_pairs(hashes: np.ndarray) -> Iterator[np.ndarray]:
    high, low = np.ascontiguousarray(hashes.T)
    for start in range(0, len(hashes), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        for left in range(start, len(hashes), COLUMNS_AT_ONCE):
            columns = slice(left, left + COLUMNS_AT_ONCE)
            num_bits = np.bitwise_count(high[rows, None] ^ high[None, columns])
            num_bits += np.bitwise_count(low[rows, None] ^ low[None, columns])
            is_near = num_bits <= MAX_BITS
            if is_near.any():
                pairs = np.stack(np.nonzero(is_near), axis=1) + np.array([start, left])
                yield pairs[pairs[:, 0] < pairs[:, 1]]


def _of_neighbours(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """Neighbours in several orders, each by other bits first: time grows with the photos only.

    Photos that differ in few bits are close in some of the orders (Charikar 2002, section 3,
    doi:10.1145/509907.509965). A pair comes once.
    """
    rng, num = np.random.default_rng(0), len(hashes)
    seen = np.empty(0, "int64")
    for _ in range(NUM_ORDERS):
        in_order = np.argsort(_shuffled_bits(hashes, rng.permutation(NUM_BITS)), kind="stable")
        found = np.sort(np.concatenate([*_within_window(hashes[in_order], in_order)]))
        # `np.unique` of numpy 2.3 and later takes 40 times as long for such numbers.
        found = found[np.diff(found, prepend=-1) > 0]
        found = found[~np.isin(found, seen, assume_unique=True)]
        seen = np.concatenate([seen, found])
        yield np.stack(np.divmod(found, num), axis=1)


def _shuffled_bits(hashes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """A number of 64 bits of each hash, in this order, uint64 (photos,)."""
    result = np.empty(len(hashes), ">u8")
    for start in range(0, len(hashes), HASHES_AT_ONCE):
        part = slice(start, start + HASHES_AT_ONCE)
        bits = np.unpackbits(np.ascontiguousarray(hashes[part]).view("uint8"), axis=1)
        packed = np.packbits(np.ascontiguousarray(bits[:, order[:64]]), axis=1)
        result[part] = np.ascontiguousarray(packed).view(">u8").ravel()
    return result.astype("uint64")


def _within_window(ordered: np.ndarray, numbers: np.ndarray) -> Iterator[np.ndarray]:
    """first * photos + second of the pairs at most WINDOW places apart that differ little.

    Args:
        ordered: hashes, uint64 (photos, 2).
        numbers: which photo each is, int64 (photos,).
    """
    num = len(numbers)
    high, low = np.ascontiguousarray(np.pad(ordered, ((0, WINDOW), (0, 0))).T)
    yield np.empty(0, "int64")
    for start in range(0, num, PLACES_AT_ONCE):
        part = slice(start, min(start + PLACES_AT_ONCE, num) + WINDOW)
        num_bits = sum(
            np.bitwise_count(windows[:, 1:] ^ windows[:, :1])
            for windows in (sliding_window_view(half[part], WINDOW + 1) for half in (high, low))
        )
        place, distance = np.nonzero(num_bits <= MAX_BITS)
        first, second = start + place, start + place + distance + 1
        is_inside = second < num
        pair = np.stack([numbers[first[is_inside]], numbers[second[is_inside]]])
        yield pair.min(axis=0) * num + pair.max(axis=0)


def _views(pixels: np.ndarray) -> np.ndarray:
    """Ten views of each thumbnail, whole and cropped at nine places, standardized.

    Returns:
        float32, (photos, 10, SIDE / 2 * SIDE / 2), of mean 0 and length 1.
    """
    kept = SIDE * (1 - CROP)
    windows = [_window(start * SIDE * CROP, kept) for start in (0.0, 0.5, 1.0)]
    whole = _window(0.0, SIDE)
    pairs = [(whole, whole), *((down, right) for down in windows for right in windows)]
    content = pixels.astype("float32")
    views = np.stack([down @ content @ right.T for down, right in pairs], axis=1)
    return _standardized(views.reshape(len(pixels), len(pairs), SIDE * SIDE // 4))


def _standardized(views: np.ndarray) -> np.ndarray:
    """The same views with mean 0 and length 1."""
    views = views - views.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(views, axis=-1, keepdims=True)
    return views / np.maximum(lengths, 1e-6)  # a crop may have one colour


def _window(start: float, length: float) -> np.ndarray:
    """Averages over half as many cells of a part of SIDE pixels: float32, (SIDE / 2, SIDE)."""
    edges = start + np.arange(SIDE // 2 + 1) * length / (SIDE // 2)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(SIDE)[None]
    shares = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return (shares / shares.sum(axis=1, keepdims=True)).astype("float32")
