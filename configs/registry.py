"""Names a config may choose, and the functions behind them."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from configs.errors import UserError


def nearest(word: str, known: Iterable[str]) -> str:
    """The sentence that helps with a misspelt name: its nearest neighbour and all there are."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"{hint} Known: {', '.join(known) or '(none)'}."


class Registry:
    """Functions by name.

    A function's arguments with a default are the options a config may set (checked against
    their annotations); the others are passed by the code.

    Args:
        kind: what an entry is, as errors call it ("loss").
        prefix: put before every function's name ("tflite." makes int8 tflite.int8).
    """

    def __init__(self, kind: str, prefix: str = "") -> None:
        self.kind = kind
        self.prefix = prefix
        self._functions: dict[str, Callable[..., Any]] = {}

    def add(self, function: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
        """Enter a function under its own name (or `name`); usable as a decorator."""
        name = self.prefix + (name or function.__name__)
        assert name not in self._functions, f"{self.kind} {name} is registered twice"
        self._functions[name] = function
        return function

    def __or__(self, other: "Registry") -> "Registry":
        both = Registry(self.kind)
        both._functions = {**self._functions, **other._functions}
        return both

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._functions)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name not in self._functions:
            raise UserError(f"unknown {self.kind} {name!r}.{nearest(name, self._functions)}")
        return self._functions[name]

    def _option_parameters(self, name: str) -> dict[str, inspect.Parameter]:
        parameters = inspect.signature(self[name], eval_str=True).parameters
        return {k: p for k, p in parameters.items() if p.default is not inspect.Parameter.empty}

    def options(self, name: str) -> dict[str, Any]:
        """The options of `name` and their defaults."""
        return {k: p.default for k, p in self._option_parameters(name).items()}

    def check(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """All options of `name`, the given ones checked, the others at their defaults.

        Raises:
            UserError: the name or an option is unknown, or a value does not fit.
        """
        parameters = self._option_parameters(name)
        for key in options:
            if key not in parameters:
                raise UserError(
                    f"{self.kind} {name!r} has no option {key}.{nearest(key, parameters)}"
                )
        checked = {}
        for key, parameter in parameters.items():
            checked[key] = options.get(key, parameter.default)
            if key in options and parameter.annotation is not inspect.Parameter.empty:
                checked[key] = self._checked(name, key, parameter.annotation, options[key])
        return checked

    def _checked(self, name: str, key: str, annotation: Any, value: Any) -> Any:
        try:
            return TypeAdapter(annotation, config=ConfigDict(strict=False)).validate_python(value)
        except ValidationError as error:
            # Of an annotation with several forms the one that the value came nearest to.
            problem = max(error.errors(), key=lambda each: len(each["loc"]))["msg"]
            raise UserError(
                f"option {key} of {self.kind} {name!r} is {value!r}: {problem}."
            ) from None
