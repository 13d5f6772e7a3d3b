"""mixup and CutMix as part of a view: the partner and its weight belong to (example, view, seed).

So a mixed view has one set of soft labels, which can be computed once like every other's.
"""

from typing import NamedTuple

import tensorflow as tf

from configs.schema import ViewsConfig
from distill.data.views import (
    MIXING,
    inside_box,
    uniform,
    view_seed,
)


class Mix(NamedTuple):
    """What of a view comes from another example.

    Attributes:
        partner: int64, index of the other training example.
        own_weight: float32, share of the view that is the example's own, of its label too.
        box: float32, (4,): top, left, height, width of the partner's part, as shares; the whole
            of it for mixup.
        is_cut: bool, CutMix and not mixup.
    """

    partner: tf.Tensor
    own_weight: tf.Tensor
    box: tf.Tensor
    is_cut: tf.Tensor


def draw_mix(
    *, example_id: tf.Tensor, view: tf.Tensor, seed: int, num_examples: int, views: ViewsConfig
) -> Mix:
    """Who is mixed into a view, and how much.

    The weight is drawn from Beta(views.mixup, views.mixup) (Zhang et al. 2017,
    arXiv:1710.09412, section 2), for CutMix from Beta(views.cutmix, views.cutmix) as the share of
    the area that stays (Yun et al. 2019, arXiv:1905.04899, section 3.1). With both, each has half
    of the views.
    """
    key = _fold(view_seed(example_id, view, seed), MIXING)
    draw = uniform(key, 3, 1)
    partner = tf.random.stateless_uniform(
        [], _fold(key, 2), 0, num_examples, tf.int64, alg="philox"
    )
    is_cut = draw[0] < _share_of_cuts(views)
    weight = tf.where(is_cut, _beta(key, views.cutmix or 1.0), _beta(key, views.mixup or 1.0))
    side = tf.sqrt(1.0 - weight)
    edges = tf.clip_by_value(
        tf.stack([draw[1] - side / 2, draw[2] - side / 2, draw[1] + side / 2, draw[2] + side / 2]),
        0.0,
        1.0,
    )
    box = tf.concat([edges[:2], edges[2:] - edges[:2]], axis=0)
    # A box that leaves the image is cut off there: what is left is its weight.
    weight = tf.where(is_cut, 1.0 - box[2] * box[3], weight)
    return Mix(partner, weight, box, is_cut)


def mix_images(own: tf.Tensor, other: tf.Tensor, mix: Mix) -> tf.Tensor:
    """float32 (size, size, 3): the two views, mixed or one cut into the other."""
    top, left, height, width = tf.unstack(mix.box)
    inside = inside_box(own.shape[0], top=top, left=left, height=height, width=width)
    blended = mix.own_weight * own + (1.0 - mix.own_weight) * other
    return tf.where(mix.is_cut, tf.where(inside, other, own), blended)


_fold = tf.random.experimental.stateless_fold_in


def _share_of_cuts(views: ViewsConfig) -> float:
    if views.mixup and views.cutmix:
        return 0.5
    return 1.0 if views.cutmix else 0.0


def _beta(key: tf.Tensor, concentration: float) -> tf.Tensor:
    """A number from Beta(concentration, concentration): the share of one of two gamma variables."""
    parts = tf.random.stateless_gamma([2], _fold(key, 3), concentration)
    total = parts[0] + parts[1]
    # Small concentrations can draw 0 twice.
    return tf.where(total > 0, parts[0] / tf.maximum(total, 1e-30), 1.0)
