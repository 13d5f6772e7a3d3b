"""Frozen dataclasses as JSON and back: one way for every record that is stored or printed.

The fields of a dataclass are the keys of its JSON object. Where a key of report.json has another
name than its field (`source` for `parent`), the field carries an alias:

    parent: Annotated[str | None, Field(alias="source")]
"""

from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from configs.errors import UserError

Record = TypeVar("Record")


def to_json(record: Any) -> Any:
    """The JSON value of a dataclass, or of lists and dictionaries of them."""
    if isinstance(record, list | tuple):
        return [to_json(item) for item in record]
    if isinstance(record, dict):
        return {str(key): to_json(value) for key, value in record.items()}
    return _adapter(type(record)).dump_python(record, mode="json", by_alias=True)


def from_json(kind: type[Record], value: Any) -> Record:
    """The dataclass of a JSON value that `to_json` made; keys that it does not know are ignored.

    Raises:
        UserError: a field is missing or holds another type.
    """
    try:
        return cast(Record, _adapter(kind).validate_python(value))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UserError(
            f"a stored {kind.__name__} cannot be read: {where}: {problem['msg']}. It may be of "
            "another version of Potstill. Run the step that writes it again."
        ) from None


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}
"""Of every kind of record once: pydantic takes milliseconds to make one."""


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
