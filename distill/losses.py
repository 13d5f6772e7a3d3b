"""`LOSSES`: how a student learns from its teacher's logits. Also the objectives built on them."""

import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from keras import ops
from pydantic import Field

from configs.registry import Registry

LOSSES = Registry("loss")

Temperature = Annotated[float, Field(gt=0)]
TINY = 1e-7
# A finite stand-in for minus infinity: minus infinity times a probability of 0 is not a number.
MASKED = -1e9

Objective = Callable[[Any, Any], Any]
"""(targets, logits) -> one loss per example; targets as `training_batches` packs them."""


@LOSSES.add
def kd(
    *,
    student_logits: Any,
    teacher_logits: Any,
    temperature: Temperature = 4.0,
) -> Any:
    """KL(teacher || student) between softened class distributions.

    Multiplied by temperature**2, so that the gradient keeps its scale as the
    temperature grows (Hinton et al. 2015, section 2, arXiv:1503.02531).

    Args:
        student_logits: float, (batch, classes).
        teacher_logits: float, (batch, classes); no gradient flows into them.
        temperature: > 0; 1 leaves both distributions as they are.

    Returns:
        One loss per example, (batch,).
    """
    teacher_log_probs = ops.log_softmax(ops.stop_gradient(teacher_logits) / temperature)
    student_log_probs = ops.log_softmax(student_logits / temperature)
    return temperature**2 * _kl(teacher_log_probs, student_log_probs)


@LOSSES.add
def logit_standardized(
    *, student_logits: Any, teacher_logits: Any, temperature: Temperature = 2.0
) -> Any:
    """`kd` between logits with mean 0 and standard deviation 1 in each example.

    The student learns how the teacher ranks the classes, not how large its logits are. So a small
    network need not copy the range of a big one (Sun et al. 2024, section 4, arXiv:2403.01427).

    Args:
        student_logits: float, (batch, classes).
        teacher_logits: float, (batch, classes); no gradient flows into them.
        temperature: > 0; applied after the standardization.

    Returns:
        One loss per example, (batch,).
    """
    return kd(
        student_logits=_standardized(student_logits),
        teacher_logits=_standardized(teacher_logits),
        temperature=temperature,
    )


@LOSSES.add
def dkd(
    *,
    student_logits: Any,
    teacher_logits: Any,
    labels: Any,
    temperature: Temperature = 4.0,
    target_weight: Annotated[float, Field(ge=0)] = 1.0,
    other_weight: Annotated[float, Field(ge=0)] = 2.0,
) -> Any:
    """Decoupled `kd`: the right class against the others, and the others among themselves.

    In `kd`, the second part hardly counts if the teacher is confident. Here it has a weight of its
    own (Zhao et al. 2022, section 3.2 and equation 7, arXiv:2203.08679, whose alpha and beta are
    `target_weight` and `other_weight`).

    Args:
        student_logits: float, (batch, classes); needs more than two classes.
        teacher_logits: float, (batch, classes); no gradient flows into them.
        labels: float, (batch, classes); the largest entry is the right class, so labels may be
            mixed.
        temperature: > 0.
        target_weight: weight of the right class against the others.
        other_weight: weight of the other classes among themselves.

    Returns:
        One loss per example, (batch,).
    """
    target = ops.one_hot(ops.argmax(labels, axis=-1), labels.shape[-1], dtype="bool")
    teacher_target, teacher_other = _decoupled(
        ops.stop_gradient(teacher_logits) / temperature, target
    )
    student_target, student_other = _decoupled(student_logits / temperature, target)
    loss = target_weight * _kl(teacher_target, student_target)
    return temperature**2 * (loss + other_weight * _kl(teacher_other, student_other))


@LOSSES.add
def dist(
    *,
    student_logits: Any,
    teacher_logits: Any,
    temperature: Temperature = 1.0,
    between_classes: Annotated[float, Field(ge=0)] = 1.0,
    within_class: Annotated[float, Field(ge=0)] = 1.0,
) -> Any:
    """1 - Pearson correlation with the teacher, within each example and within each class.

    The student learns the relations between the teacher's probabilities rather than their exact
    values, which a smaller network cannot match (Huang et al. 2022, section 3, arXiv:2205.10536,
    whose beta and gamma are `between_classes` and `within_class`).

    Args:
        student_logits: float, (batch, classes).
        teacher_logits: float, (batch, classes); no gradient flows into them.
        temperature: > 0.
        between_classes: weight of the correlation over the classes of one example.
        within_class: weight of the correlation over the batch within one class.

    Returns:
        One loss per example, (batch,); each includes the same part over the batch.
    """
    student_probs = ops.softmax(student_logits / temperature)
    teacher_probs = ops.softmax(ops.stop_gradient(teacher_logits) / temperature)
    between = 1.0 - _pearson(student_probs, teacher_probs, axis=-1)
    within = ops.mean(1.0 - _pearson(student_probs, teacher_probs, axis=0))
    return temperature**2 * (between_classes * between + within_class * within)


