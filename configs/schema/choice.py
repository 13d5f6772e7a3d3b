"""`Choice`: a registered name and its options."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator


class Choice(BaseModel):
    """A registered name and its options. A bare name is a choice without options."""

    model_config = ConfigDict(frozen=True)
    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value, "options": {}}
        if isinstance(value, Mapping) and "options" not in value:
            return {
                "name": value.get("name"),
                "options": {k: v for k, v in value.items() if k != "name"},
            }
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        options = {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
            "additionalProperties": True,
        }
        return {"anyOf": [{"type": "string"}, options]}

    @model_serializer
    def _to_yaml(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}
