"""Scores of features, against hand-worked values and other ways to compute them."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from distill.advice.transfer_scores import h_score, leep, logme


def test_logme_is_the_largest_likelihood_of_the_labels() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], 8)
    features = rng.normal(size=(24, 5)) + np.eye(3, 5)[labels]

    def best(targets: np.ndarray) -> float:
        def misfit(logs: np.ndarray) -> float:
            alpha, beta = np.exp(logs)
            covariance = features @ features.T / alpha + np.eye(24) / beta
            return -multivariate_normal(np.zeros(24), covariance).logpdf(targets)

        return -minimize(misfit, np.zeros(2), method="Nelder-Mead", tol=1e-8).fun

    expected = np.mean([best((labels == label).astype(float)) for label in range(3)]) / 24
    assert logme(features, labels) == pytest.approx(expected, abs=1e-4)


def test_logme_of_one_feature_by_hand() -> None:
    # Class 1: f = y = (1, 1, 0, 0). Class 0 is orthogonal to f. For class 0 no weight helps, and
    # beta = n / |y|^2 = 2: log evidence = 4/2 (log 2 - log 2 pi) - 2/2 * 2 = -2 log pi - 2.
    features, labels = np.array([[1.0], [1.0], [0.0], [0.0]]), np.array([1, 1, 0, 0])
    of_class_0 = -2 * np.log(np.pi) - 2
    assert logme(features, labels) > of_class_0 / 4  # class 1 is explained better
    assert logme(features[::-1], labels) == pytest.approx(logme(features, labels))


def test_logme_stays_finite_with_more_features_than_photos() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 10)
    informed = np.concatenate([np.eye(2)[labels], 0.1 * rng.normal(size=(20, 50))], axis=1)
    noise = rng.normal(size=(20, 52))
    assert np.isfinite(logme(noise, labels))
    assert logme(informed, labels) > logme(noise, labels)
    assert np.isfinite(logme(np.zeros((20, 3)), labels))


def test_h_score_counts_the_separable_directions() -> None:
    # With many photos there is hardly any shrinkage. Two classes at +-1 along the first feature and
    # no spread about them: the score is 1. With a spread of variance 1 it is 1 / (1 + 1).
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], 5000)
    centre = (2 * labels - 1)[:, None] * np.array([[1.0, 0.0]])
    sharp = centre + rng.normal(size=(10000, 2)) * [0.0, 5.0]
    spread = centre + rng.normal(size=(10000, 2)) * [1.0, 5.0]
    assert h_score(sharp, labels) == pytest.approx(1.0, abs=0.01)
    assert h_score(spread, labels) == pytest.approx(0.5, abs=0.02)


def test_h_score_does_not_reward_more_features_than_photos() -> None:
    labels = np.repeat([0, 1], 10)
    noise = np.random.default_rng(4).normal(size=(20, 200))
    informed = noise + 2 * labels[:, None]
    # Without shrinkage, both would have a score of 1: any 200 features separate 20 photos.
    assert h_score(noise, labels) < 0.7 < h_score(informed, labels) < 1


def test_leep_by_hand() -> None:
    # P(y, z) * 4: class 0: (1.7, 0.3), class 1: (0.6, 1.4). P(0 | z) = (17/23, 3/17).
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.4, 0.6]])
    expected = np.log(
        [
            0.9 * 17 / 23 + 0.1 * 3 / 17,
            0.8 * 17 / 23 + 0.2 * 3 / 17,
            0.2 * 6 / 23 + 0.8 * 14 / 17,
            0.4 * 6 / 23 + 0.6 * 14 / 17,
        ]
    ).mean()
    assert leep(probs, np.array([0, 0, 1, 1])) == pytest.approx(expected)


def test_leep_is_zero_where_the_source_tells_the_classes_apart() -> None:
    assert leep(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 0])) == pytest.approx(0.0)
