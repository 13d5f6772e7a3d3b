"""`EvaluateConfig`: where and how often files are measured."""

from typing import Annotated

from pydantic import Field, model_validator

from configs.records import Strict
from configs.schema.choice import Choice


class EvaluateConfig(Strict):
    devices: Annotated[list[Choice], Field(min_length=1)] = [Choice(name="local")]
    """Where latency is measured."""
    num_threads: Annotated[int, Field(gt=0)] = 1
    num_warmup: Annotated[int, Field(ge=0)] = 10
    """Least number of executions before a timed round. More follow until times settle. 0: none."""
    num_runs: Annotated[int, Field(gt=0)] = 200
    """Timed executions of each file, in rounds of ten. More executions show smaller differences."""
    corruptions: list[str] = []
    """Also score models and files on corrupted test photos. Choose from blur, brightness, contrast,
    jpeg, noise and pixelate; each has five strengths."""
    num_corrupted: Annotated[int, Field(gt=0)] = 200
    """Number of test photos to corrupt. Each is scored five times for each corruption."""

    @model_validator(mode="after")
    def _something_is_corrupted(self) -> "EvaluateConfig":
        if self.num_corrupted != 200 and not self.corruptions:
            raise ValueError(
                "num_corrupted has no effect without corruptions; add some, or leave it out"
            )
        return self
