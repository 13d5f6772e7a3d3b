"""What a file loses in accuracy: the drop that is expected of rounding."""

import math

import numpy as np

from eval.scoring.calibration import fitted_temperature, tempered
from eval.scoring.intervals import Z_95


def expected_drop(
    probs: np.ndarray, source_probs: np.ndarray, labels: np.ndarray
) -> tuple[float, float, float]:
    """Top-1 that rounding a model is expected to cost, and the ends of its 95 % interval.

    An answer that rounding changed costs what the model itself thought more likely of its own
    answer than of the new one. The model's probabilities are calibrated on the labels first. This
    assumes that rounding errors know nothing of the truth beyond the model. So it holds for files
    of the same model, and not for a model that was trained further.

    A few hundred photos say here what counting right answers says on several thousand, because
    counting adds the chance of each label (a Rao-Blackwell estimate of the drop; docs/LOG.md
    compares the two).

    Args:
        probs: of the rounded model, (examples, classes).
        source_probs: of the model itself.
        labels: to calibrate `source_probs` by.
    """
    own, new = source_probs.argmax(axis=1), probs.argmax(axis=1)
    changed = np.flatnonzero(own != new)
    costs = np.zeros(0)
    if len(changed):
        calibrated = tempered(source_probs, fitted_temperature(source_probs, labels))
        costs = calibrated[changed, own[changed]] - calibrated[changed, new[changed]]
    low, high = cost_interval(costs, len(labels))
    return float(costs.sum()) / len(labels), low, high


def cost_interval(costs: np.ndarray, n: int) -> tuple[float, float]:
    """The 95 % interval of the mean cost of an answer, where most answers did not change.

    This is Wilson's interval of a share (`wilson_interval`), for costs between 0 and 1 instead of
    wrong or right. Its variance is `size * mean - mean**2`, where `size` is the sum of the squared
    costs divided by their sum; if every cost is 1, that is Wilson's own. A few changed answers say
    little about `size`. So z^2 / 2 answers of cost 1 are added to them, the number of successes
    that Wilson's interval adds. Then no change and no larger cost ever lowers the upper end, which
    begins at z^2 / (n + z^2) where no answer changed. A normal interval does not have this
    property: it is far too narrow for one to ten changes.

    Args:
        costs: float in 0..1, one for each changed answer.
        n: all answers.
    """
    unseen = Z_95**2 / 2
    total = float(costs.sum())
    size = (float((costs**2).sum()) + unseen) / (total + unseen)
    middle = (total + size * unseen) / (n + Z_95**2)
    variance = size * total - total**2 / n + size**2 * unseen / 2
    half = Z_95 / (n + Z_95**2) * math.sqrt(variance)
    return max(middle - half, 0.0), middle + half
