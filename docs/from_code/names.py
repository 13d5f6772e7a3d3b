"""The pages of names that a config may choose: losses, methods, recipes, backbones and others."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import TypeAdapter

from configs.registry import Registry
from docs.from_code.text import code, named_in, plain, sentence, summary_of, table, values_of

PLACES = {
    "backbone": "backbones.md", "loss": "losses.md", "feature_loss": "losses.md",
    "method": "methods.md", "recipe": "recipes.md",
}  # fmt: skip
"""The page of a kind of names; `choices.md` has the others."""


def entries(registry: Registry, level: str = "##") -> str:
    """Every name of a registry: what it does, its options, and their defaults."""
    return "\n".join(_entry(registry, name, level) for name in registry.names())


def _entry(registry: Registry, name: str, level: str) -> str:
    function = registry[name]
    doc = inspect.getdoc(function) or ""
    notes = named_in(doc, "Args")
    parameters = inspect.signature(function, eval_str=True).parameters
    rows = []
    for option, default in registry.options(name).items():
        schema = TypeAdapter(parameters[option].annotation).json_schema()
        definitions = schema.get("$defs", {})
        values = values_of(schema, partial(_defined, definitions))
        rows.append((f"`{option}`", values, code(default), sentence(notes.get(option, ""))))
    options = table(["option", "values", "default", "meaning"], rows)
    return f"{level} {name}\n\n{plain(summary_of(doc))}\n\n{options}"


def _defined(definitions: Mapping[str, Any], name: str) -> str:
    return values_of(definitions[name], str)


def names(*kinds: str, titles: bool = False) -> Callable[[], str]:
    """A page for some kinds of names."""

    def page() -> str:
        from compress.config_choices import REGISTRIES

        chosen = kinds or [kind for kind in REGISTRIES if kind not in PLACES]
        return "\n".join(
            f"## {title_of(kind)}\n\n{entries(REGISTRIES[kind], '###')}" if titles
            else entries(REGISTRIES[kind])
            for kind in chosen
        )  # fmt: skip

    return page


def backbones() -> str:
    """A table of all built-in networks, and the entry of those that are files."""
    from compress.config_choices import REGISTRIES
    from distill.backbones.catalogue import backbone_rows

    registry = REGISTRIES["backbone"]
    rows = [
        (
            f"`{row.name}`", f"{row.num_parameters / 1e6:.1f}",
            "" if row.num_macs is None else f"{row.num_macs / 1e6:,.0f}",
            f"{row.image_size}", f"{row.smallest_image}",
            "no" if row.imagenet_here == "none published" else "yes",
            ", ".join(f"`{option}`" for option in registry.options(row.name)),
        )
        for row in backbone_rows()
    ]  # fmt: skip
    head = [
        "name",
        "million parameters",
        "million MACs",
        "input, px",
        "smallest",
        "ImageNet",
        "options",
    ]
    others = [name for name in registry.names() if not registry.facts(name).get("image_size")]
    return table(head, rows) + "\n" + "\n".join(_entry(registry, name, "##") for name in others)


def title_of(kind: str) -> str:
    plural = {"strategy": "strategies", "loss": "losses", "feature_loss": "feature losses"}
    return plural.get(kind, f"{kind}s").capitalize()