@LOSSES.add
def jensen_shannon(
    *, student_logits: Any, teacher_logits: Any, temperature: Temperature = 1.0
) -> Any:
    """Jensen-Shannon divergence between softened class distributions.

    The mean KL divergence of both to their average (Lin 1991, IEEE Trans. Inf. Theory 37(1),
    equation 3.8). At temperature 1 it never exceeds ln 2, so a confident but wrong teacher cannot
    outweigh everything else. Multiplied by temperature**2, like `kd`.

    Args:
        student_logits: float, (batch, classes).
        teacher_logits: float, (batch, classes); no gradient flows into them.
        temperature: > 0.

    Returns:
        One loss per example, (batch,).
    """
    teacher = ops.log_softmax(ops.stop_gradient(teacher_logits) / temperature)
    student = ops.log_softmax(student_logits / temperature)
    average = ops.logaddexp(teacher, student) - math.log(2.0)
    return temperature**2 * 0.5 * (_kl(teacher, average) + _kl(student, average))


def _kl(log_probs: Any, other_log_probs: Any) -> Any:
    return ops.sum(ops.exp(log_probs) * (log_probs - other_log_probs), axis=-1)


def _standardized(logits: Any) -> Any:
    centred = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.mean(centred * centred, axis=-1, keepdims=True)
    return centred / ops.sqrt(variance + TINY**2)  # the root of 0 has no gradient


def _decoupled(logits: Any, target: Any) -> tuple[Any, Any]:
    """Log probabilities of (right class, all others), and of the others among themselves."""
    log_probs = ops.log_softmax(logits)
    target_log_probs = ops.sum(ops.where(target, log_probs, 0.0), axis=-1)
    # Not log(1 - p): for a confident teacher that is the logarithm of 0.
    rest_log_probs = ops.logsumexp(ops.where(target, MASKED, log_probs), axis=-1)
    others = ops.log_softmax(ops.where(target, MASKED, logits))
    return ops.stack([target_log_probs, rest_log_probs], axis=-1), others


def _pearson(a: Any, b: Any, axis: int) -> Any:
    a = a - ops.mean(a, axis=axis, keepdims=True)
    b = b - ops.mean(b, axis=axis, keepdims=True)
    norms = ops.sqrt(ops.sum(a * a, axis=axis) * ops.sum(b * b, axis=axis) + TINY**2)
    return ops.sum(a * b, axis=axis) / norms


def cross_entropy(*, labels: Any, logits: Any, label_smoothing: float = 0.0) -> Any:
    """Cross-entropy with one-hot or mixed labels, one loss per example, (batch,).

    The loss of an example without a label (all zeros) is 0.
    """
    labelled_share = ops.sum(labels, axis=-1, keepdims=True)
    labels = labels * (1.0 - label_smoothing) + labelled_share * label_smoothing / logits.shape[-1]
    return -ops.sum(labels * ops.log_softmax(logits), axis=-1)


def label_objective(
    label_smoothing: float, class_weights: tuple[float, ...] | None = None
) -> Objective:
    """The objective of teacher and control: cross-entropy with the labels alone."""

    def loss(targets: Any, logits: Any) -> Any:
        labels = targets[:, : logits.shape[-1]]
        hard = cross_entropy(labels=labels, logits=logits, label_smoothing=label_smoothing)
        return hard * example_weights(labels, class_weights)

    return loss


def distillation_objective(
    name: str,
    options: dict[str, Any],
    *,
    soft_weight: float,
    label_smoothing: float,
    class_weights: tuple[float, ...] | None = None,
) -> Objective:
    """soft_weight * (the named loss) + (1 - soft_weight) * cross-entropy.

    The named loss gets those of student_logits, teacher_logits and labels that its signature names.

    Args:
        class_weights: the weight of an example of each class; the weight of a mixed example is the
            mean in proportion to its label.
    """
    soft_loss = LOSSES[name]
    parameters = inspect.signature(soft_loss).parameters

    def loss(targets: Any, logits: Any) -> Any:
        num_classes = logits.shape[-1]
        labels, teacher_logits = targets[:, :num_classes], targets[:, num_classes:]
        tensors = {"student_logits": logits, "teacher_logits": teacher_logits, "labels": labels}
        arguments = {key: tensor for key, tensor in tensors.items() if key in parameters}
        soft = soft_loss(**arguments, **options)
        hard = cross_entropy(labels=labels, logits=logits, label_smoothing=label_smoothing)
        total = soft_weight * soft + (1.0 - soft_weight) * hard
        return total * example_weights(labels, class_weights)

    return loss


def needs_labels(name: str) -> bool:
    """Whether a registered loss needs the labels besides the logits."""
    return "labels" in inspect.signature(LOSSES[name]).parameters


def balanced_class_weights(labels: np.ndarray, num_classes: int) -> tuple[float, ...]:
    """Weights that give every class the same total, with a mean of 1 over all examples.

    Args:
        labels: int, (examples,).
    """
    # A class without examples still needs a finite weight.
    counts = np.maximum(np.bincount(labels, minlength=num_classes), 1)
    return tuple((len(labels) / (num_classes * counts)).tolist())


def example_weights(labels: Any, class_weights: tuple[float, ...] | None) -> Any:
    """The weight of each example, (batch,), or 1 if all examples weigh the same."""
    if class_weights is None:
        return 1.0
    weights = ops.convert_to_tensor(class_weights, dtype=labels.dtype)
    # An example without a label has weight 1, the mean of all examples.
    return 1.0 + ops.sum(labels * (weights - 1.0), axis=-1)
