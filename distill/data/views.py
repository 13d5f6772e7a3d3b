"""Views: what a model sees of a photo in training. A view is one augmented crop of it.

A view is a pure function of (example, view number, seed). Teacher and student see the same view at
different sizes, so random numbers never depend on the size, and lengths are shares of the side.
"""

import math

import tensorflow as tf

from configs.schema.views import ViewsConfig

# Every augmentation draws from its own stream, so switching one on does not change the others.
# The numbers decide what a view looks like: never reuse one.
GEOMETRY, COLOUR, ERASING, MIXING, NOISE = 1, 2, 3, 4, 5


def view_seed(example_id: tf.Tensor, view: tf.Tensor, seed: int) -> tf.Tensor:
    """The stateless seed of one view of one example, (2,) int32.

    Args:
        example_id: int64, the first bytes of the photo's digest. Unlike its place in a list, it
            stays the same when photos are added.
    """
    fold = tf.random.experimental.stateless_fold_in
    key = fold(tf.constant([seed, 0], tf.int32), tf.cast(example_id & 0x7FFFFFFF, tf.int32))
    key = fold(key, tf.cast(tf.bitwise.right_shift(example_id, 31) & 0x7FFFFFFF, tf.int32))
    return fold(key, tf.cast(view, tf.int32))


def uniform(key: tf.Tensor, count: int, stream: int | None = None) -> tf.Tensor:
    """`count` random numbers in [0, 1) from the seed of a view, or from one of its streams."""
    if stream is not None:
        key = tf.random.experimental.stateless_fold_in(key, stream)
    # The algorithm "auto" would draw other numbers on other devices.
    return tf.random.stateless_uniform([count], key, alg="philox")


def training_view(
    photo: tf.Tensor,
    *,
    example_id: tf.Tensor,
    view: tf.Tensor,
    seed: int,
    views: ViewsConfig,
    image_size: int,
) -> tf.Tensor:
    """One augmented view of one photo at the size of the model's input.

    Args:
        photo: uint8, (height, width, 3).
        view: int64, the number of the view.
        image_size: height and width of the view, in pixels.

    Returns:
        float32, (image_size, image_size, 3), 0..255.
    """
    key = view_seed(example_id, view, seed)
    draw = uniform(key, 5)
    image = photo if views.crop is None else _crop(photo, draw, views.crop)
    if views.noise:
        image = _grain(image, key, views.noise)
    image = tf.image.resize(image, (image_size, image_size), antialias=True)
    if views.flip:
        image = _flipped(image, draw[4] < 0.5, axis=1)
    image = _move(image, uniform(key, 8, GEOMETRY), views)
    image = _recolour(image, uniform(key, 4, COLOUR), views)
    if views.erasing:
        image = _erase(image, uniform(key, 8, ERASING), views.erasing)
    return tf.ensure_shape(image, (image_size, image_size, 3))


def _crop(photo: tf.Tensor, draw: tf.Tensor, share: tuple[float, float]) -> tf.Tensor:
    """The random crop of Szegedy et al. 2015 (arXiv:1409.4842, section 6).

    Its area is uniform in `share`, the logarithm of its aspect ratio uniform between 3/4 and 4/3.
    """
    height, width = tf.shape(photo)[0], tf.shape(photo)[1]
    area = tf.cast(height * width, tf.float32) * (share[0] + draw[0] * (share[1] - share[0]))
    aspect = tf.exp((2.0 * draw[1] - 1.0) * tf.math.log(4.0 / 3.0))
    crop_height = tf.clip_by_value(_round(tf.sqrt(area / aspect)), 1, height)
    crop_width = tf.clip_by_value(_round(tf.sqrt(area * aspect)), 1, width)
    top = tf.cast(draw[2] * tf.cast(height - crop_height + 1, tf.float32), tf.int32)
    left = tf.cast(draw[3] * tf.cast(width - crop_width + 1, tf.float32), tf.int32)
    return photo[top : top + crop_height, left : left + crop_width]


def _grain(crop: tf.Tensor, key: tf.Tensor, most: float) -> tf.Tensor:
    """Gaussian noise with a strength uniform in 0..most, added before the crop is resized.

    So models with different input sizes see the same grain.
    """
    key = tf.random.experimental.stateless_fold_in(key, NOISE)
    strength = uniform(key, 1)[0] * most * 255.0
    grain = tf.random.stateless_normal(
        tf.shape(crop), tf.random.experimental.stateless_fold_in(key, 0), alg="philox"
    )
    return tf.cast(crop, tf.float32) + strength * grain


