import numpy as np
import pytest

from eval.distillation.audit import audit

LABELS = np.zeros(1000, int)


def probs(num_right: int, start: int = 0) -> np.ndarray:
    """So many of a thousand right, from `start` on."""
    right = (np.arange(1000) - start) % 1000 < num_right
    return np.stack([right, ~right], 1) * 0.8 + 0.1


def test_a_student_far_above_its_control_was_helped() -> None:
    result = audit(students=[probs(900)], controls=[probs(800)], teacher=probs(1000), labels=LABELS)
    assert result.verdict == "helped"
    assert result.mean_gain == pytest.approx(0.1)
    assert result.gap_closed == pytest.approx(0.5)  # 10 of the 20 points to the teacher
    assert result.gain_low < 0.1 < result.gain_high
    assert result.sentence.startswith(
        "Distillation helped: over one seed the student is 10.0 points above its "
    )
    assert "closes 50% of the gap" in result.sentence
    assert "student.seeds: 3" in result.sentence


def test_a_student_that_passes_its_teacher_closes_no_gap_of_more_than_all() -> None:
    result = audit(students=[probs(950)], controls=[probs(800)], teacher=probs(900), labels=LABELS)
    assert result.gap_closed == pytest.approx(1.5)
    assert "and it passes its teacher" in result.sentence
    assert "150%" not in result.sentence


def test_a_difference_within_the_noise_is_called_none() -> None:
    result = audit(
        students=[probs(900)], controls=[probs(903, start=300)], teacher=probs(950), labels=LABELS
    )
    assert result.verdict == "no measurable difference"
    assert "0.3 points below" in result.sentence
    assert result.p > 0.5


def test_a_control_above_teacher_and_student_leaves_no_gap() -> None:
    result = audit(students=[probs(800)], controls=[probs(900)], teacher=probs(850), labels=LABELS)
    assert result.verdict == "hurt"
    assert result.gap_closed is None
    assert "the teacher is not better than the control" in result.sentence


def test_seeds_that_disagree_widen_the_interval() -> None:
    def width(students: list[int]) -> float:
        result = audit(
            students=[probs(n) for n in students],
            controls=[probs(850)] * 3,
            teacher=probs(950),
            labels=LABELS,
        )
        assert result.num_seeds == 3
        return result.gain_high - result.gain_low

    assert width([900, 900, 900]) < width([850, 900, 950])


def test_the_spread_over_seeds_matches_a_value_worked_by_hand() -> None:
    result = audit(
        students=[probs(900), probs(920)],
        controls=[probs(890), probs(890)],
        teacher=probs(950),
        labels=LABELS,
    )
    # Gains 0.01 and 0.03: mean 0.02, deviation sqrt(2 * 0.01**2 / 1)
    assert result.mean_gain == pytest.approx(0.02)
    assert result.gain_std == pytest.approx(0.01 * np.sqrt(2))
    assert result.student_top1 == pytest.approx([0.9, 0.92])
