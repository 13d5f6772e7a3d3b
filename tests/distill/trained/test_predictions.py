"""What a Keras model of a run answers about corrupted photos."""

from pathlib import Path

import keras
import numpy as np
import pytest

from configs.artifacts import file_sha256, write_json
from configs.resume import is_current, take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.trained.predictions import corrupted_model_step
from eval.scoring.corruption.photos import CorruptedPhotos
from support import save_photo

SIZE = 8


@pytest.fixture
def experiment() -> Experiment:
    model = {"backbone": "efficientnet_b0", "image_size": 32, "epochs": 1}
    return Experiment.model_validate(
        {"data": {"source": "digits"}, "teacher": model, "student": model}
    )


def write_model(run: RunDir, name: str, bias: float) -> None:
    """The largest mean of red, green and blue, blue being favoured by `bias`."""
    inputs = keras.Input((SIZE, SIZE, 3))
    mean = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(mean))
    model.layers[-1].set_weights([np.eye(3), np.array([0, 0, bias])])
    path = run.model(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    outputs = {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}}
    write_json(path.with_name("manifest.json"), {"outputs": outputs})


def test_a_model_is_asked_about_the_views_that_files_see(
    tmp_path: Path, experiment: Experiment
) -> None:
    run = RunDir(tmp_path / "run")
    run.photos_manifest.parent.mkdir(parents=True)
    run.photos_manifest.write_text("photos")
    paths = [save_photo(tmp_path / f"{seed}.png", seed=seed) for seed in range(4)]
    photos = CorruptedPhotos(paths, np.zeros(4, int), ["blur", "noise"], 16)
    write_model(run, "student", 0.0)
    step = corrupted_model_step(run, experiment, "student", photos)
    take_step(step)
    expected = np.stack([images.mean(axis=(1, 2)) for images in photos.batches((SIZE, SIZE))])
    answers = np.load(run.corrupted_answers("student"))
    np.testing.assert_array_equal(answers, expected.argmax(axis=2).reshape(4, 2, 5))
    assert is_current(step.manifest, step.inputs)

    write_model(run, "student", 1e6)  # another model is a miss
    again = corrupted_model_step(run, experiment, "student", photos)
    assert not is_current(again.manifest, again.inputs)
    take_step(again)
    assert (np.load(run.corrupted_answers("student")) == 2).all()
