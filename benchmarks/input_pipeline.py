"""Photos per second of the input pipeline, compared with decoding alone.

    python benchmarks/input_pipeline.py --data ../shared/data/cats_and_dogs --image-size 224 --json

Every round decodes all training photos once, with as many threads as cores. Then it reads two
epochs of views without training on them. The first epoch decodes the photos, the second finds them
in memory. The results are medians over the rounds.
"""

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from configs.schema.views import ViewsConfig
from distill.data.manifest import Examples
from distill.data.photo_store import PhotoStore
from distill.data.pipelines import ViewSource
from distill.data.scan import scan_folder
from distill.training.batches import training_batches
from eval.photo_files import decode_photo

VIEWS = {
    "basic": ViewsConfig(),
    "strong": ViewsConfig(
        crop=(0.25, 1.0), rotation=20, brightness=0.2, contrast=0.2, saturation=0.2, erasing=0.25,
        mixup=0.2,
    ),
}  # fmt: skip


def decoding_rate(examples: Examples, image_size: int) -> float:
    """Photos per second of decoding alone."""
    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda path: decode_photo(path, 2 * image_size).shape, examples.paths):
            pass
    return len(examples) / (time.perf_counter() - start)


def epoch_rates(examples: Examples, image_size: int, views: ViewsConfig) -> tuple[float, float]:
    """Photos per second of a first and a second epoch."""
    source = ViewSource(examples, PhotoStore(image_size), views, 2, seed=1)
    batches = training_batches(
        source, image_size=image_size, batch_size=32, seed=1, initial_epoch=0, epochs=2
    )
    steps = len(examples) // 32
    rates, start = [], time.perf_counter()
    for number, _ in enumerate(batches, start=1):
        if number % steps == 0:
            rates.append(32 * steps / (time.perf_counter() - start))
            start = time.perf_counter()
    return rates[0], rates[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--views", choices=VIEWS, default="basic")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    examples = scan_folder(options.data)["train"]
    rates: dict[str, list[float]] = {"decoding": [], "first_epoch": [], "later_epochs": []}
    for _ in range(options.rounds):
        rates["decoding"].append(decoding_rate(examples, options.image_size))
        first, later = epoch_rates(examples, options.image_size, VIEWS[options.views])
        rates["first_epoch"].append(first)
        rates["later_epochs"].append(later)
    result = {
        "photos_per_second": {k: round(statistics.median(v)) for k, v in rates.items()},
        "num_photos": len(examples),
        "image_size": options.image_size,
        "views": options.views,
        "data": options.data.name,
    }
    if not options.json:
        for name, rate in result["photos_per_second"].items():
            print(f"{name:12} {rate:7} photos a second")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
