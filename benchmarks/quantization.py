"""The cost of int8 with several tools: accuracy, agreement with float, latency, time and memory.

    python benchmarks/train_classifier.py efficientnet_b0 --data FLOWERS --size 64 --out b0.keras
    python benchmarks/quantization.py b0.keras --data FLOWERS --also CATS_AND_DOGS

There is a table for every model. The column `of stock` has the latency as a multiple of that of
the int8 file of TFLiteConverter.

All tools get the same model, calibration photos (training split) and test photos. Agreement with
float needs no labels, so it is measured on all photos outside of the training split and on those
of --also. Every tool writes its file in a process of its own. The files are timed in interleaved
rounds: .tflite files in LiteRT, .onnx files in ONNX Runtime, and NNCF's file in OpenVINO, for which
NNCF is made. litert-quantizer, and NNCF with OpenVINO, take part if they are installed.
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from int8_tools import FLOAT, PACKAGES, STOCK, TOOLS

from configs.records import to_json
from distill.data.scan import scan_folder
from eval.choice.drop import drop_by_rounding
from eval.scoring.intervals import wilson_interval
from eval.scoring.predictions import Photos, file_probabilities
from eval.timing.latency import Latency
from eval.timing.results import time_together


@dataclass(frozen=True)
class Row:
    """The file of one tool.

    Attributes:
        top1: on the test photos.
        counted_drop: lost top-1 against the float file on the photos of --data that are not used
            for training, as a share.
        expected_drop: the same as the float file's probabilities predict it, with the ends of its
            95 % interval.
        agreement: share of the photos with the same answer as float, over all photos.
        agreement_on_data: the same over the photos of --data alone.
        changed: photos with another answer than float.
        against_stock: latency as a multiple of that of the stock file.
        seconds: for writing the file.
    """

    tool: str
    top1: float
    counted_drop: float
    expected_drop: tuple[float, float, float]
    agreement: float
    agreement_interval: tuple[float, float]
    agreement_on_data: float
    changed: int
    num_photos: int
    p50_ms: float
    against_stock: float
    file_bytes: int
    seconds: float
    peak_rss_mib: float


def write_one(options: argparse.Namespace) -> None:
    """Write the file of one tool and print what it cost; for a process of its own."""
    from compress.graph.classifier import image_size_of
    from compress.int8.calibration import calibration_photos
    from distill.model_file import load_model

    model = load_model(options.models[0])
    train = scan_folder(options.data)["train"]
    calibration = calibration_photos(train, image_size_of(model))
    start = time.perf_counter()
    TOOLS[options.tool][1](model, options.out, calibration, options.num_images)
    seconds = time.perf_counter() - start
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": round(seconds, 1), "peak_rss_mib": round(peak_kib / 1024)}))


def write_in_a_process(
    options: argparse.Namespace, model: Path, tool: str, path: Path
) -> dict[str, float]:
    """Seconds and peak memory that it took one tool to write its file."""
    command = [
        sys.executable, __file__, str(model), "--data", str(options.data),
        "--num-images", str(options.num_images), "--tool", tool, "--out", str(path),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare_tools(options: argparse.Namespace, model: Path, folder: Path) -> list[Row]:
    """One row for each tool that is installed."""
    tools = [tool for tool in TOOLS if all(map(_is_installed, PACKAGES.get(tool, [])))]
    paths = {tool: folder / f"{i}.{TOOLS[tool][0]}" for i, tool in enumerate(tools)}
    costs = {tool: write_in_a_process(options, model, tool, path) for tool, path in paths.items()}
    splits = scan_folder(options.data)
    test = splits["test"]
    unseen = [*test.paths, *splits["validation"].paths]
    num_own = len(unseen)
    if options.also:
        more_splits = scan_folder(options.also).values()
        unseen += [path for examples in more_splits for path in examples.paths]
    photos = Photos("unseen", unseen, np.zeros(len(unseen), int))
    labels = np.concatenate([test.labels, splits["validation"].labels])
    probs = {tool: file_probabilities(path, photos, num_threads=1) for tool, path in paths.items()}
    answers = {tool: tool_probs.argmax(axis=1) for tool, tool_probs in probs.items()}
    drops = {
        tool: drop_by_rounding(tool_probs[:num_own], probs[FLOAT][:num_own], labels)
        for tool, tool_probs in probs.items()
    }
    same = {tool: classes == answers[FLOAT] for tool, classes in answers.items()}
    latency = _measure([path for tool, path in paths.items() if tool != "NNCF"], options)
    if "NNCF" in paths:
        latency |= _measure([paths["NNCF"]], options, openvino=True)
    return [
        Row(
            tool=tool,
            top1=float((answers[tool][: len(test)] == test.labels).mean()),
            counted_drop=drops[tool].counted,
            expected_drop=(
                drops[tool].expected,
                drops[tool].expected_low,
                drops[tool].expected_high,
            ),
            agreement=float(same[tool].mean()),
            agreement_interval=wilson_interval(int(same[tool].sum()), len(unseen)),
            agreement_on_data=float(same[tool][:num_own].mean()),
            changed=int((~same[tool]).sum()),
            num_photos=len(unseen),
            p50_ms=latency[path].p50_ms,
            against_stock=latency[path].p50_ms / latency[paths[STOCK]].p50_ms,
            file_bytes=path.stat().st_size,
            **costs[tool],
        )
        for tool, path in paths.items()
    ]


def _measure(paths: list[Path], options: argparse.Namespace, **device: Any) -> dict[Path, Latency]:
    return time_together(
        paths, options=device, num_threads=1, num_warmup=10, num_runs=options.num_runs
    )


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+", help=".keras files")
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--also", type=Path, help="more class folders, of any classes")
    parser.add_argument(
        "--num-images", type=int, default=200, help="calibration photos of other tools"
    )
    parser.add_argument("--num-runs", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="one JSON line at the end")
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tool:
        write_one(options)
        return
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            rows = compare_tools(options, model, Path(folder))
        print_table(model, rows)
        if options.json:
            print(json.dumps({"model": model.name, "tools": to_json(rows)}))


def print_table(model: Path, rows: list[Row]) -> None:
    print(f"\n{model.stem}\n")
    print(
        "| tool | top-1 | drop: counted | expected (95 %) | same answer as float (95 %) "
        "| on --data | p50 | of stock | size | time | peak memory |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        low, high = row.agreement_interval
        expected, expected_low, expected_high = (100 * drop for drop in row.expected_drop)
        print(
            f"| {row.tool} | {row.top1:.1%} | {100 * row.counted_drop:.2f} "
            f"| {expected:.2f} ({expected_low:.2f} to {expected_high:.2f}) | {row.agreement:.1%} "
            f"({low:.1%} to {high:.1%}) | {row.agreement_on_data:.1%} | {row.p50_ms:.2f} ms "
            f"| {row.against_stock:.2f} | {row.file_bytes / 1e6:.1f} MB | {row.seconds:.0f} s "
            f"| {row.peak_rss_mib:.0f} MiB |"
        )


if __name__ == "__main__":
    main()
