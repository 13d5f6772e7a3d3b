"""Magnitude pruning: the smallest weights become zero while the network keeps learning."""

from typing import Annotated, Any, Literal

import keras
import numpy as np
from pydantic import Field

from compress.graph.replay import copy_model
from compress.methods import METHODS
from compress.methods.structure import inner_kernels
from compress.methods.tfmot.bridge import copy_back, import_tfmot, to_tf_keras
from compress.methods.tfmot.training import FinetuneData, finetune
from configs.errors import UserError

SHARE_OF_UPDATES = 0.7
"""Of the updates, until the sparsity is reached. The others repair what pruning cost."""
NUM_PRUNINGS = 100
"""How often the masks are drawn on the way there, at most twice as often."""


# 2:4 is a pattern of neighbouring weights. Where channels leave, other weights become neighbours.
@METHODS.add(needs=("finetune_data",), undone_by=("channels",), makes=("zeros",))
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

    The first convolution and the depthwise ones stay dense, as for MobileNet in Zhu and Gupta 2017
    (section 4.2, arXiv:1710.01878). They hold about 1 % of the weights, and all features pass
    through them. The last kernel stays dense too, because it makes the logits. Pruning buys a
    smaller file once it is zipped. It buys no speed: the runtimes multiply by the zeros.

    Args:
        sparsity: share of zeros in the pruned kernels.
        schedule: polynomial raises the sparsity from 0 on a cubic (Zhu and Gupta, section 3).
            constant prunes at the first update.
        scope: layer gives all kernels the same sparsity. global prunes those kernels less that lose
            more by it: it ranks the weights of all kernels together, each by its share in what is
            left of its kernel (Lee et al. 2021, section 2, arXiv:2010.07611).
        pattern: 2:4 leaves two of four neighbouring weights, for hardware that skips the other two.
            The sparsity is then 0.5.
        epochs: duration of the training, in which the model is pruned first.
        learning_rate: at the start; it falls to zero on a cosine.

    Raises:
        UserError: the model has no kernel to prune, or other options contradict the pattern.
    """
    if pattern is not None and (sparsity != 0.5 or scope != "layer" or schedule != "polynomial"):
        raise UserError(
            f"magnitude has pattern {pattern}, which makes half of every kernel zero at the first "
            f"update. It also has sparsity {sparsity}, scope {scope} and schedule {schedule}, "
            "which contradict the pattern. Remove these three options."
        )
    tfmot = import_tfmot()
    num_updates = epochs * finetune_data.steps_per_epoch
    schedules = {
        name: _constant(share)
        if schedule == "constant" or pattern is not None
        else _polynomial(share, num_updates)
        for name, share in _sparsities(model, sparsity, scope).items()
    }
    pruned = _wrapped(to_tf_keras(model), schedules, (2, 4) if pattern == "2:4" else None)
    finetune(
        pruned,
        finetune_data,
        epochs=epochs,
        learning_rate=learning_rate,
        callbacks=[tfmot.sparsity.keras.UpdatePruningStep()],
    )
    return copy_back(tfmot.sparsity.keras.strip_pruning(pruned), into=copy_model(model))


def _wrapped(tf_model: Any, schedules: dict[str, Any], m_by_n: tuple[int, int] | None) -> Any:
    """The tf_keras model with tfmot's wrapper around the layers that have a schedule."""
    import tf_keras

    prune = import_tfmot().sparsity.keras.prune_low_magnitude

    def wrapper(layer: Any) -> Any:
        if layer.name not in schedules:
            return layer
        return prune(layer, schedules[layer.name], sparsity_m_by_n=m_by_n)

    return tf_keras.models.clone_model(tf_model, clone_function=wrapper)


def _sparsities(model: keras.Model, sparsity: float, scope: str) -> dict[str, float]:
    """How sparse every pruned kernel becomes, by the name of its layer in tf_keras.

    Raises:
        UserError: there is no such kernel.
    """
    kernels = {name: np.asarray(layer.kernel) for name, layer in inner_kernels(model)}
    if not kernels:
        raise UserError(
            f"model {model.name!r} has nothing to prune: magnitude prunes Conv2D and Dense layers "
            "between the first and the last of them. Remove the method."
        )
    if scope == "global":
        return global_sparsities(kernels, sparsity)
    return dict.fromkeys(kernels, sparsity)


def global_sparsities(kernels: dict[str, np.ndarray], sparsity: float) -> dict[str, float]:
    """How sparse each kernel becomes when the weights of all kernels are ranked together.

    The score of a weight is its square, divided by the sum of all squares in its kernel that are
    not smaller (Lee et al. 2021, section 2.2). The largest weight of a kernel has the score 1 and
    always stays. A kernel of zeros has no scores and gets the sparsity of the whole.
    """
    scores = {}
    for name, kernel in kernels.items():
        squares = np.sort(np.square(kernel.astype("float64")), axis=None)
        if squares.any():
            scores[name] = squares / np.cumsum(squares[::-1])[::-1]
    if not scores:
        return dict.fromkeys(kernels, sparsity)
    threshold = np.quantile(np.concatenate(list(scores.values())), sparsity)
    shares = {
        # Weights that are zero already count as pruned, however many they are.
        name: float(((of_kernel < threshold) | (of_kernel == 0)).mean())
        for name, of_kernel in scores.items()
    }
    return {name: shares.get(name, sparsity) for name in kernels}


def _constant(sparsity: float) -> Any:
    """tfmot's schedule that prunes to this sparsity at every update."""
    schedules = import_tfmot().sparsity.keras
    return schedules.ConstantSparsity(sparsity, begin_step=0, frequency=1)


def _polynomial(sparsity: float, num_updates: int) -> Any:
    """tfmot's cubic schedule, with an end at an update at which tfmot prunes.

    tfmot prunes at every `frequency`-th update only. An end between two of them would leave out the
    last part of the cubic, and the kernels would be denser than `sparsity`.
    """
    schedules = import_tfmot().sparsity.keras
    last = int(SHARE_OF_UPDATES * (num_updates - 1))
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
