"""Student or control: which becomes files."""

import numpy as np
import pytest

from eval.choice.model_to_ship import choose_model

RIGHT, WRONG = np.ones((1, 100)), np.zeros((1, 100))
HALF = (np.arange(100) % 2.0)[None]


def test_a_student_that_its_teacher_harmed_is_not_shipped() -> None:
    shipped = choose_model("auto", students=HALF, controls=RIGHT)
    assert shipped.model == "control"
    assert shipped.control_lead == 0.5
    assert shipped.control_lead_low is not None
    assert shipped.control_lead_low > 0.3
    assert "50.0 points above the student" in shipped.reason


def test_a_control_that_may_be_better_by_chance_is_not_shipped() -> None:
    almost = RIGHT.copy()
    almost[0, :2] = 0
    assert choose_model("auto", students=almost, controls=RIGHT).model == "student"
    assert choose_model("auto", students=RIGHT, controls=HALF).model == "student"


@pytest.mark.parametrize("name", ["student", "control"])
def test_the_config_may_name_the_model(name: str) -> None:
    for students, controls in ((RIGHT, WRONG), (WRONG, RIGHT)):
        shipped = choose_model(name, students=students, controls=controls)
        assert shipped.model == name
        assert f"student.ship is {name}" in shipped.reason


def test_all_seeds_decide_together() -> None:
    students, controls = np.concatenate([HALF, RIGHT]), np.concatenate([RIGHT, HALF])
    assert choose_model("auto", students=students, controls=controls).model == "student"
