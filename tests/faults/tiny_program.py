"""The three programs with one more backbone, `tiny`: python tiny_program.py PROGRAM ARGUMENTS.

The backbone compiles in a second. The tests kill a process that works, not one that compiles.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402
from keras import layers  # noqa: E402

import cli  # noqa: E402  (it sets TensorFlow's environment before anything imports TensorFlow)
from distill.backbones import BACKBONES  # noqa: E402


@BACKBONES.add
def tiny(
    *,
    image_size: int,
    num_classes: int,
    width: int = 16,
    dropout: float = 0.2,
    weights: str | None = None,
) -> keras.Model:
    """Two blocks of an expanding, a depthwise and a projecting convolution."""
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1, name="pixels")(inputs)
    for number in range(2):
        for kind, convolution in {
            "expand": layers.Conv2D(4 * width, 1, use_bias=False, name=f"expand{number}"),
            "depthwise": layers.DepthwiseConv2D(
                3, strides=2, padding="same", use_bias=False, name=f"depthwise{number}"
            ),
            "project": layers.Conv2D(width, 1, use_bias=False, name=f"project{number}"),
        }.items():
            x = layers.BatchNormalization(momentum=0.9, name=f"{kind}_norm{number}")(convolution(x))
            if kind != "project":
                x = layers.ReLU(6.0, name=f"{kind}_relu{number}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(num_classes, name="logits")(x), name="tiny")


if __name__ == "__main__":
    program = sys.argv.pop(1)
    sys.argv[0] = program
    getattr(cli, program)()
