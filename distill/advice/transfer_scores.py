"""How well the features of a network fit the classes of other photos, without training.

The scores rank networks on the same photos: the higher, the better. All are ours, because no
package that is kept up has them.
"""

import numpy as np

MAX_ITERATIONS = 100
SMALLEST = 1e-10
"""Keeps the precisions of a class finite whose labels the features explain fully."""


def logme(features: np.ndarray, labels: np.ndarray) -> float:
    """Log of maximum evidence: how well linear models of the features explain the labels.

    For each class, its labels y (1 or 0) are explained by y = f w + noise, with w ~ N(0, 1/alpha)
    and noise ~ N(0, 1/beta). The score is the largest log-likelihood over alpha and beta, for each
    photo, as a mean over the classes. Source: You et al. 2021, section 4 (arXiv:2102.11005).

    Args:
        features: float, (examples, features).
        labels: int, (examples,).
    """
    features = features.astype("float64")
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    evidences = []
    for label in np.unique(labels):
        targets = (labels == label).astype("float64")
        evidences.append(_largest_evidence(singular**2, left.T @ targets, targets))
    return float(np.mean(evidences) / len(labels))


def _largest_evidence(powers: np.ndarray, along: np.ndarray, targets: np.ndarray) -> float:
    """The largest log evidence of one class, by MacKay's fixed point.

    Args:
        powers: squared singular values of the features, (rank,).
        along: the targets along the left singular vectors, (rank,).
        targets: 1 or 0, (examples,).
    """
    outside = max(float(targets @ targets - along @ along), 0.0)
    num_examples = len(targets)
    alpha = beta = 1.0
    evidence = -np.inf
    for _ in range(MAX_ITERATIONS):
        precisions = alpha + beta * powers
        weights = float((powers * (beta * along / precisions) ** 2).sum())
        error = float(((alpha * along / precisions) ** 2).sum()) + outside
        before, evidence = (
            evidence,
            0.5
            * float(
                num_examples * np.log(beta / (2 * np.pi))
                - beta * error
                + (np.log(alpha / precisions)).sum()
                - alpha * weights
            ),
        )
        if evidence - before <= 1e-6 * abs(evidence):
            break
        explained = float((beta * powers / precisions).sum())
        alpha = max(explained, SMALLEST) / max(weights, SMALLEST)
        beta = max(num_examples - explained, SMALLEST) / max(error, SMALLEST)
    return max(evidence, before)


def h_score(features: np.ndarray, labels: np.ndarray) -> float:
    """How far apart the classes lie, in units of the spread of the features.

    The trace of inverse(covariance of the features) x (covariance of the class means). Source: Bao
    et al. 2019, definition 2 (arXiv:2212.10082). The covariance is shrunk as Ibrahim et al. 2021
    do, section 3 (arXiv:2110.06893). Otherwise the score fails with fewer photos than features.

    Args:
        features: float, (examples, features).
        labels: int, (examples,).
    """
    from sklearn.covariance import ledoit_wolf

    centred = features.astype("float64") - features.mean(axis=0, dtype="float64")
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    means = np.zeros_like(centred)
    for label in np.unique(labels):
        means[labels == label] = centred[labels == label].mean(axis=0)
    between = (1 - shrinkage) * means.T @ means / len(labels)
    return float(np.trace(np.linalg.pinv(covariance, hermitian=True) @ between))


def leep(source_probs: np.ndarray, labels: np.ndarray) -> float:
    """Log expected empirical prediction: how well the source classes foretell the new ones.

    The mean of log sum_z P(label | z) theta_z, where theta are the probabilities of the source
    classes z, and P(label | z) is counted on the same photos. Source: Nguyen et al. 2020, equations
    1 and 2 (arXiv:2002.12462).

    Args:
        source_probs: float, (examples, source classes): what the network's own classifier says.
        labels: int, (examples,).
    """
    theta = source_probs.astype("float64")
    joint = np.stack([theta[labels == label].sum(axis=0) for label in np.unique(labels)])
    conditional = joint / np.maximum(joint.sum(axis=0), 1e-300)
    row = np.searchsorted(np.unique(labels), labels)
    return float(np.log((conditional[row] * theta).sum(axis=1)).mean())