def _flipped(image: tf.Tensor, is_flipped: tf.Tensor, *, axis: int) -> tf.Tensor:
    # `tf.where` computes both sides, and `image[:, ::-1]` is slow: 0.4 ms at 128 px.
    return tf.cond(is_flipped, lambda: tf.reverse(image, [axis]), lambda: image)


def _move(image: tf.Tensor, draw: tf.Tensor, views: ViewsConfig) -> tf.Tensor:
    """Vertical flip, then rotation, shift, shear and zoom in one resampling.

    Pixels beyond an edge mirror those inside.
    """
    if views.vertical_flip:
        image = _flipped(image, draw[0] < 0.5, axis=0)
    if not (views.rotation or views.shift or views.shear or views.zoom):
        return image
    size = image.shape[0]
    either_way = 2.0 * draw - 1.0
    angle = either_way[1] * math.radians(views.rotation)
    shear = tf.tan(either_way[2] * math.radians(views.shear))
    # Uniform in the logarithm, so that twice and half the size are equally likely.
    scale_y = tf.exp(either_way[3] * math.log1p(views.zoom))
    scale_x = tf.exp(either_way[4] * math.log1p(views.zoom))
    shift_x, shift_y = either_way[5] * views.shift * size, either_way[6] * views.shift * size
    # These map a pixel of the view to its place in the image, relative to the centre.
    a, b = tf.cos(angle) / scale_x, (tf.cos(angle) * shear - tf.sin(angle)) / scale_y
    c, d = tf.sin(angle) / scale_x, (tf.sin(angle) * shear + tf.cos(angle)) / scale_y
    centre = (size - 1) / 2
    x0 = centre - a * centre - b * centre + shift_x
    y0 = centre - c * centre - d * centre + shift_y
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([a, b, x0, c, d, y0, 0.0, 0.0])[None],
        output_shape=(size, size),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    return moved[0]


def _recolour(image: tf.Tensor, draw: tf.Tensor, views: ViewsConfig) -> tf.Tensor:
    """Brightness, contrast, saturation and hue, in this order; clipped to 0..255 at the end."""
    either_way = 2.0 * draw - 1.0
    if views.brightness:
        image = image + either_way[0] * views.brightness * 255.0
    if views.contrast:
        image = tf.image.adjust_contrast(image, 1.0 + either_way[1] * views.contrast)
    if views.saturation:
        grey = tf.image.rgb_to_grayscale(image)
        image = grey + (image - grey) * (1.0 + either_way[2] * views.saturation)
    if views.hue:
        # Colours outside 0..255 have no hue that the operator could turn.
        image = tf.image.adjust_hue(tf.clip_by_value(image, 0.0, 255.0), either_way[3] * views.hue)
    return tf.clip_by_value(image, 0.0, 255.0)


def _erase(image: tf.Tensor, draw: tf.Tensor, probability: float) -> tf.Tensor:
    """Random erasing (Zhong et al. 2017, arXiv:1708.04896, section 3.2).

    Covers 2 to 33 % of the image with a rectangle, with this probability. The rectangle has one
    random colour (the paper draws one per pixel), so that it looks the same at every size.
    """
    area = 0.02 + draw[1] * 0.31
    aspect = tf.exp((2.0 * draw[2] - 1.0) * math.log(1 / 0.3))
    height = tf.minimum(tf.sqrt(area * aspect), 1.0)
    width = tf.minimum(tf.sqrt(area / aspect), 1.0)
    top, left = draw[3] * (1.0 - height), draw[4] * (1.0 - width)
    inside = inside_box(image.shape[0], top=top, left=left, height=height, width=width)
    erased = tf.where(inside, draw[5:8] * 255.0, image)
    return tf.where(draw[0] < probability, erased, image)


def inside_box(
    size: int, *, top: tf.Tensor, left: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Marks the pixels of a square image whose centre lies in a box, in shares of its side.

    Returns:
        bool, (size, size, 1).
    """
    centres = (tf.range(size, dtype=tf.float32) + 0.5) / size
    rows = (centres >= top) & (centres < top + height)
    columns = (centres >= left) & (centres < left + width)
    return (rows[:, None] & columns[None, :])[..., None]


def _round(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.round(value), tf.int32)
