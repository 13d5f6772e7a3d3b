"""The first step with a model: the teacher, trained here or given as files."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.artifacts import digest, file_sha256, read_json
from configs.progress import track
from configs.resume import Built, Step, Workspace, output_sha256
from configs.run_dir import RunDir
from configs.schema import Experiment, GivenTeacherConfig, TeacherConfig
from distill.data.inputs import evaluation_images
from distill.data.manifest import Examples, load_examples
from distill.data.run_views import labelled_views, view_inputs
from distill.labels.teacher_files import (
    Answers,
    as_logits,
    open_teacher_file,
    path_sha256,
)
from distill.losses import label_objective
from distill.training.classifier import (
    EVALUATION_BATCH,
    Course,
    class_weights,
    load_model,
    train_classifier,
    weights_input,
)
from eval.scoring.intervals import wilson_interval
from eval.scoring.probabilities import log_softmax, output_kind

log = logging.getLogger("potstill")


@dataclass(frozen=True)
class Teacher:
    """A model that labels views.

    Attributes:
        image_size: height and width of its input, in pixels.
        logits: float32 images (batch, size, size, 3) of 0..255 -> float32 (batch, classes).
    """

    image_size: int
    logits: Callable[[np.ndarray], np.ndarray]


def teacher_step(run: RunDir, experiment: Experiment) -> Step:
    """Have a teacher: fine-tune one on labels, or look at the files that are given."""
    if isinstance(experiment.teacher, GivenTeacherConfig):
        return _given_step(run, experiment.teacher)
    return _trained_step(run, experiment, experiment.teacher)


def _trained_step(run: RunDir, experiment: Experiment, config: TeacherConfig) -> Step:
    """Fine-tune the teacher on labels; a new view in every epoch."""
    inputs = {
        **view_inputs(run, experiment),
        "teacher": config.model_dump(mode="json"),
        **weights_input(config),
    }
    return Step(
        name="teacher",
        manifest=_manifest(run),
        inputs=inputs,
        build=lambda workspace: train_classifier(
            run,
            Course(
                name="teacher",
                config=config,
                source=labelled_views(run, experiment, num_views=config.epochs),
                objective=label_objective(config.label_smoothing, class_weights(run, config)),
                seed=experiment.seed,
            ),
            workspace,
        ),
    )


def _given_step(run: RunDir, config: GivenTeacherConfig) -> Step:
    """Check that the files answer for these photos, and how often they are right."""
    digests = _digests(run, config)

    def build(workspace: Workspace) -> Built:
        validation = load_examples(run, "validation")
        given = [open_teacher_file(file, validation.classes) for file in config.files]
        raw = [
            _on_photos(validation, file.image_size, answers, file.path.name)
            for file, answers in zip(config.files, given, strict=True)
        ]
        kinds = [output_kind(outputs) for outputs in raw]
        logits = mean_log_probabilities(list(map(as_logits, raw, kinds)))
        num_right = int((logits.argmax(axis=1) == validation.labels).sum())
        if wilson_interval(num_right, len(validation))[0] <= 1 / len(validation.classes):
            log.warning(
                "the teacher is right on %d of %d validation photos, which may be chance. Are its "
                "classes %s, in this order, and its pixels as given?",
                num_right,
                len(validation),
                ", ".join(validation.classes[:20]),
            )
        return [], {
            "backbone": " + ".join(file.path.name for file in config.files),
            "input_shape": [config.image_size, config.image_size, 3],
            "num_parameters": None,
            "num_macs": None,
            "seconds_to_train": None,
            "val_top1": num_right / len(validation),
            "output_kinds": kinds,
            "digest": digest([digests, config.model_dump(mode="json")]),
        }

    inputs = {
        "manifest": file_sha256(run.photos_manifest),
        "teacher": config.model_dump(mode="json"),
        "files": digests,
    }
    return Step("teacher", _manifest(run), inputs, build)


def _digests(run: RunDir, config: GivenTeacherConfig) -> list[str | None]:
    """Of each file; those on record for a run that was copied to where the files are not."""
    if not any(file.path.exists() for file in config.files) and _manifest(run).exists():
        inputs = read_json(_manifest(run))["inputs"]
        if inputs.get("teacher") == config.model_dump(mode="json"):
            return list(inputs["files"])
    return [path_sha256(file.path) if file.path.exists() else None for file in config.files]


def teacher_digest(run: RunDir) -> str:
    """What names the finished teacher of a run: its weights, or its files and their inputs."""
    manifest = read_json(_manifest(run))
    return str(manifest.get("digest") or output_sha256(_manifest(run), "model.keras"))


def load_teachers(run: RunDir, experiment: Experiment) -> list[Teacher]:
    """The finished teacher, ready to label: one model, or one for each file that is given."""
    config = experiment.teacher
    if isinstance(config, TeacherConfig):
        model = load_model(run.model("teacher"))
        return [Teacher(config.image_size, lambda i: np.asarray(model.predict_on_batch(i)))]
    classes = read_json(run.photos_manifest.with_suffix(".json"))["classes"]
    kinds = read_json(_manifest(run))["output_kinds"]
    opened = [open_teacher_file(file, classes) for file in config.files]
    return [
        Teacher(file.image_size, _logits(answers, kind))
        for file, answers, kind in zip(config.files, opened, kinds, strict=True)
    ]


def evaluation_logits(teachers: list[Teacher], examples: Examples) -> np.ndarray:
    """What the teachers say together of the evaluation views, float32 (examples, classes)."""
    return mean_log_probabilities(
        [_on_photos(examples, t.image_size, t.logits, "teacher") for t in teachers]
    )


def mean_log_probabilities(logits: list[np.ndarray]) -> np.ndarray:
    """The logits of several teachers together; those of one as they are.

    The geometric mean of their distributions (Hinton et al. 2015, section 1, arXiv:1503.02531):
    unlike the arithmetic one it leaves every temperature its meaning.

    Args:
        logits: of each teacher, (batch, classes).
    """
    if len(logits) == 1:
        return logits[0]
    return np.asarray(np.mean([log_softmax(some) for some in logits], axis=0))


def _logits(answers: Answers, kind: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda images: as_logits(answers(images), kind)


def _on_photos(examples: Examples, image_size: int, answers: Answers, name: str) -> np.ndarray:
    batches = evaluation_images(examples, (image_size, image_size), EVALUATION_BATCH)
    outputs: list[np.ndarray] = []
    with track(f"{name}: accuracy", len(examples)) as advance:
        for images, _ in batches:
            outputs.append(answers(images))
            advance(sum(map(len, outputs)))
    return np.concatenate(outputs)


def _manifest(run: RunDir) -> Path:
    return run.model_dir("teacher") / "manifest.json"
