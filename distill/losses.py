"""`LOSSES`: what the student is asked to match."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

from keras import ops
from pydantic import Field

from configs.registry import Registry

LOSSES = Registry("loss")

Objective = Callable[[Any, Any], Any]
"""(targets, logits) -> one loss per example; targets as `distill.inputs.training_batches` packs."""


@LOSSES.add
def kd(
    *,
    student_logits: Any,
    teacher_logits: Any,
    temperature: Annotated[float, Field(gt=0)] = 4.0,
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
    kl = ops.sum(ops.exp(teacher_log_probs) * (teacher_log_probs - student_log_probs), axis=-1)
    return temperature**2 * kl


def cross_entropy(*, labels: Any, logits: Any, label_smoothing: float = 0.0) -> Any:
    """Cross-entropy with one-hot labels, one value per example, (batch,)."""
    num_classes = logits.shape[-1]
    labels = labels * (1.0 - label_smoothing) + label_smoothing / num_classes
    return -ops.sum(labels * ops.log_softmax(logits), axis=-1)


def label_objective(label_smoothing: float) -> Objective:
    """Labels alone: what the teacher and the control minimise."""

    def loss(targets: Any, logits: Any) -> Any:
        labels = targets[:, : logits.shape[-1]]
        return cross_entropy(labels=labels, logits=logits, label_smoothing=label_smoothing)

    return loss


def distillation_objective(
    name: str, options: dict[str, Any], *, soft_weight: float, label_smoothing: float
) -> Objective:
    """soft_weight * (the named loss) + (1 - soft_weight) * cross-entropy.

    The named loss gets those of student_logits, teacher_logits and labels that it asks for.
    """
    soft_loss = LOSSES[name]
    wanted = inspect.signature(soft_loss).parameters

    def loss(targets: Any, logits: Any) -> Any:
        num_classes = logits.shape[-1]
        labels, teacher_logits = targets[:, :num_classes], targets[:, num_classes:]
        given = {"student_logits": logits, "teacher_logits": teacher_logits, "labels": labels}
        soft = soft_loss(**{k: v for k, v in given.items() if k in wanted}, **options)
        hard = cross_entropy(labels=labels, logits=logits, label_smoothing=label_smoothing)
        return soft_weight * soft + (1.0 - soft_weight) * hard

    return loss
