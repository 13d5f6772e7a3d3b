"""Why the answers of a model and the classes of photos may differ in number."""

from collections.abc import Sequence


def number_of_classes(num_answers: int) -> int:
    """The classes that a model tells apart: a single score separates two."""
    return max(num_answers, 2)


def class_mismatch(num_answers: int, classes: Sequence[str]) -> str:
    """By how many classes they differ, what it may be, and what to do; follows a model's name.

    Args:
        num_answers: the width of the model's output; 1 for a score.
        classes: of the photos.
    """
    difference = number_of_classes(num_answers) - len(classes)
    amount = f"{abs(difference):,} {'more' if difference > 0 else 'fewer'}"
    what = "one score, for two classes" if num_answers == 1 else f"{num_answers:,} classes"
    names = ", ".join(classes[:20])
    return (
        f"answers with {what}, and the photos have {len(classes):,} ({names}): {amount}. "
        f"{_causes(num_answers, difference)}"
    )


def _causes(num_answers: int, difference: int) -> str:
    if num_answers == 1:
        return (
            "A score is the probability of the second class in alphabetical order. Give a folder "
            "with the two classes of the model."
        )
    if difference > 0:
        background = "it may have a background class, as many ImageNet models do; or "
        return (
            f"{'Either ' + background if difference == 1 else 'Either '}a class has no folder, or "
            "an empty one. Name the classes in the order of the answers with --labels labels.txt, "
            "or complete the folder."
        )
    return (
        "The model does not know all of these folders. Move those away that are no class of it, "
        "or give another folder."
    )
