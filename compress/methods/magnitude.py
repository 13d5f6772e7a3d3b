"""Magnitude pruning: the smallest weights become zero while the network keeps learning."""

from typing import Annotated, Any, Literal

import keras
import numpy as np
from pydantic import Field

from compress.graph.graph import copy_of
from compress.methods import METHODS
from compress.methods.tfmot import (
    FinetuneData,
    copy_back,
    finetune,
    import_tfmot,
    to_tf_keras,
)
from configs.errors import UserError

SHARE_OF_STEPS = 0.7
"""When the asked sparsity is reached; the remaining steps mend what it cost."""
NUM_PRUNINGS = 100
"""About how often the masks are drawn again on the way there."""


# 2:4 is a pattern of neighbouring weights. Where channels leave, other weights become neighbours.
@METHODS.add(needs=("finetune_data",), undone_by=("channels",))
def magnitude(
    model: keras.Model,
    *,
    finetune_data: FinetuneData,
    sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    schedule: Literal["polynomial", "constant"] = "polynomial",
    scope: Literal["layer", "global"] = "layer",
    pattern: Literal["2:4"] | None = None,
    epochs: Annotated[int, Field(gt=0)] = 5,
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4,
) -> keras.Model:
    """A copy of the model in which the smallest weights of most kernels are zero.

    As for MobileNet in Zhu and Gupta 2017 (arXiv:1710.01878, section 4.2), the first convolution
    and the depthwise ones stay dense: they hold about 1 % of the weights and every feature passes
    through them. So does the last kernel, which makes the logits. What sparsity buys is a smaller
    file once that is zipped: the runtimes still multiply by the zeros.

    Args:
        sparsity: share of zeros in the pruned kernels.
        schedule: polynomial grows on a cubic from 0 (Zhu and Gupta, section 3); constant prunes at
            the first step.
        scope: layer makes every kernel as sparse; global spares those that lose more by it: the
            smallest weights go of all in proportion to what is left of their kernel (Lee et al.
            2021, section 2, arXiv:2010.07611).
        pattern: 2:4 leaves two of every four neighbouring weights, for hardware that skips the
            others; sparsity is then 0.5.
        epochs: how long the model learns while it is pruned and afterwards.
        learning_rate: at the start; it falls to zero on a cosine.

    Raises:
        UserError: the model has no kernel to prune, or sparsity and pattern do not go together.
    """
    if pattern is not None and (sparsity != 0.5 or scope != "layer" or schedule != "polynomial"):
        raise UserError(
            f"magnitude has the pattern {pattern}, which makes every kernel half zeros from the "
            f"first step, and beside it sparsity {sparsity}, scope {scope}, schedule {schedule}. "
            "Leave these out."
        )
    tfmot = import_tfmot()
    tf_model = to_tf_keras(model)
    num_steps = epochs * finetune_data.steps_per_epoch
    kernels = {layer.name: np.asarray(layer.kernel) for layer in prunable(tf_model)}
    shares = dict.fromkeys(kernels, sparsity)
    if scope == "global":
        shares = global_sparsities(kernels, sparsity)
    constant = schedule == "constant" or pattern is not None
    schedules = {
        name: _constant(share) if constant else _polynomial(share, num_steps)
        for name, share in shares.items()
    }
    pruned = _wrapped(tf_model, schedules, (2, 4) if pattern == "2:4" else None)
    finetune(
        pruned,
        train=finetune_data.train,
        steps_per_epoch=finetune_data.steps_per_epoch,
        epochs=epochs,
        loss=finetune_data.loss,
        learning_rate=learning_rate,
        checkpoint=finetune_data.checkpoint,
        callbacks=[tfmot.sparsity.keras.UpdatePruningStep()],
        progress=finetune_data.progress,
    )
    return copy_back(tfmot.sparsity.keras.strip_pruning(pruned), into=copy_of(model))


def _wrapped(tf_model: Any, schedules: dict[str, Any], m_by_n: tuple[int, int] | None) -> Any:
    import tf_keras

    prune = import_tfmot().sparsity.keras.prune_low_magnitude

    def wrapper(layer: Any) -> Any:
        if layer.name not in schedules:
            return layer
        return prune(layer, schedules[layer.name], sparsity_m_by_n=m_by_n)

    return tf_keras.models.clone_model(tf_model, clone_function=wrapper)


def global_sparsities(kernels: dict[str, np.ndarray], sparsity: float) -> dict[str, float]:
    """How sparse each kernel becomes when the weights with the lowest scores go of all.

    The score of a weight is its square, divided by the sum of the squares that are not smaller in
    its kernel (Lee et al. 2021, section 2.2): the last weight of a kernel never goes.
    """
    scores = {}
    for name, kernel in kernels.items():
        squares = np.sort(np.square(kernel.astype("float64")), axis=None)
        left = np.cumsum(squares[::-1])[::-1]
        scores[name] = squares / np.maximum(left, np.finfo("float64").tiny)
    threshold = np.quantile(np.concatenate(list(scores.values())), sparsity)
    return {name: float((some < threshold).mean()) for name, some in scores.items()}


def prunable(tf_model: Any) -> list[Any]:
    """The Conv2D and Dense layers of a tf_keras model but for the first and the last of them.

    Raises:
        UserError: there are none.
    """
    import tf_keras

    kinds = (tf_keras.layers.Conv2D, tf_keras.layers.Dense)
    dense_kinds = (tf_keras.layers.DepthwiseConv2D, tf_keras.layers.SeparableConv2D)
    with_kernels = [layer for layer in tf_model.layers if isinstance(layer, kinds)]
    chosen = [layer for layer in with_kernels[1:-1] if not isinstance(layer, dense_kinds)]
    if not chosen:
        raise UserError(
            f"model {tf_model.name!r} has nothing to prune: magnitude leaves the first and the "
            f"last of its {len(with_kernels)} Conv2D and Dense layers dense. Leave it out."
        )
    return chosen


def _constant(sparsity: float) -> Any:
    schedules = import_tfmot().sparsity.keras
    return schedules.ConstantSparsity(sparsity, begin_step=0, frequency=1)


def _polynomial(sparsity: float, num_steps: int) -> Any:
    """Cubic growth that ends on a step at which tfmot prunes.

    tfmot prunes at every `frequency`-th step only: an end in between would leave the last
    stretch of the cubic out and the kernels denser than asked.
    """
    schedules = import_tfmot().sparsity.keras
    last = int(SHARE_OF_STEPS * (num_steps - 1))
    if last < 1:
        return _constant(sparsity)
    frequency = max(last // NUM_PRUNINGS, 1)
    return schedules.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=sparsity,
        begin_step=0,
        end_step=last // frequency * frequency,
        frequency=frequency,
    )
