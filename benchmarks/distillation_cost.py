"""The time of a training update with and without a teacher, all ways in turns in one process.

    python benchmarks/distillation_cost.py --json
    python benchmarks/distillation_cost.py --teacher-size 380 --student-size 224 --batch-size 8 \\
        --steps 4 --json
    python benchmarks/distillation_cost.py --teacher-size 380 --student-size 224 --batch-size 8 \\
        --steps 4 --rounds 3 --ways plain cached labelling_before labelling --json

- plain: labels alone, with our views.
- cached: the same views under `kd`, with soft labels from disk.
- live: the same, but the teacher labels its view of every batch before the update.
- keras_distiller: `keras.distillation.Distiller`. If the sizes differ, its student resizes.
- keras_plain: `image_dataset_from_directory`, Keras augmentation layers and `fit`.
- labelling: a batch of views is made and labelled, as `distill label` does it.
- labelling_before: the same with `predict_on_batch`, as it was until the teacher was frozen.
- torch_plain, torch_live (with --torch, if PyTorch and torchvision are installed): the loop that
  one would write in PyTorch, with labels alone and with the teacher before every update.

The first round traces graphs and does not count. The clock runs from the end of the first update of
a round to the end of its last, so starting a pipeline costs nothing. `limit` is (teacher forward +
student update) / student update on batches in memory. Skipping the teacher cannot save more.

On a machine that others use, `--clock cpu` counts the processor time of this process instead.
`whole_run` is the time of a run of --epochs with its labelling, over the same run on labels alone.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillation_ways import CLOCKS, Ways, photo_folder

TARGET = 1.15
"""The most that a run with a teacher should cost, in units of the same run on labels alone."""

NAMES = (
    "plain", "cached", "live", "keras_distiller", "keras_plain", "labelling_before", "labelling",
    "teacher_forward", "student_step",
)  # fmt: skip
TORCH_NAMES = ("torch_plain", "torch_live")
RATIOS = {
    "cached_over_plain": ("cached", "plain"),
    "label_over_plain": ("labelling", "plain"),
    "live_over_plain": ("live", "plain"),
    "keras_distiller_over_cached": ("keras_distiller", "cached"),
    "labelling_speedup": ("labelling_before", "labelling"),
    "plain_over_keras_plain": ("plain", "keras_plain"),
    "torch_live_over_cached": ("torch_live", "cached"),
}


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians of the ratios within the rounds, for the ways that were measured."""
    medians = {
        key: statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))
        for key, (one, other) in RATIOS.items()
        if {one, other} <= set(times)
    }
    if {"teacher_forward", "student_step"} <= set(times):
        pairs = zip(times["teacher_forward"], times["student_step"], strict=True)
        medians["limit"] = statistics.median((t + s) / s for t, s in pairs)
    return {key: round(median, 3) for key, median in medians.items()}


def whole_run(
    *, cached_over_plain: float, label_over_plain: float, epochs: int, views: Sequence[int]
) -> dict[str, float | int]:
    """The time of a student's run with its labelling, in units of the run on labels alone.

    Args:
        cached_over_plain: a step on soft labels from disk, in steps on labels alone.
        label_over_plain: labelling a batch of views, in steps on labels alone.
        views: numbers of views of each photo.

    Returns:
        the time for each number of views, and the most views that hold TARGET.
    """
    times = {
        f"views_{n}": round(cached_over_plain + label_over_plain * n / epochs, 3) for n in views
    }
    affordable = epochs * (TARGET - cached_over_plain) / label_over_plain
    return {"epochs": epochs, **times, "most_views": max(int(affordable), 0)}


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
    parser.add_argument("--ways", nargs="+", choices=NAMES, default=NAMES, help="which to measure")
    parser.add_argument("--epochs", type=int, default=30, help="of the whole run that is priced")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 2, 4, 10])
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = (*options.ways, *(TORCH_NAMES if options.torch else ()))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or photo_folder(Path(temporary) / "photos")
        ways = Ways(options, folder, Path(temporary) / "labels.npy")
        times: dict[str, list[float]] = {name: [] for name in names}
        for ways.round in range(options.rounds + 1):
            for name in names:
                seconds = getattr(ways, name)()
                if ways.round:
                    times[name].append(seconds)

    step_ms = {name: 1000 * statistics.median(times[name]) for name in names}
    result: dict[str, Any] = ratios(times)
    if {"cached_over_plain", "label_over_plain"} <= set(result):
        result["whole_run"] = whole_run(
            cached_over_plain=result["cached_over_plain"],
            label_over_plain=result["label_over_plain"],
            epochs=options.epochs,
            views=options.views,
        )
    result |= {
        "step_ms": {name: round(ms, 1) for name, ms in step_ms.items()},
        **{k: v for k, v in vars(options).items() if k not in ("json", "data", "ways")},
        "data": "made-up" if options.data is None else options.data.name,
    }
    if not options.json:
        for name in names:
            print(f"{name:16} {step_ms[name]:9.1f} ms an update")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
