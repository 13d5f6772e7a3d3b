"""The answers of MediaPipe's ImageClassifier for a file, compared with `evaluate predict`.

MediaPipe and tfmot need different versions of absl, so MediaPipe needs an environment of its own:

    evaluate predict FILE.tflite PHOTO... --json > ours.json
    python3 -m venv mediapipe-env && mediapipe-env/bin/pip install mediapipe
    mediapipe-env/bin/python benchmarks/mediapipe_reader.py ours.json

The last line is JSON: the file and the largest difference of a probability. The exit code is 1 if
the classes differ, or a probability differs by more than --tolerance. Small differences are normal:
a quantized softmax has steps of 1/256, and `evaluate predict` scales the sum to 1. MediaPipe
stretches photos to the input and we crop them, so use photos of exactly the input's size.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import mediapipe as mp
import numpy as np
from mediapipe.tasks.metadata.metadata_schema_py_generated import ModelMetadataT
from mediapipe.tasks.metadata.schema_py_generated import ModelT
from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import ImageClassifier, ImageClassifierOptions
from PIL import Image


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ours", type=Path, help="output of `evaluate predict FILE PHOTO... --json`")
    parser.add_argument("--tolerance", type=float, default=0.005)
    options = parser.parse_args()
    ours = json.loads(options.ours.read_text().splitlines()[-1])
    file = Path(ours["file"])
    show_metadata(file)
    base = BaseOptions(model_asset_buffer=file.read_bytes())
    classifier = ImageClassifier.create_from_options(ImageClassifierOptions(base_options=base))
    differences = [difference(classifier, prediction) for prediction in ours["predictions"]]
    result = {
        "file": file.name,
        "num_photos": len(differences),
        "max_difference": max(differences),
        "passed": max(differences) <= options.tolerance,
    }
    print(json.dumps(result))
    return 0 if result["passed"] else 1


def show_metadata(file: Path) -> None:
    """Print the TFLite metadata, read with MediaPipe's schema."""
    model = ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    (entry,) = (entry for entry in model.metadata if entry.name == b"TFLITE_METADATA")
    metadata = ModelMetadataT.InitFromPackedBuf(bytes(model.buffers[entry.buffer].data), 0)
    print(json.dumps(as_json(metadata), indent=2))


def as_json(value: Any) -> Any:
    """A flatbuffer as JSON values, without members that are not set."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if hasattr(value, "__dict__"):
        return {key: as_json(member) for key, member in vars(value).items() if member is not None}
    return value


def difference(classifier: ImageClassifier, prediction: dict[str, Any]) -> float:
    """The largest difference of a probability; infinite if the classes have other names."""
    pixels = np.array(Image.open(prediction["photo"]).convert("RGB"))
    result = classifier.classify(mp.Image(mp.ImageFormat.SRGB, pixels))
    theirs = {c.category_name: c.score for c in result.classifications[0].categories}
    ours = {answer["class"]: answer["probability"] for answer in prediction["answers"]}
    best = max(ours, key=lambda name: ours[name])
    print(f"{prediction['photo']}: {best} {ours[best]:.4f}, MediaPipe {theirs.get(best)}")
    if set(theirs) != set(ours):
        return float("inf")
    return max(abs(theirs[name] - ours[name]) for name in ours)


if __name__ == "__main__":
    sys.exit(main())
