"""The page of the config."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from docs.from_code.names import PLACES, title_of
from docs.from_code.text import code, plain, slug, table, values_of


def config() -> str:
    """Every key of a config, section by section."""
    from configs.schema import json_schema

    schema = json_schema()
    definitions = schema["$defs"]
    text: list[str] = []

    def section(title: str, key: str, node: Mapping[str, Any]) -> None:
        """The table of one section. What it contains follows behind it, with a title of its own."""
        below: list[tuple[str, str]] = []
        prefix = f"{key}." if key else ""

        def link(name: str, *, word: str) -> str:
            if name == "Choice":
                kind = word if word.endswith("ss") else word.removesuffix("s")
                place = PLACES.get(kind, f"choices.md#{slug(title_of(kind))}")
                return f"[a name, or a name with options]({place})"
            # A teacher is trained or given: two definitions at one place.
            refs = json.dumps(node["properties"][word]).count("#/$defs/")
            title = f"{prefix}{word}" + (f": {name}" if refs > 1 else "")
            if (title, name) not in below:
                below.append((title, name))
            return f"[{title}](#{slug(title)})"

        rows = []
        for word, value in node["properties"].items():
            default = "" if "$ref" in value and "Choice" not in value["$ref"] else None
            if default is None:
                default = code(value["default"]) if "default" in value else "must be set"
            values = values_of(value, partial(link, word=word))
            rows.append((f"`{prefix}{word}`", values, default, plain(value.get("description", ""))))
        note = plain(node.get("description", "")) if key else ""
        text.append(
            f"## {title}\n\n{note}\n\n" + table(["key", "values", "default", "meaning"], rows)
        )
        for inner, name in below:
            section(inner, inner.partition(":")[0], definitions[name])

    section("Sections", "", schema)
    return "\n".join(text)
