"""`FEATURE_LOSSES`: how a student learns from what its teacher computes before the logits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from keras import ops
from pydantic import Field

from configs.registry import Registry
from distill.features import FeatureKind, resampled
from distill.losses import TINY, Objective, example_weights

FEATURE_LOSSES = Registry("feature loss")

Weight = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Facts:
    """What a feature loss declares where it registers.

    Attributes:
        reads: which features of teacher and student it compares.
        projection: a linear layer that brings the student's pooled features to the width of the
            teacher's, which are standardized. "dropped": it is not part of the student that is
            saved. "kept": the student answers through it and through the teacher's own head.
    """

    reads: FeatureKind
    projection: Literal["dropped", "kept"] | None = None


def facts_of(name: str) -> Facts:
    """What the feature loss `name` declared."""
    return Facts(**FEATURE_LOSSES.facts(name))


@FEATURE_LOSSES.add(reads="pooled", projection="dropped")
def hint(*, student_features: Any, teacher_features: Any, weight: Weight = 1.0) -> Any:
    """Mean squared error between a projection of the student's features and the teacher's.

    The projection is learned with the student and then dropped (Romero et al. 2014, section 2.1,
    arXiv:1412.6550; here at the pooled features, and together with the other losses). A student
    that always says the mean of the teacher's standardized features has a loss of 1.

    Args:
        student_features: float, (batch, features): projected.
        teacher_features: float, (batch, features): standardized.
        weight: of this loss beside the others.

    Returns:
        One loss per example, (batch,).
    """
    difference = student_features - ops.stop_gradient(teacher_features)
    return weight * ops.mean(difference * difference, axis=-1)


@FEATURE_LOSSES.add(reads="pooled", projection="kept")
def simkd(*, student_features: Any, teacher_features: Any, weight: Weight = 1.0) -> Any:
    """As `hint`, but the student answers through the projection and its teacher's own head.

    The head is not trained (Chen et al. 2022, section 3, arXiv:2203.14001, where this is the only
    loss and the projection has three convolutions).

    Args:
        student_features: float, (batch, features): projected.
        teacher_features: float, (batch, features): standardized.
        weight: of this loss beside the others. A weight of 100 leaves them next to nothing.

    Returns:
        One loss per example, (batch,).
    """
    return hint(student_features=student_features, teacher_features=teacher_features, weight=weight)


@FEATURE_LOSSES.add(reads="attention")
def attention(*, student_features: Any, teacher_features: Any, weight: Weight = 1000.0) -> Any:
    """Mean squared difference between attention maps: where a network looks.

    Both maps are brought to the coarser of their two grids, and to length 1 (Zagoruyko and
    Komodakis 2016, section 3.1, arXiv:1612.03928; its beta/2 is `weight`, divided by the number of
    places as in its section 4.1).

    Args:
        student_features: float, (batch, places) of a square attention map, row by row.
        teacher_features: the same of the teacher, with a number of places of its own.
        weight: of this loss beside the others.

    Returns:
        One loss per example, (batch,).
    """
    sides = [math.isqrt(maps.shape[-1]) for maps in (student_features, teacher_features)]
    student, teacher = (
        _normalized(resampled(maps, side, min(sides)))
        for maps, side in zip((student_features, teacher_features), sides, strict=True)
    )
    difference = student - ops.stop_gradient(teacher)
    return weight * ops.mean(difference * difference, axis=-1)


@FEATURE_LOSSES.add(reads="pooled")
def relational(
    *,
    student_features: Any,
    teacher_features: Any,
    distance_weight: Annotated[float, Field(ge=0)] = 25.0,
    angle_weight: Annotated[float, Field(ge=0)] = 50.0,
) -> Any:
    """Huber loss between the distances, and between the angles, of the examples of a batch.

    Distances are divided by their mean over the batch. An angle is that of two examples as seen
    from a third (Park et al. 2019, section 3.2, arXiv:1904.05068; the weights of its
    classification experiments). The features of the two networks may differ in width.

    Args:
        student_features: float, (batch, features).
        teacher_features: float, (batch, features of the teacher).
        distance_weight: weight of the distances.
        angle_weight: weight of the angles.

    Returns:
        One loss per example, (batch,): of its distances, and of the angles that it sees.
    """
    student_distances, student_angles = _relations(student_features)
    teacher_distances, teacher_angles = map(
        ops.stop_gradient, _relations(ops.stop_gradient(teacher_features))
    )
    num_others = ops.cast(ops.shape(student_features)[0] - 1, student_features.dtype)
    num_pairs = ops.maximum(num_others * (num_others - 1), 1)
    distances = ops.sum(_huber(student_distances - teacher_distances), axis=-1)
    angles = ops.sum(_huber(student_angles - teacher_angles), axis=(-2, -1))
    return distance_weight * distances / ops.maximum(num_others, 1) + (
        angle_weight * angles / num_pairs
    )


def _relations(features: Any) -> tuple[Any, Any]:
    """Distances over their mean, (batch, batch), and cosines of angles, (batch, batch, batch).

    The cosine [j, i, k] is that of the angle between i and k as seen from j. Two examples that are
    the same have a distance of 0, and no direction: their cosines are 0.
    """
    # Large means would cost the differences of squares most of their digits.
    centred = features - ops.mean(features, axis=0, keepdims=True)
    products = ops.matmul(centred, ops.transpose(centred))
    norms = ops.diagonal(products)
    squares = norms[:, None] + norms[None, :] - 2.0 * products
    # The root of 0 has no gradient.
    apart = squares > 1e-6 * ops.mean(squares)
    distances = ops.where(apart, ops.sqrt(ops.where(apart, squares, 1.0)), 0.0)
    num_apart = ops.sum(ops.cast(apart, distances.dtype))
    mean = ops.sum(distances) / ops.maximum(num_apart, 1.0)
    inverse = ops.where(apart, 1.0 / ops.where(apart, distances, 1.0), 0.0)
    # (i - j) . (k - j) for [j, i, k]
    inner = products[None] - products[:, :, None] - products[:, None, :] + norms[:, None, None]
    cosines = inner * inverse[:, :, None] * inverse[:, None, :]
    return distances / ops.maximum(mean, TINY), cosines


def _huber(difference: Any) -> Any:
    size = ops.abs(difference)
    return ops.where(size <= 1.0, 0.5 * difference * difference, size - 0.5)


def _normalized(maps: Any) -> Any:
    return maps / ops.sqrt(ops.sum(maps * maps, axis=-1, keepdims=True) + TINY**2)


def with_feature_loss(
    objective: Objective,
    name: str,
    options: Mapping[str, Any],
    *,
    num_classes: int,
    class_weights: tuple[float, ...] | None = None,
) -> Objective:
    """`objective` plus the named feature loss, for a model whose features follow its logits.

    Args:
        objective: of the logits alone.
        class_weights: as in `objective`; the feature loss of an example has the same weight.

    Returns:
        (targets, outputs) -> one loss per example; the teacher's features are the last part of the
        targets, and the student's the last part of the outputs.
    """
    feature_loss = FEATURE_LOSSES[name]

    def loss(targets: Any, outputs: Any) -> Any:
        logits, student_features = outputs[:, :num_classes], outputs[:, num_classes:]
        of_logits = objective(targets[:, : 2 * num_classes], logits)
        of_features = feature_loss(
            student_features=student_features,
            teacher_features=targets[:, 2 * num_classes :],
            **options,
        )
        weights = example_weights(targets[:, :num_classes], class_weights)
        return of_logits + of_features * weights

    return loss
