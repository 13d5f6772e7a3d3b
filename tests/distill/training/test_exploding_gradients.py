from pathlib import Path

import numpy as np
import tensorflow as tf

from distill.losses import label_objective
from distill.training.epochs import Schedule
from distill.training.fit import fit
from small_models import dead_model, random_images


def test_a_kernel_of_zeros_behind_which_gradients_explode_learns(tmp_path: Path) -> None:
    images, targets = random_images(8, 16), np.eye(4, dtype="float32")[np.arange(8) % 4]
    model = dead_model()
    fit(
        model,
        train=lambda epoch, step: tf.data.Dataset.from_tensors((images, targets)).repeat(),
        validation=lambda: iter([(images, targets.argmax(axis=1))]),
        objective=label_objective(0.0),
        schedule=Schedule(3, 2, learning_rate=0.01, weight_decay=1e-4),
        checkpoint=tmp_path / "epoch.npz",
        name="dead",
    )
    assert all(np.isfinite(weights).all() for weights in model.get_weights())
    assert np.abs(model.get_layer("dead").kernel).max() > 0
