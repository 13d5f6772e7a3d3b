"""A linear classifier on the features of a network: what they are worth without training it."""

from typing import Any

import numpy as np


def linear_probe(features: np.ndarray, labels: np.ndarray) -> Any:
    """A logistic regression (Alain and Bengio 2016, arXiv:1610.01644), fitted.

    Args:
        features: float, (examples, features).
        labels: int, (examples,).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features, labels)
