"""How often two copies of a file are called equally fast, and a file with 10 % more work slower.

    python benchmarks/latency_noise.py --repeats 20 --json
    python benchmarks/latency_noise.py --recipe onnx.float32 --num-runs 400 --json
    python benchmarks/latency_noise.py --device browser:headless --repeats 10 --json

Three files are measured together, many times, as `evaluate latency` does it: a stack of 20
convolutions, a copy of its file, and a stack of 22. The verdicts about each pair are counted.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from collections import Counter
from pathlib import Path

import keras

from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from configs.records import to_json
from eval.devices.registry import parse_device
from eval.timing.differences import difference
from eval.timing.latency import SpeedDifference
from eval.timing.measure import measure


def stack(depth: int) -> keras.Model:
    """A model of equal convolutions, 9.4 million multiplications each, and little else."""
    image = keras.Input((64, 64, 3), batch_size=1)
    features = keras.layers.Conv2D(32, 3, strides=2, padding="same")(image)
    for _ in range(depth):
        features = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(features)
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.GlobalMaxPooling2D()(features)))


def write(folder: Path, recipe: str, depth: int) -> Path:
    path = folder / f"depth-{depth}.{recipe.split('.')[0]}"
    RECIPES[recipe](Conversion(stack(depth)), path, output="logits")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--num-runs", type=int, default=200, help="of each file in a repeat")
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--recipe", default="tflite.float32", help="or onnx.float32")
    parser.add_argument("--device", default="local", help="as of evaluate latency")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device, device_options = parse_device(options.device)
    copies: list[SpeedDifference] = []
    slower: list[SpeedDifference] = []
    floors: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        one, more = (write(folder, options.recipe, depth) for depth in (20, 22))
        copy = Path(shutil.copy(one, folder / f"copy{one.suffix}"))
        for number in range(1, options.repeats + 1):
            rows = measure(
                [one, copy, more],
                device=device,
                options=device_options,
                num_threads=options.num_threads,
                num_runs=options.num_runs,
            )
            of_copy, of_more = (difference(rows[file], rows[one]) for file in (copy, more))
            floor = rows[one].noise_floor
            if of_copy is None or of_more is None or floor is None:
                parser.error(f"--num-runs {options.num_runs} is too few. Give 70 or more.")
            copies.append(of_copy)
            slower.append(of_more)
            floors.append(floor)
            if not options.json:
                print(
                    f"{number:3}  copy: {of_copy.verdict} ({of_copy.ratio:.3f})  "
                    f"10 % more: {of_more.verdict} ({of_more.ratio:.3f})  "
                    f"noise floor {100 * floor:.1f} %",
                    flush=True,
                )
    result = {
        "copies": Counter(speed.verdict for speed in copies),
        "ten_percent_more": Counter(speed.verdict for speed in slower),
        "copy_ratios": [round(speed.ratio, 4) for speed in copies],
        "ten_percent_more_ratios": [round(speed.ratio, 4) for speed in slower],
        "median_noise_floor": round(statistics.median(floors), 4),
        "state": to_json(rows[one].state),
        "runtime": rows[one].runtime,
        **{key: value for key, value in vars(options).items() if key != "json"},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
