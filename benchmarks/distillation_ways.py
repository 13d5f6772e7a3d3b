"""The ways to train and to label that `distillation_cost.py` measures in turns."""

import argparse
import time
from collections.abc import Callable, Mapping
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
from distill.frozen import answers_of
from distill.labels.label_file import (
    ROWS_PER_CHUNK,
    LabelFormat,
    label_reader,
    write_label_file,
)
from distill.labels.view_logits import view_logits
from distill.losses import distillation_objective, label_objective
from distill.teacher import Teacher
from distill.training.batches import training_batches
from distill.training.epochs import Schedule
from distill.training.fit import compile_model

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}

NUM_VIEWS = 4
CHUNK = ROWS_PER_CHUNK * NUM_VIEWS
CROP = (0.5, 1.0)


class UpdateClock(keras.callbacks.Callback):
    """Records when each update of a fit ended."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock

    def on_train_begin(self, logs: Any = None) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.ends.append(self.clock())


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
        self.clock = CLOCKS[options.clock]
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
            chunks_from=lambda _: map(
                label_format.encode, np.split(logits, range(CHUNK, len(logits), CHUNK))
            ),
        )
        self.reader = label_reader(labels, label_format)
        self.teacher = self._backbone(options.teacher, options.teacher_size)
        self.teacher.trainable = False
        self.frozen = answers_of(self.teacher)
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
        compile_model(
            model, objective, Schedule(1000, self.steps, 1e-3, 1e-4), num_classes=self.num_classes
        )
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
        clock = UpdateClock(self.clock)
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
            ends.append(self.clock())
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

    def labelling_before(self) -> float:
        return self._labelling(lambda images: np.asarray(self.teacher.predict_on_batch(images)))

    def labelling(self) -> float:
        return self._labelling(self.frozen)

    def _labelling(self, logits: Callable[[np.ndarray], np.ndarray]) -> float:
        """The seconds that it takes to make and label a batch of views."""
        size, batch_size = self.options.teacher_size, self.options.batch_size
        ends = []

        def timed(images: np.ndarray) -> np.ndarray:
            outputs = logits(images)
            ends.append(self.clock())
            return outputs

        indices = np.arange(self.steps * batch_size) % len(self.source.examples)
        views = np.full(len(indices), self.round % NUM_VIEWS)
        teachers = [Teacher(size, timed)]
        view_logits(teachers, self.source, indices, views, batch_size=batch_size)
        return seconds_per_update(ends)

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
            ends.append(self.clock())
        return seconds_per_update(ends)
