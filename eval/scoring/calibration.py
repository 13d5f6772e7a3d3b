"""Whether probabilities mean what they say: log-likelihood, calibration error, temperature."""

from dataclasses import dataclass

import numpy as np

NUM_BINS = 15


def negative_log_likelihood(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -ln p(label); probabilities below 1e-7, as int8 files give, count as 1e-7.

    Ours, because sklearn's log_loss has another floor for each type of number.
    """
    return float(-np.log(np.maximum(probs[np.arange(len(labels)), labels], 1e-7)).mean())


def fitted_temperature(probs: np.ndarray, labels: np.ndarray, *, doubt: float = 0.0) -> float:
    """The temperature, from 1/8 to 8, at which probabilities fit the labels best.

    Source: Guo et al. 2017, section 4.2 (arXiv:1706.04599): least negative log-likelihood.

    Args:
        probs: float, (examples, classes).
        labels: int, (examples,).
        doubt: the share of each label that lies on all classes. Without any, the lowest
            temperature fits best where every answer is right, and every score becomes 100 %.
    """
    candidates = np.geomspace(1 / 8, 8, 121)

    def misfit(temperature: float) -> float:
        log_probs = np.log(np.maximum(tempered(probs, temperature), 1e-7))
        of_labels = log_probs[np.arange(len(labels)), labels].mean()
        return float(-(1 - doubt) * of_labels - doubt * log_probs.mean())

    return float(min(candidates, key=misfit))


def tempered(probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities with their logits divided by a temperature, float64 (examples, classes)."""
    logits = np.log(np.maximum(probs.astype("float64"), 1e-12)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def calibration_gaps(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Accuracy minus confidence of each example, in the column of its bin of confidence.

    Returns:
        float, (examples, bins): right (0 or 1) minus confidence in one column, 0 in the others.
    """
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    bins = _bins_of(confidence)
    gaps = np.zeros((len(labels), NUM_BINS))
    gaps[np.arange(len(labels)), bins] = right - confidence
    return gaps


def expected_calibration_error(probs: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance of confidence from accuracy over 15 bins of equal width.

    Source: Guo et al. 2017, section 2, equation 3 (arXiv:1706.04599). Ours, because sklearn has no
    such error.
    """
    return float(np.abs(calibration_gaps(probs, labels).mean(axis=0)).sum())


def calibration_interval(
    probs: np.ndarray, labels: np.ndarray, num_samples: int = 1000
) -> tuple[float, float]:
    """The 95 % interval of `expected_calibration_error`. Ours, because no library has one.

    Chance only ever adds to the error: a calibrated model shows one too, and resampling the photos
    adds more. So the gaps of the bins are scaled up and down. The interval holds every scale at
    which the observed error is no surprise; it begins at 0 where chance alone explains it.
    """
    gaps = calibration_gaps(probs, labels)
    mean = gaps.mean(axis=0)
    observed = float(np.abs(mean).sum())
    chance = np.random.default_rng(0).multivariate_normal(
        np.zeros(len(mean)), np.cov(gaps.T, bias=True) / len(gaps), num_samples, method="eigh"
    )

    def error_at(scale: float, quantile: float) -> float:
        """A quantile of the error that is observed when the true gaps are `scale` times these."""
        return float(np.quantile(np.abs(scale * mean + chance).sum(axis=1), quantile))

    def scale_at(quantile: float) -> float:
        """The scale at which this quantile of the error is the observed one, by bisection."""
        low, high = 0.0, 1.0
        if error_at(low, quantile) >= observed:
            return 0.0
        while error_at(high, quantile) < observed:
            high *= 2
        while high - low > 0.005:
            middle = (low + high) / 2
            is_low = error_at(middle, quantile) < observed
            low, high = (middle, high) if is_low else (low, middle)
        return high

    return scale_at(0.975) * observed, scale_at(0.025) * observed


@dataclass(frozen=True)
class ReliabilityBin:
    """The answers of one range of confidence: a point of a reliability diagram.

    Attributes:
        confidence: their mean confidence.
        accuracy: the share of them that is right.
    """

    n: int
    confidence: float
    accuracy: float


def reliability(probs: np.ndarray, labels: np.ndarray) -> list[ReliabilityBin]:
    """The bins of `expected_calibration_error` that hold a photo, by rising confidence."""
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    bins = _bins_of(confidence)
    return [
        ReliabilityBin(
            n=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
        )
        for inside in (bins == number for number in np.unique(bins))
    ]


def _bins_of(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence, 0 to NUM_BINS - 1."""
    return np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)


@dataclass(frozen=True)
class Calibration:
    """What the temperature did to the scores of the model that became files, on the test photos.

    Attributes:
        temperature: what its logits are divided by.
        before, after: its reliability diagrams.
        ece_before, ece_after: its expected calibration errors.
    """

    temperature: float
    before: list[ReliabilityBin]
    after: list[ReliabilityBin]
    ece_before: float
    ece_after: float


def calibration_of(
    probs: np.ndarray, labels: np.ndarray, *, temperature: float
) -> Calibration | None:
    """What a temperature did; None if it is 1.

    Args:
        probs: with the temperature, (examples, classes).
    """
    if temperature == 1.0:
        return None
    before = tempered(probs, 1 / temperature)
    return Calibration(
        temperature=temperature,
        before=reliability(before, labels),
        after=reliability(probs, labels),
        ece_before=expected_calibration_error(before, labels),
        ece_after=expected_calibration_error(probs, labels),
    )
