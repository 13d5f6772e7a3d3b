"""COCO annotations as a source: the content of every box is a photo of its category.

The format: https://cocodataset.org/#format-data (object detection).
"""

import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from configs.errors import UserError
from distill.data.sources.listing import SOURCES, Listing, Place
from distill.data.sources.stored.copies import copies_of
from distill.data.sources.unpacked import RawPhoto, state_of, unpacked_photos
from eval.metadata import class_name
from eval.photo_files import UnreadablePhoto, decoded_photo

EXPECTED = (
    'Expected COCO annotations: {"images": [{"id", "file_name"}], "annotations": [{"image_id", '
    '"category_id", "bbox": [x, y, width, height]}], "categories": [{"id", "name"}]}'
)


@dataclass(frozen=True)
class Box:
    """One annotation.

    Attributes:
        values: x, y, width and height in pixels, as they stand in the file.
    """

    name: str
    label: str
    values: Any


@dataclass(frozen=True)
class Annotated:
    """A photo and its boxes.

    Attributes:
        size: width and height in pixels, if the file says so.
    """

    file_name: str
    size: tuple[int, int] | None
    boxes: list[Box]


@SOURCES.add(endings=(".json",), reads=("photos",))
def coco(place: Place) -> Listing:
    """Crops of the boxes. The boxes of one photo are a group, so that none is on two sides."""
    path = place.file("COCO annotations (.json)")
    annotated, classes, num_crowds = _read(path)
    expected_in = photos = place.photos or path.parent
    if isinstance(photos, str):
        photos = copies_of(place.run_data, photos, [a.file_name for a in annotated])
    if annotated and not any((photos / a.file_name).exists() for a in annotated[:100]):
        raise UserError(
            f"{path} names {annotated[0].file_name}, which is not in {expected_in}. Name the "
            "folder of the photos: --set data.photos=FOLDER"
        )
    # A photo that is repaired or exchanged gives other crops.
    states = [
        list(state_of(photos / a.file_name).values()) if (photos / a.file_name).is_file() else None
        for a in annotated
    ]
    root, files = unpacked_photos(
        place.run_data,
        {"coco": state_of(path), "photos": states},
        partial(_crops, photos, annotated),
        sum(len(a.boxes) for a in annotated),
    )
    notes = [f"{num_crowds} annotations of crowds are left out."] if num_crowds else []
    return Listing(root, files, classes, notes)


def _read(path: Path) -> tuple[list[Annotated], list[str], int]:
    """The photos that have boxes, the names of all categories, and how many boxes are of crowds."""
    try:
        document = json.loads(path.read_bytes())
        names = {c["id"]: class_name(str(c["name"])) for c in document["categories"]}
        images = {image["id"]: image for image in document["images"]}
        boxes: dict[Any, list[Box]] = defaultdict(list)
        num_crowds = 0
        for number, annotation in enumerate(document["annotations"]):
            image, category = annotation["image_id"], annotation["category_id"]
            if annotation.get("iscrowd"):
                num_crowds += 1
                continue
            if image not in images or category not in names:
                raise UserError(
                    f"annotation {number} in {path} is of image {image!r} and category "
                    f"{category!r}, of which one is not in the file. {EXPECTED}"
                )
            name = f"{images[image]['file_name']} box {annotation.get('id', number)}"
            boxes[image].append(Box(name, names[category], annotation.get("bbox")))
        annotated = [
            Annotated(str(image["file_name"]), _size(image), boxes[key])
            for key, image in images.items()
            if key in boxes
        ]
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} cannot be read ({reason}). {EXPECTED}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    repeated = [name for name, num in Counter(names.values()).items() if num > 1]
    if repeated:
        raise UserError(f"{path} has several categories of the name {repeated[0]!r}. Keep one.")
    if not annotated:
        raise UserError(f"{path} holds no boxes. {EXPECTED}")
    return annotated, sorted(names.values()), num_crowds


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _crops(folder: Path, annotated: list[Annotated]) -> Iterator[RawPhoto]:
    for photo in annotated:
        try:
            with decoded_photo(folder / photo.file_name) as decoded:
                if decoded.image.size != (decoded.width, decoded.height):
                    raise UnreadablePhoto("too large to cut boxes out of it")
                yield from _crops_of(photo, decoded.image)
        except (UnreadablePhoto, OSError) as error:
            problem = "no such file" if isinstance(error, FileNotFoundError) else str(error)
            yield from (_without(photo, box, problem) for box in photo.boxes)


def _crops_of(photo: Annotated, image: Image.Image) -> Iterator[RawPhoto]:
    for box in photo.boxes:
        if photo.size is not None and photo.size != image.size:
            sizes = [f"{width} x {height}" for width, height in (image.size, photo.size)]
            problem = f"the photo has {sizes[0]} pixels, the annotations say {sizes[1]}"
            yield _without(photo, box, problem)
            continue
        corners = _corners(box.values, image.size)
        if corners is None:
            problem = f"the box {box.values} holds no part of the photo ({image.width} x "
            yield _without(photo, box, f"{problem}{image.height} pixels)")
        else:
            content = partial(_png, image, corners)
            yield RawPhoto(content, box.name, box.label, None, photo.file_name)


def _without(photo: Annotated, box: Box, problem: str) -> RawPhoto:
    return RawPhoto(None, box.name, box.label, None, photo.file_name, problem)


def _corners(values: Any, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The part of a box that lies in the photo, in whole pixels; None if there is none."""
    try:
        left, top, width, height = map(float, values)
    except (TypeError, ValueError):
        return None
    if not all(map(math.isfinite, (left, top, width, height))) or min(width, height) <= 0:
        return None
    corners = (
        max(round(left), 0),
        max(round(top), 0),
        min(round(left + width), size[0]),
        min(round(top + height), size[1]),
    )
    return corners if corners[0] < corners[2] and corners[1] < corners[3] else None


def _png(image: Image.Image, corners: tuple[int, int, int, int]) -> bytes:
    file = io.BytesIO()
    image.crop(corners).save(file, "PNG")
    return file.getvalue()
