"""Does a teacher help where all photos have labels? Students and controls of several recipes.

    python benchmarks/all_labels.py --data ../shared/data/flowers --out runs/all_labels \\
        --network b0_scratch --epochs 60 --students mild mixup --controls mild mixup
    python benchmarks/all_labels.py --data ../shared/data/flowers --out runs/all_labels \\
        --network lite0 --epochs 30 --students views_1 views_2 views_4 views_10 --controls mild

EfficientNet-Lite2 at 128 px, from ImageNet weights, learns all labels once for each seed. It
teaches the students of all recipes at 64 px. 40 % of the photos are for testing. Gains are over the
best control of the table, whatever its recipe, because harsh views make any control weak. They come
with 95 % intervals over test photos and seeds. Each model is trained once; a killed comparison
continues where it was.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from few_labels import gain_text

from compress.config_choices import REGISTRIES
from compress.run.pipeline import STEPS, Context
from configs.artifacts import whole_file
from configs.contract import TeacherFile
from configs.loading.experiment import load_experiment
from configs.resume import Step, take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.training import GivenTeacherConfig
from distill.data.manifest import load_examples
from distill.data.pipelines import open_photo_store
from distill.model_file import load_model
from distill.student import control_step, student_step
from distill.trained.answers import model_probabilities

CONFIG = Path(__file__).parents[1] / "configs" / "photos_lite.yaml"
NETWORKS = {
    "b0_scratch": [
        "student.backbone.name=efficientnet_b0", "student.backbone.weights=null",
        "student.learning_rate=2e-3",
    ],
    "b0_lite": ["student.backbone.name=efficientnet_b0", "student.backbone.weights=lite"],
    "lite0": [],
}  # fmt: skip
"""Students, as overrides of the config."""
HARSH = ["views.crop=[0.35,1.0]", "views.mixup=0.4", "soft_labels.num_views=10"]
RECIPES = {
    "mild": ["student.soft_weight=0.5"],
    "mild_soft_0.9": ["student.soft_weight=0.9"],
    "mild_soft_1": ["student.soft_weight=1.0"],
    "mild_views_10": ["student.soft_weight=0.9", "soft_labels.num_views=10"],
    "mixup": [*HARSH, "student.soft_weight=0.9"],
    "mixup_soft_1": [*HARSH, "student.soft_weight=1.0"],
    "mixup_temperature_1": [
        *HARSH, "student.soft_weight=1.0", "student.loss={name: kd, temperature: 1.0}",
    ],
    "mixup_mild_crop": [
        "views.mixup=0.4", "soft_labels.num_views=10", "student.soft_weight=1.0",
    ],
    **{f"views_{count}": [f"soft_labels.num_views={count}"] for count in (1, 2, 4, 10)},
}  # fmt: skip
"""Ways to learn, as overrides of the config. A control learns with the same views."""


def experiment_of(data: Path, seed: int, overrides: Sequence[str]) -> Experiment:
    """The experiment of one seed."""
    common = [
        f"data.path={data}", "data.test=0.4", "teacher.image_size=128", "student.image_size=64",
        f"seed={seed}",
    ]  # fmt: skip
    return load_experiment(CONFIG, REGISTRIES, [*common, *overrides])


def take(run: RunDir, experiment: Experiment, *names: str) -> None:
    """Take steps of a run, those that are up to date apart."""
    last = {"student": student_step, "control": control_step}
    with open_photo_store(run, experiment) as photos:
        context = Context(run, experiment, photos)
        for name in names:
            steps: Sequence[Step] = (
                [last[name](run, experiment, photos)] if name in last else [*STEPS[name](context)]
            )
            for step in steps:
                take_step(step)


def right_on_test_photos(run: RunDir, model: str) -> np.ndarray:
    """Float (photos,): 1 where a model of a run is right."""
    path = run.path / "right" / f"{model}.npy"
    if not path.exists():
        test = load_examples(run, "test")
        probs = model_probabilities(load_model(run.model(model)), {"test": test}, name=model)
        right = (probs["test"].argmax(axis=1) == test.labels).astype("float64")
        with whole_file(path) as unfinished, open(unfinished, "wb") as file:
            np.save(file, right)
    return np.asarray(np.load(path))


def teacher_of(data: Path, out: Path, seed: int) -> RunDir:
    """The run of a trained teacher."""
    run = RunDir(out / f"teacher-s{seed}")
    if not run.model("teacher").exists():
        take(run, experiment_of(data, seed, []), "data", "teacher")
    return run


def answers(
    model: str, recipe: str, seed: int, teacher: RunDir, options: argparse.Namespace
) -> np.ndarray:
    """Where the student or control of a recipe is right; it is trained if need be."""
    name = f"{options.network}-{options.epochs}-{recipe}-s{seed}"
    run = RunDir(options.out / name)
    if not (run.path / "right" / f"{model}.npy").exists():
        overrides = [f"student.epochs={options.epochs}", *RECIPES[recipe]]
        experiment = experiment_of(options.data, seed, [*NETWORKS[options.network], *overrides])
        file = TeacherFile(path=teacher.model("teacher"), image_size=128)
        given = {"teacher": GivenTeacherConfig(files=[file])}
        steps = (
            ("data", "teacher", "label", "student") if model == "student" else ("data", "control")
        )
        take(run, experiment.model_copy(update=given), *steps)
    return right_on_test_photos(run, model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder per class")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", choices=NETWORKS, default="b0_scratch")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--students", nargs="*", choices=RECIPES, default=["mild"])
    parser.add_argument("--controls", nargs="+", choices=RECIPES, default=["mild"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    options.data, options.out = options.data.resolve(), options.out.resolve()
    rows: dict[tuple[str, str], list[np.ndarray]] = {}
    teachers = []
    for seed in options.seeds:
        teacher = teacher_of(options.data, options.out, seed)
        teachers.append(right_on_test_photos(teacher, "teacher").mean())
        print(f"seed {seed}: teacher {100 * teachers[-1]:.1f}", flush=True)
        for model, recipes in (("control", options.controls), ("student", options.students)):
            for recipe in recipes:
                right = answers(model, recipe, seed, teacher, options)
                rows.setdefault((model, recipe), []).append(right)
                print(f"seed {seed}: {model} {recipe} {100 * right.mean():.1f}", flush=True)
    table = {key: np.stack(right) for key, right in rows.items()}
    best = max((key for key in table if key[0] == "control"), key=lambda key: table[key].mean())
    print(f"\nteacher {100 * np.mean(teachers):.1f} %; best control: {best[1]}\n")
    print("| model | recipe | top-1 | gain over the best control (95 %) | of each seed |")
    print("|---|---|---|---|---|")
    for (model, recipe), right in table.items():
        gain = "| " if (model, recipe) == best else gain_text(right, table[best])
        print(f"| {model} | {recipe} | {100 * right.mean():.1f} % | {gain} |")


if __name__ == "__main__":
    main()
