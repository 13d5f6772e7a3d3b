"""Asks the model of this bundle about photos.

    python python/classify.py PHOTO...    what the model says about photos
    python python/classify.py             whether it answers about the test photos as expected

It needs Python 3.10 or later, numpy, Pillow and the runtime in requirements.txt. What the model
expects of a photo is read from the model file itself. `contract.json` completes it, and says it
alone where a file carries nothing.
"""

import argparse
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from eval.images import evaluation_image
from eval.photo_files import UnreadablePhoto

FOLDER = Path(__file__).resolve().parent.parent
Stated = dict[str, Any]

Run = Callable[[np.ndarray], np.ndarray]
"""float32 images (1, height, width, channels), or with channels first -> float32 (1, classes)."""

DEFAULTS: Stated = {
    "channels": "rgb", "fit": "crop", "interpolation": "bilinear", "layout": "nhwc",
    "threshold": None,
}  # fmt: skip


class Classifier:
    """A model file with its contract.

    Args:
        model: a .tflite or .onnx file.
        contract: `contract.json`. A file that Potstill wrote needs none.
    """

    def __init__(self, model: Path, contract: Path | None = None) -> None:
        beside = json.loads(contract.read_text("utf-8")) if contract else {}
        is_onnx = model.suffix.lower() == ".onnx"
        self._run, carried = (open_onnx if is_onnx else open_tflite)(model)
        stated = {**DEFAULTS, **beside, **carried}
        missing = {"classes", "image_size", "pixels", "output"} - set(stated)
        if missing:
            sys.exit(f"error: {model} carries no contract. Add --contract contract.json.")
        self.classes: list[str] = stated["classes"]
        self._stated = stated
        self._mean = np.array(stated["pixels"]["mean"], "float32")
        self._std = np.array(stated["pixels"]["std"], "float32")

    def view(self, photo: Path) -> np.ndarray:
        """A photo as the model takes it, float32 with a batch of 1."""
        image = evaluation_image(
            photo, tuple(self._stated["image_size"]), SimpleNamespace(**self._stated)
        )
        channels = image.shape[-1]
        pixels = (image.astype("float32") - self._mean[:channels]) / self._std[:channels]
        if self._stated["channels"] == "bgr":
            pixels = pixels[..., ::-1]
        if self._stated["layout"] == "nchw":
            pixels = pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels[None])

    def answer(self, photo: Path) -> Stated:
        """The classes by falling probability, and whether the best one is accepted.

        `accepted` is None where the model has no threshold for "none of these".
        """
        probs = probabilities(self._run(self.view(photo)), self._stated["output"])[0]
        threshold = self._stated["threshold"]
        return {
            "accepted": bool(probs.max() >= threshold["score"]) if threshold else None,
            "answers": [
                {"class": self.classes[i], "probability": float(probs[i])}
                for i in np.argsort(-probs)
            ],
        }


def probabilities(outputs: np.ndarray, kind: str) -> np.ndarray:
    """Probabilities of what a model returns: (1, classes), or (1, 1) of the second of two."""
    outputs = outputs.astype("float32")
    if kind == "scores":
        return outputs
    if outputs.shape[1] == 1:
        first = np.zeros_like(outputs) if kind == "logits" else 1 - outputs
        outputs = np.hstack([first, outputs])
    if kind == "logits":
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return np.asarray(np.exp(shifted - log_sum))
    sums = outputs.sum(axis=1, keepdims=True)
    return np.where(sums > 0, outputs / np.maximum(sums, 1e-7), 1 / outputs.shape[1])


