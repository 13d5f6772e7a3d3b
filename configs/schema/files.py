"""`CompressConfig`: what becomes of the student, which files are made, and within which limits."""

from typing import Annotated, Literal

from pydantic import Field

from configs.records import Share, Strict
from configs.schema.choice import Choice

Positive = Annotated[float, Field(gt=0)]
OutputKind = Literal["probabilities", "logits"]


class BudgetConfig(Strict):
    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Validation top-1 that the chosen file may lose against the student (0.01: one point)."""
    max_latency_ms: Positive | None = None
    """Largest median latency of the chosen file on the first device. null: no limit."""
    max_bytes: Annotated[int, Field(gt=0)] | None = None
    """Largest size of the chosen file. null: no limit."""


class LeastRuntime(Strict):
    """The oldest runtime that has to open the files."""

    tflite: Annotated[str, Field(pattern=r"^\d+\.\d+(\.\d+)?$")] | None = None
    """A version of TensorFlow Lite in quotes, such as "2.14". A recipe that needs a newer one is
    refused. null: the newest."""


class CompressConfig(Strict):
    methods: list[Choice] = []
    """Methods that make the student smaller, in this order. Each works on the result before it."""
    recipes: Annotated[list[Choice], Field(min_length=1)] = [
        Choice(name="tflite.float32"),
        Choice(name="tflite.int8"),
    ]
    """File formats. Each recipe converts the student and the result of each method."""
    output: OutputKind = "probabilities"
    """What the exported files return."""
    calibrate: bool = True
    """Fit one temperature on the validation photos and fold it into the last layer of every model
    that becomes a file. Its answers stay the same; its scores say how often it is right."""
    accepted_accuracy: Share | None = 0.95
    """Write a threshold into each file: the lowest score above which this share of the validation
    photos is right, with one standard error to spare. Below it, a photo may show none of the
    classes. null: none."""
    budget: BudgetConfig = BudgetConfig()
    least_runtime: LeastRuntime = LeastRuntime()
