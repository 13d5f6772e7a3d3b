"""Float32 and int8 of a backbone in a browser, beside the same files on this machine.

    python benchmarks/browser_latency.py
    python benchmarks/browser_latency.py --device browser:pixel --sizes 128 --num-runs 100

A .tflite and an .onnx file of each precision are written for each size of the photos. The weights
are random, because their values do not change how long a file takes. The files of one size are
timed together on this machine, and then in the browser.
"""

import argparse
import json
import tempfile
from pathlib import Path

from backbone_walk import make_sure, patches, settle

from compress.recipes import RECIPES
from compress.recipes.conversion import Conversion
from distill.backbones import BACKBONES
from eval.devices.registry import device_label, parse_device
from eval.timing.latency import Latency, milliseconds
from eval.timing.measure import measure

FILES = ("tflite.float32", "tflite.int8", "onnx.float32", "onnx.int8")


def write_files(folder: Path, backbone: str, image_size: int) -> list[Path]:
    """The files of one size."""
    model = BACKBONES[backbone](image_size=image_size, num_classes=5, weights=None)
    images = patches(image_size)
    settle(model, images)
    make_sure(model, images)
    conversion = Conversion(model, lambda: iter(images))
    files = []
    for recipe in FILES:
        format_, _, name = recipe.partition(".")
        file = folder / f"{backbone}-{image_size}-{name}.{format_}"
        RECIPES[recipe](conversion, file, output="probabilities")
        files.append(file)
    return files


def line(file: Path, here: Latency, there: Latency) -> str:
    """One file as a row of the table."""
    size, name = file.stem.split("-")[-2:]
    speed = there.against_fastest
    verdict = f"{speed.ratio:.2f} x" if speed else ""
    cells = [
        f"{size} px", name, file.suffix[1:], milliseconds(here.p50_ms), milliseconds(there.p50_ms),
        f"{there.p50_ms / here.p50_ms:.1f}", milliseconds(there.p90_ms or 0), verdict,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="browser:headless")
    parser.add_argument("--backbone", default="efficientnet_b0")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--num-runs", type=int, default=200)
    parser.add_argument("--num-threads", type=int, default=1)
    options = parser.parse_args()
    name, device_options = parse_device(options.device)
    counts = {"num_runs": options.num_runs, "num_threads": options.num_threads}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in options.sizes:
            files = write_files(Path(temporary), options.backbone, size)
            here = measure(files, **counts)
            there = measure(files, device=name, options=device_options, **counts)
            rows += [line(file, here[file], there[file]) for file in files]
            print(rows[-len(files) :], flush=True)
    some = there[files[0]]
    label = device_label(name, device_options)
    print("| photos | weights | file | here, ms | browser, ms | ratio | p90, ms | to the fastest |")
    print("|---|---|---|---|---|---|---|---|")
    print(*rows, sep="\n")
    facts = {
        "device": label, "user_agent": some.state.os, "num_threads": some.num_threads,
        "noise_floor_here": here[files[0]].noise_floor, "noise_floor": some.noise_floor,
        "runtimes": sorted({row.runtime for row in [*here.values(), *there.values()]}),
    }  # fmt: skip
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
