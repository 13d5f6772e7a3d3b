"""The cost of int8 with several tools: accuracy, agreement with float, latency, time and memory.

    python benchmarks/quantization.py student/model.keras --data ../shared/data/flowers \\
        --also ../shared/data/cats_and_dogs

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from configs.records import to_json
from distill.data.scan import scan_folder
from eval.pixels import OWN_PIXELS
from eval.scoring.intervals import wilson_interval
from eval.scoring.predictions import Photos, file_probabilities
from eval.timing.latency import Latency
from eval.timing.results import time_together

Calibration = Callable[[], Iterator[np.ndarray]]
Tool = Callable[[Any, Path, Calibration, int], None]
"""(Keras model, path, calibration photos, how many of them) -> writes the file."""
FLOAT = "float32"


@dataclass(frozen=True)
class Row:
    """The file of one tool.

    Attributes:
        agreement: share of the photos with the same answer as float, over all photos.
        agreement_on_data: the same over the photos of --data alone.
        changed: photos with another answer than float.
        seconds: for writing the file.
    """

    tool: str
    top1: float
    agreement: float
    agreement_interval: tuple[float, float]
    agreement_on_data: float
    changed: int
    num_photos: int
    p50_ms: float
    file_bytes: int
    seconds: float
    peak_rss_mib: float


def keras_converter(model: Any, path: Path, calibration: Calibration, num_images: int) -> None:
    """TensorFlow's converter as its guide shows it."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    write_int8(converter, path, calibration, num_images)


def static_converter(model: Any, path: Path, calibration: Calibration, num_images: int) -> None:
    """TensorFlow's converter on a function with a batch of 1, as our recipes use it."""
    from compress.graph.inference import TracedModel
    from compress.recipes.converters import tflite_converter

    converter = tflite_converter(TracedModel(model), "probabilities")
    write_int8(converter, path, calibration, num_images)


def write_int8(converter: Any, path: Path, calibration: Calibration, num_images: int) -> None:
    import tensorflow as tf

    from compress.recipes.converters import quiet_converters

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [image[None]] for image in islice(calibration(), num_images)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with quiet_converters():
        path.write_bytes(converter.convert())


def litert_quantizer(model: Any, path: Path, calibration: Calibration, num_images: int) -> None:
    from litert_quantizer import quantizer, recipe

    from compress.graph.inference import TracedModel
    from compress.graph.tensor_names import INPUT
    from compress.recipes import flatbuffer
    from compress.recipes.converters import run_tflite_converter, tflite_converter

    content = run_tflite_converter(tflite_converter(TracedModel(model), "probabilities"))
    content = flatbuffer.with_names(content, "probabilities")
    tool = quantizer.Quantizer(content, recipe.static_wi8_ai8())
    images = [{INPUT: image[None]} for image in islice(calibration(), num_images)]
    ranges = tool.calibrate({flatbuffer.SIGNATURE: images}, num_threads=2)
    path.write_bytes(tool.quantize(ranges, enable_progress_report=False).quantized_model)


def onnxruntime(model: Any, path: Path, calibration: Calibration, num_images: int) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from compress.graph.inference import TracedModel
    from compress.onnx.convert import convert_to_onnx
    from compress.recipes.converters import quiet_converters
    from compress.recipes.onnx import CalibrationReader

    with quiet_converters(), tempfile.TemporaryDirectory() as folder:
        converted, prepared = Path(folder) / "converted.onnx", Path(folder) / "prepared.onnx"
        onnx.save(convert_to_onnx(TracedModel(model), "probabilities"), converted)
        quant_pre_process(converted, prepared)
        quantize_static(
            prepared,
            path,
            CalibrationReader(islice(calibration(), num_images)),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
        )


def nncf(model: Any, path: Path, calibration: Calibration, num_images: int) -> None:
    import nncf
    import onnx

    from compress.graph.inference import TracedModel
    from compress.graph.tensor_names import INPUT
    from compress.onnx.convert import convert_to_onnx
    from compress.recipes.converters import quiet_converters

    with quiet_converters():
        converted = convert_to_onnx(TracedModel(model), "probabilities")
    images = [image[None] for image in islice(calibration(), num_images)]
    dataset = nncf.Dataset(images, lambda image: {INPUT: image})
    onnx.save(nncf.quantize(converted, dataset, subset_size=num_images), path)


def ours(recipe: str, *, equalized: bool) -> Tool:
    """Our recipe with its defaults, alone or after `equalize`."""

    def write(model: Any, path: Path, calibration: Calibration, num_images: int) -> None:
        from compress.methods import METHODS
        from compress.recipes import RECIPES
        from compress.recipes.conversion import Conversion

        if equalized:
            model = METHODS["equalize"](model, calibration=calibration)
        RECIPES[recipe](Conversion(model, calibration), path, output="probabilities")

    return write


