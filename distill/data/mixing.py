"""mixup and CutMix as part of a view: (example, view number, seed) decide the partner and weight.

So the soft labels of a mixed view can be computed once, like those of any other view.
"""

from typing import NamedTuple

import tensorflow as tf

from configs.schema.views import ViewsConfig
from distill.data.views import MIXING, inside_box, uniform, view_seed


class Mix(NamedTuple):
    """How another example, the partner, is mixed into a view.

    Attributes:
        partner: int64, index of the other training example.
        own_weight: float32, the example's own share of the image and of the label.
        box: float32, (4,): top, left, height and width of the partner's part, as shares of the
            side. Only CutMix uses it.
        is_cut: bool, True for CutMix and False for mixup.
    """

    partner: tf.Tensor
    own_weight: tf.Tensor
    box: tf.Tensor
    is_cut: tf.Tensor


def draw_mix(
    *, example_id: tf.Tensor, view: tf.Tensor, seed: int, num_examples: int, views: ViewsConfig
) -> Mix:
    """The partner of a view, drawn from all training examples, and its weight.

    mixup draws the weight from Beta(views.mixup, views.mixup) (Zhang et al. 2017,
    arXiv:1710.09412, section 2). CutMix draws the share of the area that stays from
    Beta(views.cutmix, views.cutmix) (Yun et al. 2019, arXiv:1905.04899, section 3.1). If both are
    on, half of the views are mixed by mixup and half by CutMix.
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
    # The part of the box outside the image is cut off, so the weight follows from what is left.
    weight = tf.where(is_cut, 1.0 - box[2] * box[3], weight)
    return Mix(partner, weight, box, is_cut)


def mix_images(own: tf.Tensor, other: tf.Tensor, mix: Mix) -> tf.Tensor:
    """The two views mixed, or the other cut into the own: float32, (size, size, 3)."""
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
    """A number from Beta(concentration, concentration): the first share of two gamma variables."""
    parts = tf.random.stateless_gamma([2], _fold(key, 3), concentration)
    total = parts[0] + parts[1]
    # With a small concentration both can be 0.
    return tf.where(total > 0, parts[0] / tf.maximum(total, 1e-30), 1.0)
