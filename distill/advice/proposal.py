"""A config for a set of photos and this machine, with the reason for each choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from configs.resume import Facts
from distill.advice.ranking import Candidate

CLOSE = 0.05
"""Top-1 of a linear classifier that a student may lose for speed against the best backbone."""
GRANULE = 32
"""Images have a multiple of so many pixels: the stride of the networks."""
STUDENT_SIZE, TEACHER_SIZE = 128, 160
"""Largest inputs that train within an hour on two cores, for some thousand photos."""
GPU_SIZES = (224, 380)
FEW_LABELS = 50
"""Labels a class up to which photos without labels are worth most (docs/RESULTS.md)."""


@dataclass(frozen=True)
class Proposal:
    """What to run.

    Attributes:
        settings: sections of a config.
        reasons: one for each choice.
    """

    settings: Facts
    reasons: list[str]


def image_sizes(photo_side: int, *, has_gpu: bool) -> tuple[int, int]:
    """Inputs of student and teacher, in pixels: no larger than the photos are.

    Args:
        photo_side: the shorter side of a typical photo.
    """
    largest_student, largest_teacher = GPU_SIZES if has_gpu else (STUDENT_SIZE, TEACHER_SIZE)
    side = max(photo_side // GRANULE * GRANULE, GRANULE)
    return min(side, largest_student), min(side, largest_teacher // GRANULE * GRANULE)


def propose(
    candidates: Sequence[Candidate],
    p50_ms: Mapping[str, float],
    *,
    photo_side: int,
    num_labelled: int,
    num_classes: int,
    num_unlabelled: int,
    max_latency_ms: float | None,
    has_gpu: bool,
) -> Proposal:
    """Teacher, student, sizes and strategy.

    Args:
        candidates: the best first.
        p50_ms: latency of the float32 TFLite file of each backbone, by name.
        max_latency_ms: the limit of the config; None for no limit.
    """
    best, student = candidates[0], _student(candidates, p50_ms, max_latency_ms)
    student_size, teacher_size = image_sizes(photo_side, has_gpu=has_gpu)
    reasons = [
        f"teacher {best.name}: its pretrained features tell these classes apart best (a linear "
        f"classifier is right on {100 * best.probe_top1:.1f} % of the validation photos)",
        _why_student(student, best, p50_ms, max_latency_ms),
        f"images of {student_size} px for the student and {teacher_size} px for the teacher: the "
        f"photos are about {photo_side} px wide or high"
        + ("" if has_gpu else ", and larger images take hours without a GPU"),
        f"strategy auto: the classifier first, then all layers, from {num_labelled} photos with "
        "labels",
    ]
    teacher = {
        "backbone": best.name, "image_size": teacher_size, "epochs": 6, "learning_rate": 3e-4,
    }  # fmt: skip
    learner = {
        "backbone": student.name, "image_size": student_size, "epochs": 6, "learning_rate": 3e-4,
    }  # fmt: skip
    if num_unlabelled and num_labelled <= FEW_LABELS * num_classes:
        teacher["epochs"] = 20
        learner |= {"epochs": 8, "soft_weight": 0.9}
        reasons.append(
            f"soft_weight 0.9: {num_unlabelled} photos have no label, so the teacher's answers are "
            "all that they teach"
        )
    if best.name == student.name and teacher_size == student_size:
        reasons.append(
            "teacher and student are one network here. Name larger backbones (--backbone) for a "
            "teacher that knows more"
        )
    return Proposal(
        {"teacher": teacher, "student": learner, "soft_labels": {"num_views": 4}}, reasons
    )


def _student(
    candidates: Sequence[Candidate], p50_ms: Mapping[str, float], max_latency_ms: float | None
) -> Candidate:
    if max_latency_ms is not None:
        fast = [candidate for candidate in candidates if p50_ms[candidate.name] <= max_latency_ms]
        return fast[0] if fast else min(candidates, key=lambda one: p50_ms[one.name])
    best = candidates[0].probe_top1
    close = [candidate for candidate in candidates if candidate.probe_top1 >= best - CLOSE]
    return min(close, key=lambda candidate: p50_ms[candidate.name])


def _why_student(
    student: Candidate,
    best: Candidate,
    p50_ms: Mapping[str, float],
    max_latency_ms: float | None,
) -> str:
    latency = f"{p50_ms[student.name]:.2f} ms as a float32 TFLite file here"
    if max_latency_ms is None:
        lead = 100 * (best.probe_top1 - student.probe_top1)
        return (
            f"student {student.name}: the fastest within {100 * CLOSE:.0f} points of the best "
            f"({latency}, {lead:.1f} points behind)"
        )
    if p50_ms[student.name] <= max_latency_ms:
        return f"student {student.name}: the best within {max_latency_ms:g} ms ({latency})"
    return (
        f"student {student.name}: the fastest, but it takes {latency}. {max_latency_ms:g} ms are "
        "allowed. An int8 file may be fast enough"
    )
