"""What is said where a model and the folders differ in their number of classes."""

import pytest

from eval.scoring.class_counts import class_mismatch


@pytest.mark.parametrize(
    ("num_answers", "num_folders", "words"),
    [
        (1001, 1000, ["1,001 classes", "have 1,000", "1 more", "background class", "--labels"]),
        (10, 7, ["3 more", "a class has no folder, or an empty one"]),
        (3, 5, ["2 fewer", "does not know all of these folders"]),
        (1, 3, ["one score, for two classes", "1 fewer", "the second class in alphabetical"]),
    ],
)
def test_a_mismatch_says_by_how_many_and_what_it_may_be(
    num_answers: int, num_folders: int, words: list[str]
) -> None:
    text = class_mismatch(num_answers, [f"c{i}" for i in range(num_folders)])
    assert [word for word in words if word not in text] == []
    assert ("background" in text) == (num_answers == 1001)
