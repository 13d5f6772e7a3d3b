"""Recipes as a user types them: `int8`, `onnx.int8`, `int8:num_images=200,ranges=minmax`."""

import re
from collections.abc import Mapping

from compress.recipes import RECIPES
from configs.errors import UserError
from configs.loading.yaml_text import parse_yaml
from configs.schema.choice import Choice

OPTION_ENDS = re.compile(r",(?![^\[{]*[\]}])")
"""Commas between options, not those inside of [a, b] or {a: b}."""
NO_EDGES: Mapping[str, str] = {}


def recipe_choices(words: list[str], edges: Mapping[str, str]) -> list[Choice]:
    """The recipes, with checked options.

    Args:
        words: `int8` stands for `tflite.int8`.
        edges: `input_type` and `output_type`, for the recipes that have these options.

    Raises:
        UserError: a name or an option is unknown, a recipe comes twice, or no recipe has an edge.
    """
    choices: dict[str, Choice] = {}
    for word in dict.fromkeys(words):
        choice = with_edges(_choice(word), edges)
        if choice.name in choices:
            raise UserError(
                f"--recipe {choice.name} comes twice, and both files would have one name. Give it "
                "once, or run the command again with another --out."
            )
        choices[choice.name] = choice
    for name, value in edges.items():
        if words and not any(name in choice.options for choice in choices.values()):
            option = name.replace("_", "-")
            raise UserError(
                f"--{option} {value} has no effect on {', '.join(choices)}. Recipes with this "
                f"option: {', '.join(_recipes_with(name))}."
            )
    return list(choices.values())


def with_edges(choice: Choice, edges: Mapping[str, str]) -> Choice:
    """The recipe with these options, as far as it has them."""
    known = RECIPES.options(choice.name)
    options = {**choice.options, **{name: v for name, v in edges.items() if name in known}}
    return Choice(name=choice.name, options=RECIPES.check(choice.name, options))


def _recipes_with(option: str) -> list[str]:
    return [name for name in RECIPES.names() if option in RECIPES.options(name)]


def _choice(word: str) -> Choice:
    name, _, text = word.partition(":")
    name = name if "." in name else f"tflite.{name}"
    options = {}
    for part in OPTION_ENDS.split(text) if text else []:
        key, sign, value = part.partition("=")
        if not sign:
            raise UserError(
                f"--recipe {word}: expected options as NAME=VALUE, as in int8:num_images=200."
            )
        try:
            options[key.strip()] = parse_yaml(value)
        except ValueError as error:
            raise UserError(f"--recipe {word}: {error}") from None
    return Choice(name=name, options=RECIPES.check(name, options))
