"""Answers of the models about the validation and test photos, for the report."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from configs.artifacts import file_sha256, whole_file
from configs.progress import track
from configs.remote.cluster import Cluster
from configs.remote.parts import kept_rows
from configs.resume import Built, Step, Workspace, output_sha256
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.training import GivenTeacherConfig
from distill.data.manifest import Examples, load_examples
from distill.frozen import answers_of
from distill.model_file import load_model
from distill.teacher import (
    Teacher,
    evaluation_logits,
    keras_teacher,
    load_teachers,
    mean_log_probabilities,
    teacher_digest,
)
from distill.trained.answers import photo_outputs
from distill.trained.temperature import fold_temperature, temperature_input, temperature_of
from eval.scoring.corruption.photos import CorruptedPhotos, corrupted_step, save_answers
from eval.scoring.probabilities import as_probabilities


def model_predictions_step(
    run: RunDir, experiment: Experiment, name: str, cluster: Cluster | None = None
) -> Step:
    """Save the probabilities of one model on both splits, as `.npz` with one array for each.

    They are those of its files: with the temperature that is folded into them.

    Args:
        cluster: shares the photos among its workers; None for this process.
    """
    path = run.predictions(name)
    inputs = {
        "photos": file_sha256(run.photos_manifest),
        "model": _model_digest(run, experiment, name),
        **temperature_input(run, experiment, name),
    }

    def build(workspace: Workspace) -> Built:
        task = ModelAnswers(RunDir(run.path.absolute()), experiment, name)
        probs = {}
        for split in ("validation", "test"):
            num_photos = len(load_examples(run, split))
            if cluster is None:
                outputs = task((split, range(num_photos)))
            else:
                outputs = kept_rows(
                    cluster, workspace, task, split=split, num_rows=num_photos, name=name
                )
            # All rows together decide what the answers are.
            probs[split] = as_probabilities(outputs)
        save_predictions(path, probs)
        return [path], {}

    return Step(f"predictions of {name}", path.with_suffix(".json"), inputs, build)


@dataclass(frozen=True)
class ModelAnswers:
    """What a model of a run answers about some photos of a split; a task of a cluster."""

    run: RunDir
    experiment: Experiment
    name: str

    def __call__(self, part: tuple[str, range]) -> np.ndarray:
        """Float32 (rows, outputs)."""
        split, rows = part
        return self._answers(self._splits[split].part(rows))

    @cached_property
    def _splits(self) -> dict[str, Examples]:
        return {split: load_examples(self.run, split) for split in ("validation", "test")}

    @cached_property
    def _answers(self) -> Callable[[Examples], np.ndarray]:
        if _is_given(self.experiment, self.name):
            teachers = load_teachers(self.run, self.experiment)
            return partial(evaluation_logits, teachers)
        model = load_model(self.run.model(self.name))
        fold_temperature(model, temperature_of(self.run, self.experiment, self.name))
        size, answers = model.input_shape[1:3], answers_of(model)
        return lambda photos: photo_outputs(answers, photos, size, name=self.name)


def corrupted_model_step(
    run: RunDir, experiment: Experiment, name: str, photos: CorruptedPhotos
) -> Step:
    """Save the answers of one model about the corrupted photos."""

    def build(workspace: Workspace) -> Built:
        if name == "teacher":
            models = load_teachers(run, experiment)
        else:
            models = [keras_teacher(load_model(run.model(name)))]
        logits = [_logits_of_corrupted(model, photos, name) for model in models]
        answers = photos.answers(mean_log_probabilities(logits))
        return [save_answers(run, name, answers)], {}

    digest = _model_digest(run, experiment, name)
    return corrupted_step(run, name, photos, model=digest, build=build)


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
    """Write the probabilities of each split, whole or not at all."""
    with whole_file(path) as unfinished:
        np.savez(unfinished, **probs)  # type: ignore[arg-type]