TOOLS: dict[str, tuple[str, Tool]] = {
    FLOAT: ("tflite", ours("tflite.float32", equalized=False)),
    "TFLiteConverter.from_keras_model": ("tflite", keras_converter),
    "TFLiteConverter": ("tflite", static_converter),
    "litert-quantizer": ("tflite", litert_quantizer),
    "tflite.int8": ("tflite", ours("tflite.int8", equalized=False)),
    "equalize, tflite.int8": ("tflite", ours("tflite.int8", equalized=True)),
    "onnx.float32": ("onnx", ours("onnx.float32", equalized=False)),
    "onnxruntime": ("onnx", onnxruntime),
    "onnx.int8": ("onnx", ours("onnx.int8", equalized=False)),
    "equalize, onnx.int8": ("onnx", ours("onnx.int8", equalized=True)),
    "NNCF": ("onnx", nncf),
}
PACKAGES = {"litert-quantizer": ["litert_quantizer"], "NNCF": ["nncf", "openvino"]}
"""Packages that a tool needs and Potstill does not."""


def write_one(options: argparse.Namespace) -> None:
    """Write the file of one tool and print what it cost; for a process of its own."""
    from compress.graph.classifier import image_size_of
    from compress.int8.calibration import calibration_photos
    from distill.model_file import load_model

    model = load_model(options.model)
    train = scan_folder(options.data)["train"]
    calibration = calibration_photos(train, image_size_of(model), OWN_PIXELS)
    start = time.perf_counter()
    TOOLS[options.tool][1](model, options.out, calibration, options.num_images)
    seconds = time.perf_counter() - start
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": round(seconds, 1), "peak_rss_mib": round(peak_kib / 1024)}))


def write_in_a_process(options: argparse.Namespace, tool: str, path: Path) -> dict[str, float]:
    """Seconds and peak memory that it took one tool to write its file."""
    command = [
        sys.executable, __file__, str(options.model), "--data", str(options.data),
        "--num-images", str(options.num_images), "--tool", tool, "--out", str(path),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare_tools(options: argparse.Namespace, folder: Path) -> list[Row]:
    """One row for each tool that is installed."""
    tools = [tool for tool in TOOLS if all(map(_is_installed, PACKAGES.get(tool, [])))]
    paths = {tool: folder / f"{i}.{TOOLS[tool][0]}" for i, tool in enumerate(tools)}
    costs = {tool: write_in_a_process(options, tool, path) for tool, path in paths.items()}
    splits = scan_folder(options.data)
    test = splits["test"]
    unseen = [*test.paths, *splits["validation"].paths]
    num_own = len(unseen)
    if options.also:
        more_splits = scan_folder(options.also).values()
        unseen += [path for examples in more_splits for path in examples.paths]
    photos = Photos("unseen", unseen, np.zeros(len(unseen), int))
    answers = {
        tool: file_probabilities(path, photos, num_threads=1).argmax(axis=1)
        for tool, path in paths.items()
    }
    same = {tool: classes == answers[FLOAT] for tool, classes in answers.items()}
    latency = _measure([path for tool, path in paths.items() if tool != "NNCF"], options)
    if "NNCF" in paths:
        latency |= _measure([paths["NNCF"]], options, openvino=True)
    return [
        Row(
            tool=tool,
            top1=float((answers[tool][: len(test)] == test.labels).mean()),
            agreement=float(same[tool].mean()),
            agreement_interval=wilson_interval(int(same[tool].sum()), len(unseen)),
            agreement_on_data=float(same[tool][:num_own].mean()),
            changed=int((~same[tool]).sum()),
            num_photos=len(unseen),
            p50_ms=latency[path].p50_ms,
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
    parser.add_argument("model", type=Path, help="a .keras file")
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
    with tempfile.TemporaryDirectory() as folder:
        rows = compare_tools(options, Path(folder))
    print(
        "| tool | top-1 | same answer as float: all (95 %) | on --data "
        "| p50 | size | time | peak memory |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        low, high = row.agreement_interval
        print(
            f"| {row.tool} | {row.top1:.1%} | {row.agreement:.1%} "
            f"({low:.1%} to {high:.1%}) | {row.agreement_on_data:.1%} | "
            f"{row.p50_ms:.2f} ms | {row.file_bytes / 1e6:.1f} MB | {row.seconds:.0f} s | "
            f"{row.peak_rss_mib:.0f} MiB |"
        )
    if options.json:
        print(json.dumps({"tools": to_json(rows)}))


if __name__ == "__main__":
    main()
