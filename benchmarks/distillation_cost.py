"""The time of a training update with and without a teacher, all ways in turns in one process.

    python benchmarks/distillation_cost.py --json
    python benchmarks/distillation_cost.py --teacher-size 380 --student-size 224 --batch-size 8 \\
        --steps 4 --json

- plain: labels alone, with our views.
- cached: the same views under `kd`, with soft labels from disk.
- live: the same, but the teacher labels its view of every batch before the update.
- keras_distiller: `keras.distillation.Distiller`. If the sizes differ, its student resizes.
- keras_plain: `image_dataset_from_directory`, Keras augmentation layers and `fit`.
- torch_plain, torch_live (with --torch, if PyTorch and torchvision are installed): the loop that
  one would write in PyTorch, with labels alone and with the teacher before every update.

The first round traces graphs and does not count. The clock runs from the end of the first update of
a round to the end of its last, so starting a pipeline costs nothing. `limit` is (teacher forward +
student update) / student update on batches in memory. Skipping the teacher cannot save more.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from configs.schema.views import ViewsConfig
from distill.backbones import BACKBONES
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import ViewSource
from distill.data.scan import scan_folder
from distill.labels.label_file import (
    ROWS_PER_CHUNK,
    LabelFormat,
    label_reader,
    write_label_file,
)
from distill.losses import distillation_objective, label_objective
from distill.training.batches import training_batches
from distill.training.epochs import Schedule
from distill.training.fit import compile_model

NUM_VIEWS = 4
CHUNK = ROWS_PER_CHUNK * NUM_VIEWS
CROP = (0.5, 1.0)


class UpdateClock(keras.callbacks.Callback):
    """Records when each update of a fit ended."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.ends.append(time.perf_counter())


def seconds_per_update(ends: list[float]) -> float:
    """From the times at which the updates of a round ended."""
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def photo_folder(folder: Path, num_photos: int = 256) -> Path:
    """JPEG files of smooth noise, 256 px, in two classes."""
    rng = np.random.default_rng(0)
    for number in range(num_photos):
        path = folder / f"class_{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((256, 256), Image.Resampling.BILINEAR).save(path)
    return folder


