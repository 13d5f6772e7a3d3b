"""Three models of Keras 2 for `foreign_files.py`, which starts this program with legacy Keras.

python benchmarks/foreign_keras2.py photos.npz FOLDER
"""

import json
import sys
from pathlib import Path

import h5py
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tf_keras import layers


def main(photos: Path, folder: Path) -> None:
    """Write keras_model.h5, saved_model/, pruned.h5 and what each answers about the test photos."""
    arrays = np.load(photos)
    x, y, test = arrays["x"], arrays["y"], arrays["test"]
    answers = {}

    model = fitted(network(), x, y)
    answers["keras_model"] = model.predict(test, verbose=0)
    model.save(folder / "keras_model.h5")
    add_groups(folder / "keras_model.h5")
    model.save(folder / "saved_model", save_format="tf")

    sparsity = tfmot.sparsity.keras.ConstantSparsity(0.3, begin_step=0, frequency=10)
    prune = tfmot.sparsity.keras.prune_low_magnitude
    wrapped = keras.Sequential(
        [
            layers.Rescaling(1 / 255, input_shape=x.shape[1:]),
            prune(layers.Conv2D(16, 3, strides=2, activation="relu"), sparsity),
            layers.GlobalAveragePooling2D(),
            prune(layers.Dense(3, activation="softmax"), sparsity),
        ]
    )
    wrapped = fitted(wrapped, x, y, [tfmot.sparsity.keras.UpdatePruningStep()])
    answers["pruned"] = wrapped.predict(test, verbose=0)
    wrapped.save(folder / "pruned.h5")
    np.savez(folder / "answers.npz", **answers)


def network():
    """A small MobileNet: a convolution, a depthwise one, and a head."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            layers.Rescaling(1 / 255, input_shape=(32, 32, 3)),
            layers.Conv2D(8, 3, strides=2, use_bias=False),
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(6.0),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )


def fitted(model, x, y, callbacks=()):
    """The model after a few seconds of training."""
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=40, batch_size=30, verbose=0, callbacks=list(callbacks))
    return model


def add_groups(path: Path) -> None:
    """Give every depthwise convolution `groups`, as the files of Teachable Machine have it."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "DepthwiseConv2D":
                layer["config"]["groups"] = 1
        file.attrs["model_config"] = json.dumps(config)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
