"""The teacher step: train a teacher, or check the files that are given as one."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from configs.artifacts import digest, file_sha256, path_sha256, read_json
from configs.contract import OWN_CONTRACT, InputContract
from configs.progress import track
from configs.records import to_json
from configs.resume import Built, Step, Workspace, output_sha256
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.training import GivenTeacherConfig, TeacherConfig
from distill.data.manifest import Examples, load_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import evaluation_images, labelled_views, view_inputs
from distill.features import FeatureKind, Head, head_of, joined_answers, with_features
from distill.labels.converted import readable_file
from distill.labels.teacher_files import (
    OpenTeacher,
    Outputs,
    as_logits,
    logits_of,
    open_teacher_file,
)
from distill.losses import label_objective
from distill.model_file import ModelFacts, load_model
from distill.trackers.of_run import open_trackers
from distill.trained.teacher_check import check_teacher, warn_of_chance
from distill.training.classifier import join_training, train_classifier
from distill.training.settings import class_weights, training_inputs, weights_input
from distill.training.strategies.lesson import EVALUATION_BATCH, TrainingJob
from eval.contract.foreign_metadata import labels_beside
from eval.footprint import model_sha256
from eval.rows import Rows
from eval.scoring.probabilities import log_softmax, output_kind


@dataclass(frozen=True)
class Teacher:
    """A model that labels views.

    Attributes:
        image_size: height and width of its input, in pixels.
        logits: float32 images (batch, size, size, 3) of 0..255 -> float32 (batch, classes +
            num_features); the features for a feature loss follow the logits.
        contract: how whole photos are fitted to it.
    """

    image_size: int
    logits: Callable[[np.ndarray], np.ndarray]
    contract: InputContract = OWN_CONTRACT
    num_features: int = 0


@dataclass(frozen=True, kw_only=True)
class GivenTeacherFacts:
    """What the manifest of a teacher given as files says, besides `ModelFacts`.

    Attributes:
        output_kinds: of each file, "logits" or "probabilities".
        digest: of the files and of how the config says to read them.
    """

    seconds_to_train: float | None = None
    val_top1: float
    output_kinds: list[str]
    digest: str


def keras_teacher(model: keras.Model, features: FeatureKind | None = None) -> Teacher:
    """A Keras model that returns logits, as a teacher; `features` may follow them."""
    num_features = 0
    if features is not None:
        model, num_features = with_features(model, features, "the teacher")
    return Teacher(model.input_shape[1], joined_answers(model), num_features=num_features)


def teacher_step(run: RunDir, experiment: Experiment, photos: PhotoStore) -> Step:
    """Fine-tune a teacher on the labels, or check the files that are given as one."""
    if isinstance(experiment.teacher, GivenTeacherConfig):
        return _given_step(run, experiment.teacher)
    return _trained_step(run, experiment, photos, experiment.teacher)


def _trained_step(
    run: RunDir, experiment: Experiment, photos: PhotoStore, config: TeacherConfig
) -> Step:
    """Fine-tune the teacher on labels, with a new view of each photo in every epoch."""
    # Teachers of runs before there was this key are not trained again.
    unset = {"labels"} if config.labels == "shown" else set()
    inputs = {
        **view_inputs(run, experiment),
        "teacher": training_inputs(config, exclude=unset),
        **weights_input(config),
    }

    def job() -> TrainingJob:
        views = labelled_views(run, experiment, photos, config.epochs, config.labels)
        weights = class_weights(views.examples, config)
        return TrainingJob(
            name="teacher",
            config=config,
            views=replace(views, balanced=config.sampling == "balanced"),
            objective=label_objective(config.label_smoothing, weights),
            seed=experiment.seed,
            devices=experiment.distribution.devices,
        )

    def build(workspace: Workspace) -> Built:
        teaching = job()
        with open_trackers(run, experiment) as trackers:
            paths, facts = train_classifier(run, teaching, workspace, trackers)
        model = load_model(run.model("teacher"))
        check = check_teacher(model, teaching.views.examples, load_examples(run, "validation"))
        return paths, {**facts, **to_json(check)}

    def join(workspace: Workspace) -> None:
        join_training(run, job(), workspace)

    return Step("teacher", _manifest(run), inputs, build, join)


def _given_step(run: RunDir, config: GivenTeacherConfig) -> Step:
    """Check that the files answer about these photos, and score them on the validation split."""
    digests = _digests(run, config)

    def build(workspace: Workspace) -> Built:
        validation = load_examples(run, "validation")
        opened = _open_files(run, config)
        outputs = [
            _on_photos(
                validation, file.image_size, teacher.outputs, file.path.name, teacher.contract
            )
            for file, teacher in zip(config.files, opened, strict=True)
        ]
        kinds = [
            teacher.contract.answers or output_kind(file_outputs)
            for teacher, file_outputs in zip(opened, outputs, strict=True)
        ]
        logits = mean_log_probabilities(list(map(as_logits, outputs, kinds)))
        num_right = int((logits.argmax(axis=1) == validation.labels).sum())
        warn_of_chance(num_right, validation)
        model = ModelFacts(
            backbone=" + ".join(file.path.name for file in config.files),
            input_shape=(config.image_size, config.image_size, 3),
            num_parameters=None,
            num_macs=None,
        )
        facts = GivenTeacherFacts(
            val_top1=num_right / len(validation),
            output_kinds=list(map(str, kinds)),
            digest=digest([digests, config.model_dump(mode="json")]),
        )
        return [], {**to_json(model), **to_json(facts)}

    inputs: dict[str, object] = {
        "manifest": file_sha256(run.photos_manifest),
        "teacher": config.model_dump(mode="json"),
        "files": digests,
    }
    beside = [labels_beside(file.path, None).labels for file in config.files]
    if any(beside):
        inputs["labels"] = beside
    return Step("teacher", _manifest(run), inputs, build)


def _digests(run: RunDir, config: GivenTeacherConfig) -> list[str | None]:
    """The digest of each file.

    A run may have been copied to a machine without these files. Then the digests in its manifest
    count.
    """
    if not any(file.path.exists() for file in config.files) and _manifest(run).exists():
        inputs = read_json(_manifest(run))["inputs"]
        if inputs.get("teacher") == config.model_dump(mode="json"):
            return list(inputs["files"])
    return [_digest(file.path) if file.path.exists() else None for file in config.files]


def _digest(path: Path) -> str:
    return path_sha256(path) if path.is_dir() else model_sha256(path)


def teacher_digest(run: RunDir) -> str:
    """A digest of the finished teacher of a run: of its weights, or of its files."""
    manifest = read_json(_manifest(run))
    return str(manifest.get("digest") or output_sha256(_manifest(run), "model.keras"))


def load_teachers(
    run: RunDir, experiment: Experiment, features: FeatureKind | None = None
) -> list[Teacher]:
    """The finished teacher of a run: one model, or one for each file that is given.

    Args:
        features: also return these features.

    Raises:
        UserError: the teacher has no such features, or a file cannot be used.
    """
    config = experiment.teacher
    if isinstance(config, TeacherConfig):
        return [keras_teacher(load_model(run.model("teacher")), features)]
    kinds = read_json(_manifest(run))["output_kinds"]
    opened = _open_files(run, config, features)
    return [
        Teacher(file.image_size, logits_of(teacher, kind), teacher.contract, teacher.num_features)
        for file, teacher, kind in zip(config.files, opened, kinds, strict=True)
    ]


def teacher_head(run: RunDir, experiment: Experiment) -> Head:
    """The classifier of the finished teacher of a run, on its pooled features.

    Raises:
        UserError: the teacher has no such classifier.
    """
    if isinstance(experiment.teacher, TeacherConfig):
        return head_of(load_model(run.model("teacher")), "the teacher")
    (opened,) = _open_files(run, experiment.teacher, "pooled")
    assert opened.head, "a file with pooled features has a head"
    return opened.head


def _open_files(
    run: RunDir, config: GivenTeacherConfig, features: FeatureKind | None = None
) -> list[OpenTeacher]:
    """The files of a teacher; those that Keras 3 cannot read are converted first."""
    classes = read_json(run.photos_manifest.with_suffix(".json"))["classes"]
    folder = run.model_dir("teacher") / "converted"
    return [
        open_teacher_file(readable_file(file, sha256, folder), classes, features)
        for file, sha256 in zip(config.files, _digests(run, config), strict=True)
    ]


def evaluation_logits(teachers: list[Teacher], examples: Examples) -> np.ndarray:
    """Logits of all teachers together for the evaluation views, float32 (examples, classes)."""
    return mean_log_probabilities(
        [
            _on_photos(examples, teacher.image_size, teacher.logits, "teacher", teacher.contract)
            for teacher in teachers
        ]
    )


def mean_log_probabilities(logits: list[np.ndarray]) -> np.ndarray:
    """The logits of several teachers together; the logits of a single one do not change.

    Several are combined by the geometric mean of their distributions (Hinton et al. 2015, section
    1, arXiv:1503.02531). Unlike the arithmetic mean, it keeps the meaning of a temperature.

    Args:
        logits: one array for each teacher, (batch, classes).
    """
    if len(logits) == 1:
        return logits[0]
    return np.asarray(np.mean([log_softmax(array) for array in logits], axis=0))


def _on_photos(
    examples: Examples, image_size: int, answers: Outputs, name: str, contract: InputContract
) -> np.ndarray:
    # Grey is made of the colours by `answers`, because views have three channels.
    in_colours = contract.changed("views", channels="rgb")
    size = (image_size, image_size)
    batches = evaluation_images(examples, size, EVALUATION_BATCH, in_colours)
    outputs = Rows()
    with track(f"{name}: accuracy", len(examples)) as advance:
        for images, _ in batches:
            outputs.append(answers(images))
            advance(len(outputs))
    return outputs.array()


def _manifest(run: RunDir) -> Path:
    return run.model_dir("teacher") / "manifest.json"
