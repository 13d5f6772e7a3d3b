"""What a file needs to run: the least runtime that opens it."""

from dataclasses import dataclass
from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer


@dataclass(frozen=True)
class Runtime:
    """The least runtime that opens a file; None for what another format has.

    Attributes:
        tflite: the version of TensorFlow Lite, as "2.17".
        opset: of ONNX.
        ir: the version of the ONNX format.
    """

    tflite: str | None = None
    opset: int | None = None
    ir: int | None = None

    @property
    def text(self) -> str:
        """For people; empty if nothing is known."""
        parts = {"TFLite": self.tflite, "opset": self.opset, "IR": self.ir}
        return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)

    @model_serializer(mode="wrap")
    def _without_null(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


def operators_text(operators: dict[str, int]) -> str:
    """{"GELU": 2, "MEAN": 1} -> 2 GELU, 1 MEAN: the most frequent first."""
    ordered = sorted(operators.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in ordered)
