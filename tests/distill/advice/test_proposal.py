"""What is proposed for a set of photos, and why."""

import pytest

from distill.advice.proposal import Proposal, image_sizes, propose
from distill.advice.ranking import Candidate


def candidate(name: str, probe_top1: float) -> Candidate:
    return Candidate(
        name=name, image_size=128, num_parameters=1, num_macs=1, logme=0.0, h_score=0.0, leep=None,
        probe_top1=probe_top1, random_probe_top1=0.3,
    )  # fmt: skip


CANDIDATES = [candidate("large", 0.9), candidate("middle", 0.87), candidate("small", 0.7)]
P50_MS = {"large": 9.0, "middle": 3.0, "small": 1.0}


def proposal(**changes: object) -> Proposal:
    usual: dict = {
        "photo_side": 500, "num_labelled": 3000, "num_classes": 5, "num_unlabelled": 0,
        "max_latency_ms": None, "has_gpu": False,
    }  # fmt: skip
    return propose(CANDIDATES, P50_MS, **{**usual, **changes})


@pytest.mark.parametrize(
    ("photo_side", "has_gpu", "sizes"),
    [
        (500, False, (128, 160)),
        (500, True, (224, 352)),
        (130, False, (128, 128)),
        (20, True, (32, 32)),
    ],
)
def test_images_are_no_larger_than_the_photos(
    photo_side: int, has_gpu: bool, sizes: tuple[int, int]
) -> None:
    assert image_sizes(photo_side, has_gpu=has_gpu) == sizes


def test_the_best_backbone_teaches_the_fastest_that_is_nearly_as_good() -> None:
    found = proposal()
    assert found.settings["teacher"]["backbone"] == "large"
    assert found.settings["student"]["backbone"] == "middle"
    assert "3.0 points behind" in found.reasons[1]


@pytest.mark.parametrize(
    ("limit", "student", "says"),
    [
        (5.0, "middle", "the best within 5 ms"),
        (2.0, "small", "the best within 2 ms"),
        (0.5, "small", "An int8 file may be fast enough"),
    ],
)
def test_a_limit_on_latency_decides_the_student(limit: float, student: str, says: str) -> None:
    found = proposal(max_latency_ms=limit)
    assert found.settings["student"]["backbone"] == student
    assert says in found.reasons[1]


def test_few_labels_among_many_photos_are_taught_by_the_teacher() -> None:
    assert "soft_weight" not in proposal().settings["student"]
    found = proposal(num_labelled=100, num_unlabelled=2900)
    assert found.settings["student"]["soft_weight"] == 0.9
    assert "2900 photos have no label" in found.reasons[-1]
