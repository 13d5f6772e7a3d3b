"""Time and memory of a run with few labels and more and more photos without.

    nice python benchmarks/many_unlabelled.py --photos 2500 5000 10000 20000

600 photos of three classes have labels; the others are drawn at random. Each is a JPEG of 64 px. A
tiny Keras file is the teacher. The steps data, label (two views) and student (one epoch of
EfficientNet-Lite0 at 32 px, a quarter of each batch labelled) run in processes of their own.
Memory is the largest resident set of the process. A part of it holds decoded photos, which the run
keeps on purpose, up to a quarter of the free memory. The rest may grow by a path and a digest for
each photo. The time for a further photo must not grow. It is that of the processor, which depends
less on what else the machine does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
CLASSES = ("blue", "green", "red")
LABELLED_PER_CLASS = 200
SIDE = 64
STEPS = ("data", "label", "student")
CONFIG = """
data: {{path: labelled, unlabelled: {unlabelled}}}
teacher: {{files: [{{path: teacher.keras, image_size: 32}}]}}
soft_labels: {{num_views: 2, min_confidence: 0.34}}
student:
  {{backbone: efficientnet_lite0, image_size: 32, epochs: 1, labelled_share: 0.25, control: false}}
"""


@dataclass(frozen=True)
class Cost:
    """What a step took.

    Attributes:
        cpu_seconds: of all threads together.
        rest_mib: the peak without the decoded photos that the run keeps.
    """

    num_photos: int
    step: str
    seconds: float
    cpu_seconds: float
    peak_mib: float
    rest_mib: float


def draw_photos(folder: Path, number: int, *, seed: int, colour: int | None = None) -> None:
    """Write photos of smooth noise; the channel `colour` is brighter in them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for photo in range(number):
        coarse = rng.integers(0, 200, (4, 4, 3), dtype=np.uint8)
        coarse[..., rng.integers(3) if colour is None else colour] += 50
        image = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        image.save(folder / f"{photo}.jpg", quality=85)


def write_teacher(path: Path) -> None:
    """Write a network that names the brightest channel."""
    program = f"""
import keras, numpy as np
inputs = keras.Input((32, 32, 3))
x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255, -0.5)(inputs))
dense = keras.layers.Dense(3)
model = keras.Model(inputs, dense(x))
dense.set_weights([20 * np.eye(3)[::-1], np.zeros(3)])
model.save({str(path)!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True, stderr=subprocess.DEVNULL)


def cost_of(
    step: str, config: str, run: str, *, place: Path, num_photos: int, program: str = "distill"
) -> Cost:
    """Take a step of a run in a process of its own."""
    code = f"import sys; from cli import {program}; sys.argv[0] = {program!r}; {program}()"
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code, step, config, "--run", run, "--quiet"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{program} {step} failed"
    peak_mib = usage.ru_maxrss / 1024
    stored_mib = 0.0 if step == "data" else num_photos * SIDE * SIDE * 3 / 2**20
    return Cost(
        num_photos,
        step,
        round(time.monotonic() - start, 1),
        round(usage.ru_utime + usage.ru_stime, 1),
        round(peak_mib),
        round(peak_mib - stored_mib),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, nargs="+", default=[2500, 5000, 10000, 20000])
    parser.add_argument("--json", action="store_true", help="print the costs as JSON only")
    options = parser.parse_args()
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for colour, name in enumerate(reversed(CLASSES)):
            draw_photos(place / "labelled" / name, LABELLED_PER_CLASS, seed=colour, colour=colour)
        write_teacher(place / "teacher.keras")
        for number in options.photos:
            draw_photos(place / f"unlabelled-{number}", number, seed=10)
            config = f"{number}.yaml"
            (place / config).write_text(CONFIG.format(unlabelled=f"unlabelled-{number}"))
            for step in ("data", "teacher", "label", "student"):
                run = f"run-{number}"
                cost = cost_of(step, config, run, place=place, num_photos=number)
                if step in STEPS:
                    costs.append(cost)
    if not options.json:
        print_table(costs)
    print(json.dumps([asdict(cost) for cost in costs]))


def print_table(costs: list[Cost]) -> None:
    print("step       photos  seconds  processor  ms a further photo  peak MiB  without photos")
    for step in STEPS:
        before: Cost | None = None
        for cost in (cost for cost in costs if cost.step == step):
            further = "–"
            if before is not None:
                seconds = cost.cpu_seconds - before.cpu_seconds
                further = f"{1000 * seconds / (cost.num_photos - before.num_photos):.2f}"
            print(
                f"{step:8} {cost.num_photos:8} {cost.seconds:8} {cost.cpu_seconds:10} "
                f"{further:>19} {cost.peak_mib:9} {cost.rest_mib:15}"
            )
            before = cost


if __name__ == "__main__":
    main()
