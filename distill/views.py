"""What a model sees of an example: a pure function of (example, view number, seed).

Teacher and student see the same view, each at its own size: everything random is drawn before
the size is known.
"""

import tensorflow as tf


def view_seed(example_id: tf.Tensor, view: tf.Tensor, seed: int) -> tf.Tensor:
    """The stateless seed of one view of one example, (2,) int32.

    Args:
        example_id: int64, the first bytes of the photo's digest: not its place in a list, so
            that added photos leave the views of the others as they are.
    """
    fold = tf.random.experimental.stateless_fold_in
    key = fold(tf.constant([seed, 0], tf.int32), tf.cast(example_id & 0x7FFFFFFF, tf.int32))
    key = fold(key, tf.cast(tf.bitwise.right_shift(example_id, 31) & 0x7FFFFFFF, tf.int32))
    return fold(key, tf.cast(view, tf.int32))


def training_view(
    photo: tf.Tensor,
    *,
    example_id: tf.Tensor,
    view: tf.Tensor,
    seed: int,
    crop: tuple[float, float],
    flip: bool,
    image_size: int,
) -> tf.Tensor:
    """One augmented view: a random crop, mirrored or not, at the size of the model's input.

    The crop is that of Szegedy et al. 2015 (arXiv:1409.4842, section 6): its area is uniform in
    `crop`, the logarithm of its aspect ratio uniform between 3/4 and 4/3.

    Args:
        photo: uint8, (height, width, 3).
        view: int64, which of the example's views.

    Returns:
        float32, (image_size, image_size, 3), 0..255.
    """
    key = view_seed(example_id, view, seed)
    # Named, not "auto": the same numbers on every device.
    draw = tf.random.stateless_uniform([5], key, alg="philox")
    height, width = tf.shape(photo)[0], tf.shape(photo)[1]
    area = tf.cast(height * width, tf.float32) * (crop[0] + draw[0] * (crop[1] - crop[0]))
    aspect = tf.exp((2.0 * draw[1] - 1.0) * tf.math.log(4.0 / 3.0))
    crop_height = tf.clip_by_value(_round(tf.sqrt(area / aspect)), 1, height)
    crop_width = tf.clip_by_value(_round(tf.sqrt(area * aspect)), 1, width)
    top = tf.cast(draw[2] * tf.cast(height - crop_height + 1, tf.float32), tf.int32)
    left = tf.cast(draw[3] * tf.cast(width - crop_width + 1, tf.float32), tf.int32)
    image = photo[top : top + crop_height, left : left + crop_width]
    image = tf.image.resize(image, (image_size, image_size), antialias=True)
    if flip:
        image = tf.where(draw[4] < 0.5, image[:, ::-1], image)
    return tf.ensure_shape(image, (image_size, image_size, 3))


def _round(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(value), tf.int32)