def open_tflite(model: Path) -> tuple[Run, Stated]:
    """A .tflite file, and what it says of itself."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        sys.exit("error: no runtime for .tflite files. Type: pip install ai-edge-litert")
    interpreter = Interpreter(model_path=str(model), num_threads=1)
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.resize_tensor_input(entry["index"], image.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], encoded(image, entry["dtype"], *quantization(entry)))
        interpreter.invoke()
        outputs = interpreter.get_tensor(exit_["index"])
        return decoded(outputs, *quantization(exit_)).reshape(1, -1)

    carried: Stated = {}
    if zipfile.is_zipfile(model):
        with zipfile.ZipFile(model) as archive:
            if "metadata.json" in archive.namelist():
                carried = json.loads(archive.read("metadata.json")).get("potstill") or {}
    return run, carried


def open_onnx(model: Path) -> tuple[Run, Stated]:
    """An .onnx file, and what it says of itself."""
    try:
        import onnxruntime
    except ImportError:
        sys.exit("error: no runtime for .onnx files. Type: pip install onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    (entry,), (exit_,) = session.get_inputs(), session.get_outputs()

    def run(image: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([exit_.name], {entry.name: image})[0]).reshape(1, -1)

    return run, json.loads(session.get_modelmeta().custom_metadata_map.get("potstill", "{}"))


def quantization(tensor: Stated) -> tuple[float | None, int]:
    """The scale and the zero of a tensor of LiteRT; no scale for floats."""
    scale, zero = tensor["quantization"]
    is_whole = np.dtype(tensor["dtype"]).kind in "iu"
    return (float(scale) if scale and is_whole else None), int(zero)


def encoded(values: np.ndarray, dtype: Any, scale: float | None, zero: int) -> np.ndarray:
    """Values in the type that the model takes: rounded, and limited to what it can hold."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    numbers = np.round(values / (scale or 1.0) + zero)
    return np.clip(numbers, limits.min, limits.max).astype(dtype)


def decoded(numbers: np.ndarray, scale: float | None, zero: int) -> np.ndarray:
    """The values that the numbers of a model stand for, float32."""
    values = np.asarray(numbers, "float32")
    return values if scale is None else (values - zero) * np.float32(scale)


def differs(answer: Stated, expected: Stated, tolerance: float) -> bool:
    """Whether an answer is not the expected one: another class, or another probability."""
    now, then = ({a["class"]: a["probability"] for a in x["answers"]} for x in (answer, expected))
    same_best = answer["answers"][0]["class"] == expected["answers"][0]["class"]
    return not same_best or max(abs(now[name] - then[name]) for name in then) > tolerance


def line(photo: str, answer: Stated) -> str:
    """One line for people."""
    best = "  ".join(f"{a['class']} {a['probability']:.1%}" for a in answer["answers"][:3])
    doubt = "none of these?  " if answer["accepted"] is False else ""
    return f"{photo}  {doubt}{best}"


def check(classifier: Classifier, expected_json: Path) -> int:
    """Print the answers about the test photos, and whether they are as expected."""
    expected = json.loads(expected_json.read_text("utf-8"))
    num_right = 0
    for then in expected["photos"]:
        answer = classifier.answer(expected_json.parent / then["photo"])
        is_wrong = differs(answer, then, expected["tolerance"])
        num_right += not is_wrong
        print(line(then["photo"], answer), " NOT AS EXPECTED:" if is_wrong else " as expected")
        if is_wrong:
            print(f"  expected: {line(then['photo'], then)}")
    print(f"{num_right} of {len(expected['photos'])} as expected")
    return 0 if num_right == len(expected["photos"]) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("photos", nargs="*", type=Path, help="default: the test photos")
    parser.add_argument("--model", type=Path, help="default: the model of this bundle")
    parser.add_argument("--contract", type=Path, help="default: contract.json of this bundle")
    parser.add_argument("--json", action="store_true", help="print all classes, for programs")
    options = parser.parse_args()
    contract = options.contract
    if contract is None and options.model is None:
        contract = FOLDER / "contract.json"
    named = options.model or FOLDER / "model" / json.loads(contract.read_text("utf-8"))["file"]
    classifier = Classifier(named, contract)
    expected = FOLDER / "photos" / "expected.json"
    if not options.photos:
        if expected.exists():
            return check(classifier, expected)
        parser.error("this bundle has no test photos. Name a photo")
    for photo in options.photos:
        try:
            answer = classifier.answer(photo)
        except (UnreadablePhoto, OSError) as error:
            sys.exit(f"error: this is no photo that can be read: {error}")
        print(json.dumps({"photo": str(photo), **answer}) if options.json else line(photo, answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
