"""What the generated pages share: Markdown, docstrings, and values in words."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; empty without rows."""
    lines = ["| " + " | ".join(_cell(text) for text in row) + " |" for row in rows]
    head = list(head)
    return "\n".join(
        [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines, ""] * bool(lines)
    )


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", r"\|")


def plain(text: str) -> str:
    """Text of a help or docstring as Markdown: its signs mean themselves, but for backquotes."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", part) for part in parts
    )


def sentence(text: str) -> str:
    """A note of a docstring with a capital letter, unless a name stands first."""
    text = plain(text)
    return text[:1].upper() + text[1:]


def code(value: Any) -> str:
    """A value as a config holds it."""
    if isinstance(value, Mapping) and set(value) == {"name"}:
        value = value["name"]
    if isinstance(value, list):
        return f"`[{', '.join(code(item).strip('`') for item in value)}]`"
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def slug(title: str) -> str:
    """The anchor of a heading, as code hosts and MyST make it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def summary_of(doc: str) -> str:
    """What stands before the first section of a docstring."""
    return re.split(r"^(?:Args|Returns|Raises|Attributes):$", doc, flags=re.MULTILINE)[0].strip()


def named_in(doc: str, section: str) -> dict[str, str]:
    """The lines `name: text` of a section of a docstring, by name."""
    match = re.search(rf"^{section}:\n(.*?)(?=^\S|\Z)", doc, re.DOTALL | re.MULTILINE)
    found = re.findall(
        r"^ {4}(\w[\w, ]*): (.*?)(?=^ {4}\w|\Z)", match[1] if match else "", re.M | re.S
    )
    return {name: text for names, text in found for name in names.split(", ")}


def values_of(schema: Mapping[str, Any], link: Callable[[str], str]) -> str:
    """Which values a JSON schema allows, in words.

    Args:
        link: Markdown for the name of a definition that the schema refers to.
    """
    if "$ref" in schema:
        return link(schema["$ref"].rpartition("/")[2])
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(values_of(part, link) for part in alternatives))
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    if "const" in schema:
        return code(schema["const"])
    kind = schema.get("type")
    if kind == "array":
        if "prefixItems" in schema:
            items = ", ".join(values_of(item, link) for item in schema["prefixItems"])
            return f"[{items}]"
        return f"list of {values_of(schema.get('items', {}), link)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        keys = values_of(schema.get("propertyNames", {}), link).replace("any value", "keys")
        return f"{keys} with {values_of(schema['additionalProperties'], link)}"
    words = {
        "integer": "whole number", "boolean": "`true`, `false`", "null": "`null`",
        "string": "path" if schema.get("format") == "path" else "text",
    }  # fmt: skip
    limits = {
        "minimum": "at least", "exclusiveMinimum": "above",
        "maximum": "at most", "exclusiveMaximum": "below",
    }  # fmt: skip
    bounds = [f"{word} {schema[key]}" for key, word in limits.items() if key in schema]
    return ", ".join([words.get(kind or "", kind or "any value"), *bounds])
