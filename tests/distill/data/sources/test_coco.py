"""Boxes of COCO annotations become photos; boxes of one photo stay together."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.errors import UserError
from configs.run_dir import RunDir
from configs.schema.data import DataConfig
from distill.data.scan import data_step
from made_photos import data_of, num_of, skipped_of, stored_pixels

SIZE = (60, 40)


def annotations(folder: Path, num: int = 12) -> dict[str, Any]:
    """So many photos with a cat on the left and a dog on the right."""
    folder.mkdir(parents=True, exist_ok=True)
    images, boxes = [], []
    for number in range(num):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": 100 + number, "file_name": f"{number}.png", "width": 60, "height": 40})
        for category, x in ((7, 2.0), (9, 31.4)):
            boxes.append({"image_id": 100 + number, "category_id": category, "id": len(boxes),
                          "bbox": [x, 5.0, 20.0, 30.0]})  # fmt: skip
    names = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    return {"images": images, "annotations": boxes, "categories": names}


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_crops_are_the_pixels_of_the_boxes_and_those_of_a_photo_are_on_one_side(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "instances.json", annotations(tmp_path))
    facts, photos = data_of(tmp_path / "run", path=path)
    assert num_of(photos) == {"cat": 12, "dog": 12}
    assert facts["num_groups"] == 12
    sides = defaultdict(set)
    for photo in photos:
        sides[photo.group].add(photo.split)
        whole = np.asarray(Image.open(tmp_path / photo.group))
        left = 2 if photo.label == "cat" else 31
        expected = whole[5:35, left : left + 20]
        assert np.array_equal(stored_pixels(tmp_path / "run", photo, facts), expected)
    assert all(len(splits) == 1 for splits in sides.values())


def test_photos_may_lie_in_another_folder(tmp_path: Path) -> None:
    document = annotations(tmp_path / "train2017")
    (tmp_path / "annotations").mkdir()
    path = write(tmp_path / "annotations" / "instances.json", document)
    with pytest.raises(UserError, match=r"names 0\.png, which is not in .*--set data\.photos="):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=path))
    _, photos = data_of(tmp_path / "run", path=path, photos=tmp_path / "train2017")
    assert len(photos) == 24


def test_boxes_outside_and_photos_that_cannot_be_read_are_skipped_and_listed(
    tmp_path: Path,
) -> None:
    document = annotations(tmp_path)
    strange = [
        [100, 10, 20, 20], [-50, 0, 20, 20], [10, 10, 0, 5], [10, 10, -4, 5], [1, 2, 3], None,
        ["a", 1, 2, 3], [float("nan"), 0, 5, 5], [0, 0, float("inf"), 5],
    ]  # fmt: skip
    for number, box in enumerate(strange):
        document["annotations"].append(
            {"image_id": 100, "category_id": 7, "id": 1000 + number, "bbox": box}
        )
    document["annotations"].append(  # partly outside: its inside counts
        {"image_id": 100, "category_id": 7, "id": 2000, "bbox": [-10, -10, 30, 25]}
    )
    document["annotations"].append(
        {"image_id": 101, "category_id": 7, "id": 2001, "bbox": [0, 0, 60, 40], "iscrowd": 1}
    )
    (tmp_path / "5.png").unlink()
    (tmp_path / "6.png").write_bytes(b"no photo")
    document["images"][7]["width"] = 600
    path = write(tmp_path / "a.json", document)
    facts, photos = data_of(tmp_path / "run", path=path, max_skipped=0.9)
    skipped = skipped_of(tmp_path / "run")
    assert len(skipped) == len(strange) + 6
    assert all("holds no part of the photo" in skipped[f"0.png box {1000 + n}"]
               for n in range(len(strange)))  # fmt: skip
    assert skipped["5.png box 10"] == "no such file"
    assert "not a photo" in skipped["6.png box 12"]
    assert "the annotations say 600 x 40" in skipped["7.png box 14"]
    (clipped,) = (photo for photo in photos if (photo.width, photo.height) == (20, 15))
    whole = np.asarray(Image.open(tmp_path / "0.png"))
    assert np.array_equal(stored_pixels(tmp_path / "run", clipped, facts), whole[:15, :20])


def test_a_photo_that_is_exchanged_gives_other_crops(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", annotations(tmp_path))
    _, before = data_of(tmp_path / "run", path=path)
    Image.new("RGB", SIZE, (1, 2, 3)).save(tmp_path / "3.png")
    _, after = data_of(tmp_path / "run", path=path, max_skipped=0.9)
    assert len({p.id for p in before} - {p.id for p in after}) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.pop("images"), "'images' is missing"),
        (lambda d: d["annotations"][0].pop("category_id"), "'category_id' is missing"),
        (lambda d: d["annotations"][0].update(image_id=5), "of image 5 and category 7"),
        (lambda d: d["annotations"].clear(), "holds no boxes"),
        (lambda d: d["categories"].append({"id": 1, "name": "cat"}), "several categories"),
        (lambda d: d["categories"][0].update(name="ca\ud800t"), "half of a character"),
    ],
)
def test_annotations_that_do_not_fit_are_an_error(tmp_path: Path, change, says: str) -> None:
    document = annotations(tmp_path, num=2)
    change(document)
    with pytest.raises(UserError, match=says):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=write(tmp_path / "a.json", document)))


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "[" * 100_000, '{"images": 1}', "\xff"])
def test_a_file_that_is_no_annotations_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="Expected COCO annotations"):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=tmp_path / "a.json"))
