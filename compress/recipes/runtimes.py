"""The least runtime that opens a file, and whether it is newer than the one that is asked for."""

from pathlib import Path

import onnx

from compress.recipes.flatbuffer import least_runtime
from configs.artifacts import ending
from configs.errors import UserError
from configs.schema.files import LeastRuntime
from eval.needs import Runtime


def runtime_of(path: Path) -> Runtime:
    """The least runtime that opens a file which a recipe wrote, as far as the file says it."""
    if ending(path) == ".onnx":
        model = onnx.load(path, load_external_data=False)
        opsets = [entry.version for entry in model.opset_import if entry.domain == ""]
        return Runtime(opset=max(opsets, default=None), ir=model.ir_version)
    try:
        return Runtime(tflite=least_runtime(path.read_bytes()))
    except Exception:  # another tool has damaged it where LiteRT does not look
        return Runtime()


def is_too_new(runtime: Runtime, least: LeastRuntime) -> bool:
    """Whether a file needs a newer runtime than the one that it is written for."""
    if runtime.tflite is None or least.tflite is None:
        return False
    return _numbers(runtime.tflite) > _numbers(least.tflite)


def check_runtime(path: Path, runtime: Runtime, least: LeastRuntime) -> None:
    """Refuse a file that needs a newer runtime.

    Raises:
        UserError: it does.
    """
    if is_too_new(runtime, least):
        raise UserError(
            f"{path.name} needs TFLite {runtime.tflite}, and least_runtime asks for "
            f"{least.tflite}. Choose another recipe, or raise least_runtime."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
