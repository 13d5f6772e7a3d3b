"""`TuneConfig`: what `distill tune` searches."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from configs.records import Strict


class Range(Strict):
    """Numbers from low to high: whole numbers if both are written without a point."""

    low: int | float
    high: int | float
    log: bool = False
    """Search the logarithm: 1e-4 to 1e-3 gets as many trials as 1e-3 to 1e-2."""

    @model_validator(mode="after")
    def _in_order(self) -> "Range":
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("log needs a low above 0")
        return self


Values = Range | Annotated[list[Any], Field(min_length=1)]


class TuneConfig(Strict):
    trials: Annotated[int, Field(gt=0)] = 20
    """Number of students to train. The limits are those of compress.budget."""
    space: Annotated[dict[str, Values], Field(min_length=1)] = {
        "student.loss.temperature": Range(low=1.0, high=8.0, log=True),
        "student.soft_weight": Range(low=0.3, high=1.0),
        "student.learning_rate": Range(low=1e-4, high=3e-3, log=True),
    }
    """What to change: keys of student, soft_labels, views or compress, each with a range or a list
    of values. All trials share the photos and the teacher."""
