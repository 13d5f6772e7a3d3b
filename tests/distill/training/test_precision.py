"""EfficientNetB0 trained in 16 bits: a kill changes nothing, and its files are float32."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from distill.losses import distillation_objective
from distill.model_file import load_model
from distill.training.epochs import Schedule
from distill.training.fit import fit
from distill.training.precision import computing_in
from eval.devices.probe import open_model
from small_models import SIZE, build, random_images

NUM_PHOTOS, BATCH, NUM_EPOCHS = 8, 4, 2
RNG = np.random.default_rng(0)
LABELS = np.arange(NUM_PHOTOS) % 3
TARGETS = np.hstack([np.eye(3)[LABELS], RNG.normal(0, 2, (NUM_PHOTOS, 3))]).astype("float32")


class Killed(Exception):
    pass


def train(folder: Path, name: str, precision: str, kill_at: tuple[int, int] | None = None) -> None:
    """Train B0 with its checkpoint in `folder`, and save it there."""
    keras.utils.set_random_seed(1)
    model, images = build("efficientnet_b0", weights=None), random_images(NUM_PHOTOS, SIZE)

    def batches(epoch: int, step: int) -> tf.data.Dataset:
        def all_steps():
            for number in range(epoch, NUM_EPOCHS):
                order = np.random.default_rng(number).permutation(NUM_PHOTOS)
                for place in range(step if number == epoch else 0, NUM_PHOTOS // BATCH):
                    if (number, place) == kill_at:
                        raise Killed
                    rows = order[BATCH * place : BATCH * (place + 1)]
                    yield images[rows], TARGETS[rows]

        shapes = (tf.TensorSpec((BATCH, SIZE, SIZE, 3)), tf.TensorSpec((BATCH, 6)))
        return tf.data.Dataset.from_generator(all_steps, output_signature=shapes)

    with computing_in(precision, model):
        history = fit(
            model,
            train=batches,
            validation=lambda: iter([(images, LABELS)]),
            objective=distillation_objective("kd", {}, soft_weight=0.5, label_smoothing=0.0),
            schedule=Schedule(
                NUM_EPOCHS, 2, 1e-3, 1e-4, ema_momentum=0.5, scales_loss=precision == "float16"
            ),
            checkpoint=folder / f"{name}.npz",
            name="b0",
        )
    assert all(np.isfinite(row.loss) for row in history)
    keras.Model(model.inputs, model.outputs).save(folder / f"{name}.keras")


CODE = """
import sys
from pathlib import Path
import tensorflow as tf
tf.config.experimental.enable_op_determinism()
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import test_precision as tests
from distill.training import epochs

epochs.SECONDS_BETWEEN_CHECKPOINTS = 0.0
folder, precision = Path(sys.argv[3]), sys.argv[4]
tests.train(folder, "undisturbed", precision)
try:
    tests.train(folder, "killed", precision, (1, 1))
    raise SystemExit("was not killed")
except tf.errors.UnknownError:
    tests.train(folder, "killed", precision)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_b0_in_16_bits(tmp_path: Path, precision: str) -> None:
    here = Path(__file__).parent
    words = [str(here), str(here.parents[1]), str(tmp_path), precision]
    environment = {**os.environ, "PYTHONPATH": str(here.parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    model, resumed = (load_model(tmp_path / f"{n}.keras") for n in ("undisturbed", "killed"))
    for array, other in zip(model.get_weights(), resumed.get_weights(), strict=True):
        assert np.array_equal(array, other)
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert {array.dtype.name for array in model.get_weights()} <= {"float32", "uint32", "int64"}
    images = random_images(4, SIZE)
    logits = np.asarray(model(images, training=False))
    for recipe, name in (("tflite.float32", "m.tflite"), ("onnx.float32", "m.onnx")):
        path = tmp_path / name
        RECIPES[recipe](Conversion(model, lambda: iter(images)), path, output="logits")
        answers = open_model(path).predict(images)
        # The same float32 kernels, in another order of sums
        np.testing.assert_allclose(answers, logits, atol=1e-3 * np.abs(logits).max())
