"""Build, train and save one classifier: the course that teacher, student and control share."""

import csv
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from configs.artifacts import file_sha256, whole_file
from configs.errors import UserError
from configs.resume import Built, Workspace
from configs.run_dir import RunDir
from configs.schema import TrainingConfig
from distill.backbones import BACKBONES
from distill.backbones.macs import count_macs
from distill.data.inputs import (
    ViewSource,
    evaluation_images,
    steps_per_epoch,
    training_batches,
)
from distill.data.manifest import Examples, load_examples
from distill.labels.label_file import Reader
from distill.losses import Objective, balanced_class_weights
from distill.training.epochs import Schedule
from distill.training.fit import fit
from distill.training.strategies import (
    STRATEGIES,
    Plan,
    apply_plan,
    fit_head,
)

EVALUATION_BATCH = 32
CHECKPOINT = "epoch.npz"
"""What a training keeps its state as, in the workspace of its step."""


@dataclass(frozen=True)
class Course:
    """Everything by which one classifier is trained.

    Attributes:
        name: teacher, student or control.
        soft_labels: gives the teacher's logits of some views, or None.
    """

    name: str
    config: TrainingConfig
    source: ViewSource
    objective: Objective
    seed: int
    soft_labels: Reader | None = None


def train_classifier(run: RunDir, course: Course, workspace: Workspace) -> Built:
    """Train and write `<name>/model.keras` and `<name>/history.csv`.

    Returns:
        The files, and what the manifest says of the model.
    """
    start = time.monotonic()
    config, examples = course.config, course.source.examples
    keras.utils.set_random_seed(course.seed)
    model = build_backbone(config, len(examples.classes))
    size = (config.image_size, config.image_size)
    plan = make_plan(config)
    apply_plan(model, plan)

    def prepare() -> None:
        if plan.head_first:
            # A student also learns from photos without labels, which cannot fit the head.
            labelled = load_examples(run, "train")
            fit_head(
                model,
                evaluation_images(labelled, size, EVALUATION_BATCH),
                num_examples=len(labelled),
                seed=course.seed,
            )

    validation = load_examples(run, "validation")
    history = fit(
        model,
        train=lambda epoch, step: training_batches(
            course.source,
            image_size=config.image_size,
            batch_size=config.batch_size,
            seed=course.seed,
            initial_epoch=epoch,
            initial_step=step,
            epochs=config.epochs,
            soft_labels=course.soft_labels,
        ),
        validation=lambda: evaluation_images(validation, size, EVALUATION_BATCH),
        objective=course.objective,
        schedule=make_schedule(config, plan, examples),
        checkpoint=workspace.file(CHECKPOINT),
        name=course.name,
        prepare=prepare,
    )
    seconds = max(sum(row["seconds"] for row in history), time.monotonic() - start)
    # With patience the best weights came back, without it the last stayed.
    kept = min(history, key=lambda row: row["val_loss"]) if config.patience else history[-1]
    return save_model(run, course.name, model, history), {
        **describe(model, config.backbone.name, config.image_size),
        "seconds_to_train": round(seconds, 1),
        "epochs": len(history),
        "val_top1": kept["val_accuracy"],
    }


def build_backbone(config: TrainingConfig, num_classes: int) -> keras.Model:
    """The backbone of a config, with its weights."""
    build = BACKBONES[config.backbone.name]
    options = config.backbone.options
    return build(image_size=config.image_size, num_classes=num_classes, **options)


def class_weights(run: RunDir, config: TrainingConfig) -> tuple[float, ...] | None:
    """What an example of each class counts in the training of a model."""
    if config.class_weights is None:
        return None
    examples = load_examples(run, "train")
    return balanced_class_weights(examples.labels, len(examples.classes))


def weights_input(config: TrainingConfig) -> dict[str, str]:
    """The digest of the file that a backbone's weights come from, where they come from one."""
    weights = config.backbone.options.get("weights") or ""
    path = Path(weights).expanduser()
    is_file = path.suffix in (".keras", ".h5") and path.is_file()
    return {"weights": file_sha256(path)} if is_file else {}


def make_plan(config: TrainingConfig) -> Plan:
    """What the config's strategy decides for its backbone and weights."""
    weights = config.backbone.options.get("weights")
    moved = weights == "lite"
    strategy = STRATEGIES[config.strategy.name]
    return strategy(weights=weights, moved=moved, **config.strategy.options)


def make_schedule(config: TrainingConfig, plan: Plan, examples: Examples) -> Schedule:
    """The config's epochs and rates as `fit` takes them."""
    auto = config.learning_rate == "auto"
    return Schedule(
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch(len(examples), config.batch_size),
        learning_rate=plan.learning_rate if auto else float(config.learning_rate),
        weight_decay=config.weight_decay,
        patience=config.patience,
        ema_momentum=config.ema_momentum,
    )


def describe(model: keras.Model, backbone: str, image_size: int) -> dict[str, Any]:
    """What `report.json` says of a model's build."""
    return {
        "backbone": backbone,
        "input_shape": [image_size, image_size, 3],
        "num_parameters": int(model.count_params()),
        "num_macs": count_macs(model),
    }


def save_model(
    run: RunDir, name: str, model: keras.Model, history: list[dict[str, Any]]
) -> list[Path]:
    """Write the model and its history; returns their paths."""
    path = run.model(name)
    with whole_file(path) as unfinished:
        # A fresh Model over the same layers: without optimizer and objective, which no
        # other process could load.
        keras.Model(model.inputs, model.outputs).save(unfinished)
    columns = list(dict.fromkeys(key for row in history for key in row))
    history_csv = path.with_name("history.csv")
    with whole_file(history_csv) as unfinished, open(unfinished, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)
    return [path, history_csv]


def load_model(path: Path) -> keras.Model:
    """A Keras model from a file, with errors a user can act on.

    Raises:
        UserError: the file is missing or is no Keras model that loads here.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist. Expected a .keras file.")
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path} is not a Keras model that can be loaded here: {reason}\n"
            "Expected a whole .keras file, saved by Keras 3 with model.save(). A file of this run "
            "that is damaged is made again with --force STEP."
        ) from None
