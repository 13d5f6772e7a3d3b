import random

import pytest

from distill.data.splitting.rule import SplitRule, _position

RULE = SplitRule(validation=0.1, test=0.2)


def contents(num: int, seed: int) -> list[str]:
    """Digests of so many photos."""
    numbers = random.Random(seed)
    return [f"{numbers.getrandbits(256):064x}" for _ in range(num)]


def by_hash(photos: list[str], rule: SplitRule = RULE) -> dict[str, str]:
    """The splits that the contents alone decide."""
    return {photo: rule.split_of(photo) for photo in photos}


@pytest.mark.parametrize("num", [3, 4, 8, 20])
def test_a_class_of_three_photos_or_more_has_one_in_every_split(num: int) -> None:
    for seed in range(300):
        splits = RULE.splits_of_class(contents(num, seed))
        assert set(splits.values()) == {"train", "validation", "test"}
        assert len(splits) == num


@pytest.mark.parametrize("num", [5, 12, 60])
def test_a_class_with_a_photo_in_every_split_stays_as_it_is(num: int) -> None:
    checked = 0
    for seed in range(300):
        photos = contents(num, seed)
        if len(set(by_hash(photos).values())) == 3:
            assert RULE.splits_of_class(photos) == by_hash(photos)
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("num", [3, 4, 12])
def test_one_photo_moves_for_each_empty_split(num: int) -> None:
    for seed in range(300):
        photos = contents(num, seed)
        before, after = by_hash(photos), RULE.splits_of_class(photos)
        num_moved = sum(before[photo] != after[photo] for photo in photos)
        assert num_moved == 3 - len(set(before.values()))


def test_the_photo_next_to_the_empty_split_is_taken_from_training() -> None:
    for seed in range(300):
        photos = sorted(contents(12, seed), key=_position)
        before, after = by_hash(photos), RULE.splits_of_class(photos)
        num_empty = 3 - len(set(before.values()))
        first = [photo for photo in photos if before[photo] == "train"][:num_empty]
        assert [photo for photo in photos if before[photo] != after[photo]] == first
        if num_empty == 2:
            assert [after[photo] for photo in first] == ["test", "validation"]


def test_the_order_of_the_photos_does_not_matter() -> None:
    photos = contents(7, 1)
    assert RULE.splits_of_class(photos) == RULE.splits_of_class(reversed(photos))


def test_an_added_photo_moves_no_other_in_a_full_class_and_two_elsewhere() -> None:
    most = 0
    for seed in range(100):
        photos = contents(30, seed)
        for num in range(2, 30):
            before = RULE.splits_of_class(photos[:num])
            after = RULE.splits_of_class(photos[: num + 1])
            num_moved = sum(before[photo] != after[photo] for photo in before)
            if len(set(by_hash(photos[:num]).values())) == 3:
                assert num_moved == 0
            most = max(most, num_moved)
    assert most == 2


@pytest.mark.parametrize(
    ("validation", "test", "splits"),
    [
        (0.0, 0.2, {"train", "test"}),  # validation has a folder of its own
        (0.1, 0.0, {"train", "validation"}),
        (0.0, 0.0, {"train"}),
        (0.4, 0.5, {"train", "validation", "test"}),
    ],
)
def test_a_split_without_a_share_takes_no_photo(
    validation: float, test: float, splits: set[str]
) -> None:
    rule = SplitRule(validation=validation, test=test)
    for seed in range(50):
        assert set(rule.splits_of_class(contents(3, seed)).values()) == splits


def test_a_class_with_fewer_photos_than_splits_can_be_learned() -> None:
    for seed in range(100):
        (only,) = RULE.splits_of_class(contents(1, seed)).values()
        assert only == "train"
        assert "train" in RULE.splits_of_class(contents(2, seed)).values()
