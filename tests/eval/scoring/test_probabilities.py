"""Which answers are probabilities, and what becomes of logits."""

import numpy as np
import pytest

from eval.scoring.probabilities import as_probabilities


def test_probabilities_stay_and_logits_go_through_softmax() -> None:
    probs = np.array([[0.25, 0.75], [1.0, 0.0]], "float32")
    np.testing.assert_array_equal(as_probabilities(probs), probs)
    logits = np.array([[0.0, np.log(3)], [-5.0, -5.0]], "float32")
    np.testing.assert_allclose(as_probabilities(logits), [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)


def test_int8_probabilities_of_many_classes_are_not_taken_for_logits() -> None:
    # 200 classes share the rest evenly, each share rounded to steps of 1/256:
    # 0.5 / 200 is 0.64 steps and becomes one, 0.3 / 200 is 0.38 steps and becomes none.
    probs = np.zeros((2, 201), "float32")
    probs[0], probs[0, 7] = 1 / 256, 0.5
    probs[1, 7] = 0.7
    renormalised = as_probabilities(probs)
    assert renormalised[0, 7] == pytest.approx(0.5 / (0.5 + 200 / 256))
    assert renormalised[1, 7] == 1


def test_a_row_that_was_rounded_to_zeros_makes_all_classes_equally_likely() -> None:
    probs = np.zeros((2, 600), "float32")
    probs[0, 7] = 1
    np.testing.assert_allclose(as_probabilities(probs)[1], 1 / 600, rtol=1e-6)
