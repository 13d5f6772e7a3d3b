"""Registries: the functions behind the names that a config may choose."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, overload

from pydantic import ConfigDict, TypeAdapter, ValidationError

from configs.errors import UserError

Function = TypeVar("Function", bound=Callable[..., Any])


def nearest(word: str, names: Iterable[str]) -> str:
    """A hint for a misspelt word: the most similar name, and the list of all names."""
    names = sorted(names)
    matches = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f" Did you mean {matches[0]}?" if matches else ""
    return f"{hint} Known: {', '.join(names) or '(none)'}."


class Registry:
    """Functions that a config may choose by name.

    A function's arguments with a default are the options that a config may set. Their values are
    checked against the annotations. The code passes all other arguments.

    Args:
        kind: the noun that errors use for an entry ("loss").
        prefix: stands before every function's name ("tflite." makes int8 tflite.int8).
        label: returns what results call a choice, from its name and options. A config may not
            hold two choices of one label. By default the label is the name.
    """

    def __init__(
        self,
        kind: str,
        prefix: str = "",
        label: Callable[[str, Mapping[str, Any]], str] = lambda name, options: name,
    ) -> None:
        self.kind = kind
        self.prefix = prefix
        self.label = label
        self._functions: dict[str, Callable[..., Any]] = {}
        self._facts: dict[str, Mapping[str, Any]] = {}
        self._retired: dict[str, str] = {}

    @overload
    def add(self, function: Function, /, *, name: str | None = None) -> Function: ...

    @overload
    def add(
        self, /, *, name: str | None = None, **facts: Any
    ) -> Callable[[Function], Function]: ...

    def add(
        self, function: Function | None = None, /, *, name: str | None = None, **facts: Any
    ) -> Function | Callable[[Function], Function]:
        """Register a function under its own name, or under `name`.

        Works as a bare decorator and with keywords. The keywords are facts about the function,
        which `facts` returns:

            @METHODS.add(undone_by=("channels",))
            def cluster(model, num_clusters: int = 16): ...
        """
        if function is None:
            return lambda decorated: self._enter(decorated, name, facts)
        return self._enter(function, name, facts)

    def _enter(self, function: Function, name: str | None, facts: Mapping[str, Any]) -> Function:
        name = self.prefix + (name or function.__name__)
        assert name not in self._functions, f"{self.kind} {name} is registered twice"
        self._functions[name] = function
        self._facts[name] = facts
        return function

    def retire(self, name: str, advice: str) -> None:
        """Note a name that configs of earlier versions may hold.

        Args:
            advice: what replaces it, and what to write instead.
        """
        self._retired[name] = advice

    def __or__(self, other: "Registry") -> "Registry":
        both = Registry(self.kind)
        both._functions = {**self._functions, **other._functions}
        both._facts = {**self._facts, **other._facts}
        both._retired = {**self._retired, **other._retired}
        return both

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._functions)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        if name in self._retired:
            raise UserError(f"{self.kind} {name!r} is gone: {self._retired[name]}")
        if name not in self._functions:
            raise UserError(f"unknown {self.kind} {name!r}.{nearest(name, self._functions)}")
        return self._functions[name]

    def facts(self, name: str) -> Mapping[str, Any]:
        """The keywords that `name` was registered with; empty for a bare decorator.

        Raises:
            UserError: no function has this name.
        """
        self[name]
        return self._facts[name]

    def name_by_ending(self, file_name: str) -> str | None:
        """The entry whose fact `endings` names the ending of a file; None if there is none."""
        small = file_name.lower()
        endings = {name: facts.get("endings", ()) for name, facts in self._facts.items()}
        return next((name for name, ends in endings.items() if small.endswith(ends)), None)

    def _option_parameters(self, name: str) -> dict[str, inspect.Parameter]:
        parameters = inspect.signature(self[name], eval_str=True).parameters
        return {k: p for k, p in parameters.items() if p.default is not inspect.Parameter.empty}

    def options(self, name: str) -> dict[str, Any]:
        """The options of `name` with their defaults."""
        return {k: p.default for k, p in self._option_parameters(name).items()}

    def check(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Every option of `name`: the values in `options`, checked, and defaults for the rest.

        A function whose options depend on each other is registered with a fact `check`. It takes
        all of them, raises UserError or returns those that a config should hold.

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
        if "check" in self._facts[name]:
            return self._facts[name]["check"](checked)
        return checked

    def _checked(self, name: str, key: str, annotation: Any, value: Any) -> Any:
        try:
            config = ConfigDict(strict=False, allow_inf_nan=False)
            return TypeAdapter(annotation, config=config).validate_python(value)
        except ValidationError as error:
            # An annotation with several alternatives has one problem for each. The longest path
            # belongs to the alternative that fits best.
            problem = max(error.errors(), key=lambda problem: len(problem["loc"]))["msg"]
            raise UserError(
                f"option {key} of {self.kind} {name!r} is {value!r}: {problem}."
            ) from None
