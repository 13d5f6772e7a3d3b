"""What a model says of the validation and test photos, kept for the report."""

from pathlib import Path

import keras
import numpy as np

from configs.artifacts import file_sha256, whole_file
from configs.progress import track
from configs.resume import Built, Step, Workspace, output_sha256
from configs.run_dir import RunDir
from configs.schema import Experiment, GivenTeacherConfig
from distill.data.inputs import evaluation_images
from distill.data.manifest import Examples, load_examples
from distill.teacher import (
    Teacher,
    evaluation_logits,
    load_teachers,
    mean_log_probabilities,
    teacher_digest,
)
from distill.training.classifier import EVALUATION_BATCH, load_model
from eval.pixels import Pixels
from eval.scoring.probabilities import as_probabilities, output_kind, two_classes
from eval.scoring.robustness import CorruptedPhotos, corrupted_step, save_answers


def model_predictions_step(run: RunDir, experiment: Experiment, name: str) -> Step:
    """Probabilities of one model of the run on both splits, as `.npz` with an array for each."""
    path = run.predictions(name)
    inputs = {
        "photos": file_sha256(run.photos_manifest),
        "model": _model_digest(run, experiment, name),
    }

    def build(workspace: Workspace) -> Built:
        splits = {s: load_examples(run, s) for s in ("validation", "test")}
        if _is_given(experiment, name):
            teachers = load_teachers(run, experiment)
            logits = {s: evaluation_logits(teachers, some) for s, some in splits.items()}
            save_predictions(path, {s: as_probabilities(some) for s, some in logits.items()})
            return [path], {}
        model = load_model(run.model(name))
        probs = {s: model_probabilities(model, some, name=name) for s, some in splits.items()}
        save_predictions(path, probs)
        return [path], {}

    return Step(f"predictions of {name}", path.with_suffix(".json"), inputs, build)


def corrupted_model_step(
    run: RunDir, experiment: Experiment, name: str, photos: CorruptedPhotos
) -> Step:
    """What one model of the run answers about the corrupted photos."""

    def build(workspace: Workspace) -> Built:
        models = load_teachers(run, experiment) if name == "teacher" else [_labeller(run, name)]
        logits = [_logits_of_corrupted(model, photos, name) for model in models]
        answers = photos.answers(mean_log_probabilities(logits))
        return [save_answers(run, name, answers)], {}

    digest = _model_digest(run, experiment, name)
    return corrupted_step(run, name, photos, model=digest, build=build)


def _labeller(run: RunDir, name: str) -> Teacher:
    model = load_model(run.model(name))
    return Teacher(model.input_shape[1], lambda images: np.asarray(model.predict_on_batch(images)))


def _logits_of_corrupted(model: Teacher, photos: CorruptedPhotos, name: str) -> np.ndarray:
    outputs: list[np.ndarray] = []
    with track(f"{name}: corrupted", len(photos)) as advance:
        for images in photos.batches((model.image_size, model.image_size)):
            outputs.append(model.logits(images.astype("float32")))
            advance(sum(map(len, outputs)))
    return np.concatenate(outputs)


def _is_given(experiment: Experiment, name: str) -> bool:
    return name == "teacher" and isinstance(experiment.teacher, GivenTeacherConfig)


def _model_digest(run: RunDir, experiment: Experiment, name: str) -> str:
    if _is_given(experiment, name):
        return teacher_digest(run)
    return output_sha256(run.model_dir(name) / "manifest.json", "model.keras")


def save_predictions(path: Path, probs: dict[str, np.ndarray]) -> None:
    """Write probabilities by split, whole or not at all."""
    with whole_file(path) as unfinished:
        np.savez(unfinished, **probs)  # type: ignore[arg-type]


def model_probabilities(
    model: keras.Model, examples: Examples, *, name: str, pixels: Pixels | None = None
) -> np.ndarray:
    """Probabilities of a Keras model (of logits or probabilities), float32 (examples, classes).

    Args:
        pixels: what a foreign model expects of its input; ours take 0..255 as it is.
    """
    height, width = model.input_shape[1:3]
    batches = evaluation_images(examples, (height, width), EVALUATION_BATCH)
    outputs = []
    with track(f"{name}: accuracy", len(examples)) as advance:
        for images, _ in batches:
            seen = images if pixels is None else pixels.apply(images)
            outputs.append(np.asarray(model.predict_on_batch(seen)))
            advance(sum(map(len, outputs)))
    answers = np.concatenate(outputs)
    return as_probabilities(two_classes(answers, output_kind(answers)))
