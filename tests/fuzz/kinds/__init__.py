"""`KINDS`: the inputs that strangers and mistakes bring, by name."""

from fuzz.harness import Kind
from fuzz.kinds.collections import ARRAYS, COLLECTIONS
from fuzz.kinds.keras_files import H5, KERAS, SAVED_MODELS
from fuzz.kinds.photos import PHOTOS
from fuzz.kinds.runtime_files import METADATA, ONNX, TFLITE
from fuzz.kinds.texts import COMMANDS, CONFIGS
from fuzz.kinds.weights import WEIGHTS

KINDS: dict[str, Kind] = {
    "configs": CONFIGS,
    "commands": COMMANDS,
    "photos": PHOTOS,
    "collections": COLLECTIONS,
    "arrays": ARRAYS,
    "tflite": TFLITE,
    "onnx": ONNX,
    "metadata": METADATA,
    "weights": WEIGHTS,
    "keras": KERAS,
    "h5": H5,
    "saved_model": SAVED_MODELS,
}
