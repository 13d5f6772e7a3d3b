"""Does a teacher help a pruned student to recover, more than its labels do?

    python benchmarks/pruned_students.py --data ../shared/data/flowers --out runs/all_labels

EfficientNet-Lite2 at 128 px teaches EfficientNet-Lite0 at 64 px, both from ImageNet weights. 40 %
of the photos are for testing. `channels` leaves a quarter of the student's multiply-accumulates.
The smaller model then learns from the same photos and views in three ways: from the labels alone,
from both as in `photos_lite`, and from the teacher alone. Each seed has a teacher and a student of
its own; the teachers are those of `all_labels.py` if `--out` is the same. A killed comparison
continues where it was.
"""

import argparse
from pathlib import Path

import numpy as np
from all_labels import experiment_of, right_on_test_photos, take, teacher_of
from few_labels import gain_text

from compress.methods import METHODS
from compress.prune import method_step
from configs.artifacts import read_json
from configs.contract import TeacherFile
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.choice import Choice
from configs.schema.training import GivenTeacherConfig
from distill.data.pipelines import open_photo_store

SOFT_WEIGHTS = {"labels": 0.0, "both": 0.5, "teacher": 1.0}
"""What the pruned student learns from: the weight of the teacher's answers in the loss."""


def recover(run: RunDir, experiment: Experiment, way: str, options: argparse.Namespace) -> str:
    """Prune the student and fine-tune it; returns the name of the model."""
    given = {"keep": options.keep, "epochs": options.finetune_epochs}
    method = Choice(name="channels", options=METHODS.check("channels", given))
    student = experiment.student.model_copy(update={"soft_weight": SOFT_WEIGHTS[way]})
    changed = experiment.model_copy(update={"student": student})
    with open_photo_store(run, changed) as photos:
        take_step(
            method_step(run, changed, photos, parent="student", name=f"pruned-{way}", method=method)
        )
    return f"pruned-{way}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with a folder per class")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8, help="of the student")
    parser.add_argument("--finetune-epochs", type=int, default=10, help="of the pruned student")
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    options.data, options.out = options.data.resolve(), options.out.resolve()
    rows: dict[str, list[np.ndarray]] = {}
    for seed in options.seeds:
        run = RunDir(options.out / f"pruned-{options.epochs}-s{seed}")
        experiment = experiment_of(options.data, seed, [f"student.epochs={options.epochs}"])
        teacher = teacher_of(options.data, options.out, seed)
        file = TeacherFile(path=teacher.model("teacher"), image_size=128)
        experiment = experiment.model_copy(update={"teacher": GivenTeacherConfig(files=[file])})
        take(run, experiment, "data", "teacher", "label", "student")
        names = ["student", *(recover(run, experiment, way, options) for way in SOFT_WEIGHTS)]
        for name in names:
            right = right_on_test_photos(run, name)
            rows.setdefault(name, []).append(right)
            macs = read_json(run.model_dir(name) / "manifest.json")["num_macs"]
            print(f"seed {seed}: {name} {100 * right.mean():.1f}, {macs / 1e6:.1f} M", flush=True)
    table = {name: np.stack(right) for name, right in rows.items()}
    print("\n| model | top-1 | gain over recovery on labels alone (95 %) | of each seed |")
    print("|---|---|---|---|")
    for name, right in table.items():
        gain = "| " if name == "pruned-labels" else gain_text(right, table["pruned-labels"])
        print(f"| {name} | {100 * right.mean():.1f} % | {gain} |")


if __name__ == "__main__":
    main()
