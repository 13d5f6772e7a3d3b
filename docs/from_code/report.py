"""The page of report.json."""

import dataclasses
import inspect
import re
from typing import Any, get_args, get_type_hints

from pydantic.fields import FieldInfo

from docs.from_code.text import code, named_in, sentence, summary_of, table


def report() -> str:
    """Every record in report.json, with its keys."""
    from eval.report.contents import Report

    records: list[Any] = [Report]
    text = []
    for record in records:  # grows as records refer to others
        rows = []
        notes = named_in(inspect.getdoc(record) or "", "Attributes")
        hints = get_type_hints(record, include_extras=True)
        for field in dataclasses.fields(record):
            about = [
                x
                for x in getattr(hints[field.name], "__metadata__", ())
                if isinstance(x, FieldInfo)
            ]
            if any(info.exclude for info in about):
                continue
            key = next((info.alias for info in about if info.alias), field.name)
            for inner in _records_in(hints[field.name]):
                if inner not in records:
                    records.append(inner)
            meaning = _in_json(notes.get(field.name, ""))
            rows.append((f"`{key}`", _type(hints[field.name]), meaning))
        summary = _in_json(summary_of(inspect.getdoc(record) or ""))
        text.append(
            f"## {record.__name__}\n\n{summary}\n\n" + table(["key", "holds", "meaning"], rows)
        )
    return "\n".join(text)


def _in_json(text: str) -> str:
    return sentence(re.sub(r"\bNone\b", "null", text))


def _records_in(hint: Any) -> list[Any]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [record for part in get_args(hint) for record in _records_in(part)]


def _type(hint: Any) -> str:
    """A type in words, with links to records."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    parts = get_args(hint)
    if hasattr(hint, "__metadata__"):
        return _type(parts[0])
    origin = getattr(hint, "__origin__", None)
    if origin in (list, tuple):
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return f"{_type(parts[1])} by name"
    if origin is not None and parts and all(isinstance(part, str) for part in parts):
        return ", ".join(code(part) for part in parts)
    if parts:
        return " or ".join(_type(part) for part in parts)
    words = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        type(None): "null",
    }
    return words.get(hint, getattr(hint, "__name__", str(hint)))