class Ways:
    """The ways to train: each method trains for one round and returns its seconds per update."""

    def __init__(self, options: argparse.Namespace, folder: Path, labels: Path) -> None:
        self.options, self.folder, self.round = options, folder, 0
        examples = scan_folder(folder)["train"]
        self.num_classes = len(examples.classes)
        self.steps = min(options.steps + 1, len(examples) // options.batch_size)
        largest = max(options.teacher_size, options.student_size)
        views = ViewsConfig(crop=CROP)
        self.source = ViewSource(examples, PhotoStore(largest), views, NUM_VIEWS, seed=1)
        label_format = LabelFormat(self.num_classes)
        # The values of the logits do not change the cost of reading and matching them.
        logits = np.random.default_rng(0).standard_normal(
            (len(examples) * NUM_VIEWS, self.num_classes), "float32"
        )
        write_label_file(
            labels,
            label_format,
            rows=range(len(examples)),
            num_views=NUM_VIEWS,
            chunks_from=lambda _: iter(np.split(logits, range(CHUNK, len(logits), CHUNK))),
        )
        self.reader = label_reader(labels, label_format)
        self.teacher = self._backbone(options.teacher, options.teacher_size)
        self.teacher.trainable = False
        kd = distillation_objective("kd", {}, soft_weight=0.9, label_smoothing=0.0)
        self.students = {"plain": self._student(label_objective(0.0))}
        self.students |= {name: self._student(kd) for name in ("cached", "live")}
        self.keras_student = self._backbone(options.student, options.student_size)
        self._compile_keras(self.keras_student)
        self.distiller = self._distiller()
        self.torch_loop = self._torch_loop() if options.torch else None

    def _backbone(self, name: str, size: int) -> keras.Model:
        return BACKBONES[name](image_size=size, num_classes=self.num_classes, weights=None)

    def _student(self, objective: Any) -> keras.Model:
        model = self._backbone(self.options.student, self.options.student_size)
        schedule = Schedule(1000, self.steps, 1e-3, 1e-4)
        compile_model(model, objective, schedule, num_classes=self.num_classes)
        return model

    def _compile_keras(self, model: Any) -> None:
        model.compile(
            optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
        )

    def _distiller(self) -> Any:
        size, small = self.options.teacher_size, self.options.student_size
        student = self._backbone(self.options.student, small)
        if size != small:
            image = keras.Input((size, size, 3))
            student = keras.Model(image, student(keras.layers.Resizing(small, small)(image)))
        losses = keras.distillation.LogitsDistillation(temperature=4.0)
        distiller = keras.distillation.Distiller(
            self.teacher, student, distillation_losses=losses, student_loss_weight=0.1
        )
        self._compile_keras(distiller)
        return distiller

    def _torch_loop(self) -> Any:
        from torch_loop import TorchLoop

        options = self.options
        return TorchLoop(
            self.folder,
            teacher=options.teacher,
            student=options.student,
            teacher_size=options.teacher_size,
            student_size=options.student_size,
            batch_size=options.batch_size,
            crop=CROP,
        )

    def _batches(self, size: int, soft_labels: Any = None) -> Any:
        return training_batches(
            self.source,
            image_size=size,
            batch_size=self.options.batch_size,
            seed=1,
            initial_epoch=self.round,
            epochs=self.round + 1,
            soft_labels=soft_labels,
        )

    def _fit(self, model: Any, dataset: Any) -> float:
        clock = UpdateClock()
        model.fit(dataset, steps_per_epoch=self.steps, callbacks=[clock], verbose=0, shuffle=False)
        return seconds_per_update(clock.ends)

    def plain(self) -> float:
        return self._fit(self.students["plain"], self._batches(self.options.student_size))

    def cached(self) -> float:
        batches = self._batches(self.options.student_size, self.reader)
        return self._fit(self.students["cached"], batches)

    def live(self) -> float:
        large = self._batches(self.options.teacher_size)
        small = self._batches(self.options.student_size)
        ends = []
        pairs = zip(large, small, range(self.steps), strict=False)
        for (teacher_images, _), (images, labels), _ in pairs:
            logits = self.teacher.predict_on_batch(teacher_images)
            self.students["live"].train_on_batch(images, np.concatenate([labels, logits], axis=1))
            ends.append(time.perf_counter())
        return seconds_per_update(ends)

    def keras_distiller(self) -> float:
        return self._fit(self.distiller, self._batches(self.options.teacher_size))

    def keras_plain(self) -> float:
        size = self.options.student_size
        dataset = keras.utils.image_dataset_from_directory(
            self.folder,
            image_size=(size, size),
            batch_size=self.options.batch_size,
            label_mode="categorical",
            seed=self.round,
            verbose=False,
        )
        augment = keras.Sequential(
            [keras.layers.RandomFlip("horizontal"), keras.layers.RandomZoom((-0.29, 0.0))]
        )
        dataset = dataset.repeat().map(
            lambda images, labels: (augment(images, training=True), labels),
            num_parallel_calls=-1,
        )
        return self._fit(self.keras_student, dataset.prefetch(-1))

    def torch_plain(self) -> float:
        return seconds_per_update(self.torch_loop.plain(self.steps))

    def torch_live(self) -> float:
        return seconds_per_update(self.torch_loop.live(self.steps))

    def teacher_forward(self) -> float:
        return self._timed(
            self.teacher.predict_on_batch, self._in_memory(self.options.teacher_size)
        )

    def student_step(self) -> float:
        images = self._in_memory(self.options.student_size)
        targets = np.eye(self.num_classes, dtype="float32")[np.zeros(len(images), int)]
        return self._timed(lambda x: self.students["plain"].train_on_batch(x, targets), images)

    def _in_memory(self, size: int) -> np.ndarray:
        return np.zeros((self.options.batch_size, size, size, 3), "float32")

    def _timed(self, step: Callable[[np.ndarray], Any], images: np.ndarray) -> float:
        ends = []
        for _ in range(self.steps):
            step(images)
            ends.append(time.perf_counter())
        return seconds_per_update(ends)


NAMES = (
    "plain", "cached", "live", "keras_distiller", "keras_plain", "teacher_forward", "student_step",
)  # fmt: skip
TORCH_NAMES = ("torch_plain", "torch_live")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="efficientnet_b4")
    parser.add_argument("--student", default="efficientnet_b0")
    parser.add_argument("--teacher-size", type=int, default=64)
    parser.add_argument("--student-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5, help="timed updates in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", type=Path, help="class folders; default: made-up photos")
    parser.add_argument("--torch", action="store_true", help="measure the loop in PyTorch too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = NAMES + (TORCH_NAMES if options.torch else ())
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or photo_folder(Path(temporary) / "photos")
        ways = Ways(options, folder, Path(temporary) / "labels.npy")
        times: dict[str, list[float]] = {name: [] for name in names}
        for ways.round in range(options.rounds + 1):
            for name in names:
                seconds = getattr(ways, name)()
                if ways.round:
                    times[name].append(seconds)

    def over(one: str, other: str) -> float:
        pairs = zip(times[one], times[other], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    limits = zip(times["teacher_forward"], times["student_step"], strict=True)
    result = {
        "cached_over_plain": over("cached", "plain"),
        "live_over_plain": over("live", "plain"),
        "keras_distiller_over_cached": over("keras_distiller", "cached"),
        "limit": round(statistics.median((t + s) / s for t, s in limits), 3),
        "plain_over_keras_plain": over("plain", "keras_plain"),
        **({"torch_live_over_cached": over("torch_live", "cached")} if options.torch else {}),
        "step_ms": {name: round(1000 * statistics.median(times[name]), 1) for name in names},
        **{k: v for k, v in vars(options).items() if k not in ("json", "data")},
        "data": "made-up" if options.data is None else options.data.name,
    }
    if not options.json:
        for name in names:
            print(f"{name:16} {result['step_ms'][name]:9.1f} ms an update")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
