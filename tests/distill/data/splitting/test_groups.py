"""No group on two sides, and each split gets its share of every class if the groups allow it."""

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.errors import UserError
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema.data import DataConfig, GroupConfig
from distill.data.manifest import Photo, _photos
from distill.data.scan import data_step
from distill.data.splitting.rule import SplitRule
from distill.data.splitting.units import Unit, balanced_sides, units_of
from support import save_photo

RULE = SplitRule(validation=0.1, test=0.2)


def animals(root: Path, *, num: int = 12, photos: int = 6) -> Path:
    """Two classes of so many animals, of which so many photos lie in one folder."""
    for first, label in enumerate(("cat", "dog")):
        for animal in range(num):
            for number in range(photos):
                seed = 10_000 * first + 100 * animal + number
                save_photo(root / label / f"animal{animal}" / f"a{animal}_{number}.png", seed=seed)
    return root


def split_photos(root: Path, run: Path, **settings: object) -> list[Photo]:
    take_step(data_step(RunDir(run), DataConfig(path=root, **settings)))  # type: ignore[arg-type]
    return list(_photos(RunDir(run)))


def sides_of(photos: list[Photo]) -> dict[str, set[str]]:
    sides: dict[str, set[str]] = defaultdict(set)
    for photo in photos:
        sides[photo.group].add(photo.split)
    return sides


def test_a_folder_of_photos_is_a_group_on_one_side(tmp_path: Path) -> None:
    photos = split_photos(animals(tmp_path / "photos"), tmp_path / "run", group="parent")
    sides = sides_of(photos)
    assert set(sides) == {f"animal{number}" for number in range(12)}
    assert all(len(splits) == 1 for splits in sides.values())
    num = Counter((photo.label, photo.split) for photo in photos)
    for label in ("cat", "dog"):  # of 12 animals: 10 % are 1.2 and 20 % are 2.4
        assert num[label, "validation"] in (6, 12)
        assert num[label, "test"] in (12, 18)


def test_a_pattern_names_groups_over_all_classes(tmp_path: Path) -> None:
    group = GroupConfig(pattern=r"/a(\d+)_")
    photos = split_photos(animals(tmp_path / "photos"), tmp_path / "run", group=group)
    sides = sides_of(photos)
    assert set(sides) == {str(number) for number in range(12)}
    assert all(len(splits) == 1 for splits in sides.values())
    assert {photo.split for photo in photos} == {"train", "validation", "test"}


def test_without_groups_the_manifest_has_no_column_of_them(
    photo_folder: Path, tmp_path: Path
) -> None:
    split_photos(photo_folder, tmp_path / "run")
    header = RunDir(tmp_path / "run").photos_manifest.read_text().splitlines()[0]
    assert header == "id,path,label,split,width,height,sha256"


