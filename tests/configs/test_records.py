from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from configs.errors import UserError
from configs.records import from_json, to_json


@dataclass(frozen=True)
class Latency:
    p50_ms: float


@dataclass(frozen=True)
class Row:
    path: Path
    parent: Annotated[str | None, Field(alias="source")]
    latency: list[Latency]


def test_a_record_becomes_json_and_comes_back() -> None:
    row = Row(Path("a.onnx"), parent="student", latency=[Latency(0.5)])
    value = to_json(row)
    assert value == {"path": "a.onnx", "source": "student", "latency": [{"p50_ms": 0.5}]}
    assert from_json(Row, value) == row
    assert to_json([row]) == [value]


def test_a_record_that_does_not_fit_names_the_field() -> None:
    with pytest.raises(UserError, match=r"a stored Row cannot be read: latency\.0\.p50_ms"):
        from_json(Row, {"path": "a", "source": None, "latency": [{"p50_ms": "slow"}]})
