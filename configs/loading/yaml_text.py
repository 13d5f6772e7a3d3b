"""YAML as Potstill reads and writes it: a value is exactly what the text says.

OmegaConf, which does most of this, also expands `${...}` and offers no way to turn that off. A
folder called `${oc.env:HOME}` would become another folder.
"""

import re
from pathlib import Path
from typing import Any

import yaml

MAX_NODES = 10_000
"""A config has a few hundred nodes. Nested aliases can expand a short text to billions."""

NUMBER_WITH_EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which no key appears twice and aliases cannot exhaust the memory."""

    def construct_document(self, node: yaml.Node) -> Any:
        _check_size(node)
        return super().construct_document(node)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # PyYAML calls this for every mapping, before it merges the keys of `<<`.
        names = [key.value for key, _ in node.value if key.tag == "tag:yaml.org,2002:str"]
        for key, _ in node.value:
            if names.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} appears twice", key.start_mark
                )
        super().flatten_mapping(node)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that `_Loader` would otherwise read as a number."""


def _check_size(node: yaml.Node) -> None:
    pending, num_nodes = [node], 0
    while pending:
        current = pending.pop()
        num_nodes += 1
        if num_nodes > MAX_NODES:
            raise yaml.constructor.ConstructorError(
                None, None, f"the text has more than {MAX_NODES} values", node.start_mark
            )
        if isinstance(current, yaml.SequenceNode):
            pending += current.value
        elif isinstance(current, yaml.MappingNode):
            pending += [child for pair in current.value for child in pair]


def _without(kinds: tuple[str, ...], resolvers: dict[str, list]) -> dict[str, list]:
    """What texts without quotes may stand for, without these kinds."""
    tags = [f"tag:yaml.org,2002:{kind}" for kind in kinds]
    return {
        first: [(tag, regexp) for tag, regexp in pairs if tag not in tags]
        for first, pairs in resolvers.items()
    }


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes can escape line breaks such as U+0085, which a name may contain.
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)

for _kind in (_Loader, _Dumper):
    # No option is a date, and "=" is a text. In YAML 1.1, which PyYAML reads, 1e-3 is a text, too;
    # people mean a number.
    _kind.yaml_implicit_resolvers = _without(("timestamp", "value"), _kind.yaml_implicit_resolvers)
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", NUMBER_WITH_EXPONENT, list("-+.0123456789")
    )


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: the text is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader: no code is executed
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("the text is nested too deeply") from None


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not YAML.
    """
    return parse_yaml(path.read_text(encoding="utf-8"))


def dump_yaml(value: Any) -> str:
    """A JSON-like value as YAML text that `parse_yaml` reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
