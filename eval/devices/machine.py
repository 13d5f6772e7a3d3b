"""The machine that results were measured on."""

from importlib import metadata
from typing import Any

from eval.devices.probe import machine_state

PACKAGES = [
    "potstill",
    "tensorflow",
    "keras",
    "tf-keras",
    "tensorflow-model-optimization",
    "onnx",
    "onnxruntime",
    "tf2onnx",
    "ai-edge-litert",
    "openvino",
    "numpy",
    "pillow",
]


def machine() -> dict[str, Any]:
    """`machine` of report.json."""
    kept = ("cpu", "num_cores", "isa", "os", "python")
    state = {"isa": [], **machine_state()}
    return {
        **{key: state[key] for key in kept},
        "packages": {name: package_version(name) for name in PACKAGES if package_version(name)},
    }


def package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
