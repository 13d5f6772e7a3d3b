"""Convert frozen dataclasses to JSON values and back.

The fields of a dataclass become the keys of a JSON object. Some keys of report.json differ from
their field: the key `source` holds the field `parent`. Such a field has an alias:

    parent: Annotated[str | None, Field(alias="source")]
"""

from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from configs.errors import UserError

Record = TypeVar("Record")
Share = Annotated[float, Field(ge=0, lt=1)]


class Strict(BaseModel):
    """A frozen section of a config in which unknown keys are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,  # JSON has neither, so no manifest could hold them
    )


def to_json(record: Any) -> Any:
    """The JSON value of a dataclass, or of a list or dictionary of dataclasses."""
    if isinstance(record, list | tuple):
        return [to_json(item) for item in record]
    if isinstance(record, dict):
        return {str(key): to_json(value) for key, value in record.items()}
    return _adapter(type(record)).dump_python(record, mode="json", by_alias=True)


def from_json(kind: type[Record], value: Any) -> Record:
    """The dataclass of a JSON value that `to_json` wrote. Unknown keys are ignored.

    Raises:
        UserError: a field is missing or has another type.
    """
    try:
        return cast(Record, _adapter(kind).validate_python(value))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UserError(
            f"a stored {kind.__name__} cannot be read: {where}: {problem['msg']}. Another version "
            "of Potstill may have written it. Run the step that writes it again."
        ) from None


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}
"""One adapter for each kind of record, because pydantic takes milliseconds to build one."""


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