@pytest.mark.parametrize(
    ("prepare", "group", "says"),
    [
        (lambda root: None, GroupConfig(pattern="(zebra)"), "finds no group in any file name"),
        (
            lambda root: [p.rename(p.parent.parent / p.name) for p in root.rglob("*.png")],
            "parent",
            "one group of every class",
        ),
    ],
)
def test_names_without_groups_are_an_error(tmp_path: Path, prepare, group, says: str) -> None:
    root = animals(tmp_path / "photos", num=3, photos=3)
    prepare(root)
    with pytest.raises(UserError, match=says):
        data_step(RunDir(tmp_path / "run"), DataConfig(path=root, group=group))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"pattern": "("}, "not a regular expression"),
        ({"pattern": "abc"}, "has 0 pairs of parentheses"),
        ({"pattern": "(a)(b)"}, "has 2 pairs"),
        ({"pattern": "(a)", "column": "b"}, "one of group.column and group.pattern"),
        ({}, "one of group.column and group.pattern"),
    ],
)
def test_a_wrong_group_is_refused_before_the_scan(values, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        GroupConfig(**values)


def test_groups_on_two_given_sides_are_an_error_unless_the_splits_are_drawn(
    tmp_path: Path,
) -> None:
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            for number in range(8):
                seed = hash((split, label, number)) % 10**6
                save_photo(tmp_path / "photos" / split / label / f"p{number}.png", seed=seed)
    group = GroupConfig(pattern=r"(p\d+)\.png")
    step = data_step(RunDir(tmp_path / "run"), DataConfig(path=tmp_path / "photos", group=group))
    with pytest.raises(UserError, match=r"8 group\(s\) have photos in several splits.*use_splits"):
        take_step(step)
    photos = split_photos(tmp_path / "photos", tmp_path / "run", group=group, use_splits=False)
    assert all(len(splits) == 1 for splits in sides_of(photos).values())
    assert {photo.split for photo in photos} == {"train", "validation", "test"}


def test_unlabelled_photos_of_a_tested_group_are_left_out(tmp_path: Path) -> None:
    root = animals(tmp_path / "photos")
    for animal in range(12):
        save_photo(tmp_path / "more" / f"a{animal}_x.png", seed=77_000 + animal)
    group = GroupConfig(pattern=r"/a(\d+)_")
    photos = split_photos(root, tmp_path / "run", group=group, unlabelled=tmp_path / "more")
    sides = sides_of(photos)
    assert all(len(splits - {"unlabelled"}) == 1 for splits in sides.values())
    unlabelled = {photo.group for photo in photos if photo.split == "unlabelled"}
    assert unlabelled == {group for group, splits in sides.items() if "train" in splits}
    skipped = (tmp_path / "run" / "data" / "skipped.csv").read_text()
    assert skipped.count("a photo of its group") == 12 - len(unlabelled) > 0


def test_the_log_counts_groups_and_not_photos_of_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = animals(tmp_path / "photos")
    for number in range(5):
        save_photo(root / "cat" / f"animal99/other{number}.png", seed=90_000 + number)
    with caplog.at_level("INFO"):
        split_photos(root, tmp_path / "run", group=GroupConfig(pattern=r"/a(\d+)_"))
    (line,) = (line for line in caplog.messages if "groups stay together" in line)
    assert line.startswith("12 groups stay together: train ")
    assert "5 of 149 file names name no group: split alone" in caplog.messages


def test_a_class_with_few_groups_is_named(tmp_path: Path, warnings: list[str]) -> None:
    root = animals(tmp_path / "photos", num=12, photos=2)
    for animal in range(2, 12):
        (root / "dog" / f"animal{animal}").rename(root / "cat" / f"dog{animal}")
    split_photos(root, tmp_path / "run", group="parent")
    assert any("fewer than 10 groups" in line and "dog (2)" in line for line in warnings)


@pytest.mark.parametrize("seed", range(20))
def test_shares_of_every_class_are_near_those_wanted(seed: int) -> None:
    rng = random.Random(seed)
    units = [
        Unit(f"p{n}", {label: rng.randint(1, 9) for label in rng.sample("abc", rng.randint(1, 2))})
        for n in range(60)
    ]
    sides = balanced_sides(units, RULE)
    total, held = Counter(), Counter()
    for unit in units:
        for label, num in unit.num_by_class.items():
            total[label] += num
            held[label, sides[unit.key]] += num
    for label in "abc":
        for split, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
            # The smallest units have one photo of some hundred, the usual ones five.
            assert held[label, split] / total[label] == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize(("num", "expected"), [(1, {"train"}), (2, {"train"}), (3, set(
    ("train", "validation", "test"))), (4, {"train", "validation", "test"})])  # fmt: skip
def test_each_split_has_a_group_of_a_class_with_three(num: int, expected: set[str]) -> None:
    for share in (0.2, 0.6):
        units = [Unit(f"{share} {n}", {"a": 5 + n}) for n in range(num)]
        sides = balanced_sides(units, SplitRule(validation=0.1, test=share))
        assert expected <= set(sides.values())


def test_the_order_of_groups_does_not_matter() -> None:
    units = [Unit(f"p{n}", {"ab"[n % 2]: n % 5 + 1}) for n in range(30)]
    assert balanced_sides(units, RULE) == balanced_sides(units[::-1], RULE)


def test_groups_and_near_duplicates_join_into_units() -> None:
    units = units_of(["x", "x", "", "y", "", "", "z", *[""] * 13], [[2, 4], [1, 3]])
    together = defaultdict(list)
    for row, unit in enumerate(units[:7]):
        together[unit].append(row)
    assert sorted(together.values()) == [[0, 1, 3], [2, 4], [5], [6]]


def test_near_duplicates_that_bind_everything_bind_nothing(warnings: list[str]) -> None:
    units = units_of([""] * 20, [list(range(15)), [16, 17]])
    assert len(set(units)) == 19
    assert "15 photos look nearly the same" in warnings[0]
