"""Seeded changes to bytes, texts, JSON values and protobuf messages.

A `random.Random` of the same seed gives the same input, so a fault needs no stored file.
"""

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

Rng = random.Random

NUMBERS = (
    0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
WORDS = (
    "", " ", "x" * 5000, "null", "-1", "0", "1e400", "nan", "-inf", "..", "../../escaped",
    "/proc/no/x", "~", "~nobody-there", "${HOME}", "$(touch canary)", "`id`", "-", "[/]", "[bold",
    "--", "a=b=c", "\x1b[2J\x1b]0;title\x07", "\u202egnp.exe", "\x00", "\udcff", "\ud800",
    "\U0001f600" * 40, "naïve\n\nline", "%s%n%d", "{0}", "é" * 300, "con", "a/b/c", "x.tflite",
    "__import__('os').system('touch canary')", "os.system", "eval", "Lambda", "function",
)  # fmt: skip


def scalars() -> list[Any]:
    """Values where others are expected."""
    return [
        None, True, False, -1, 0, 1, 2**31 - 1, 2**31, -(2**63), 2**63, 2**80, 0.5, -0.0, 1e-320,
        1e308, math.nan, math.inf, -math.inf, [], {}, [[]], [None], {"": None}, [[[[1]]]],
        {"name": None}, {"class_name": "Lambda", "config": {}}, *WORDS,
    ]  # fmt: skip


def mutated_bytes(rng: Rng, data: bytes) -> bytes:
    """The bytes with one to thirty changes."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8, 30))):
        if content:
            rng.choice(BYTE_CHANGES)(rng, content)
    return bytes(content)


def _place(rng: Rng, content: bytearray) -> int:
    # Headers are small and say most, so half of the changes are near the beginning or the end.
    near = min(len(content), 256)
    choice = rng.random()
    if choice < 0.4:
        return rng.randrange(near)
    return len(content) - 1 - rng.randrange(near) if choice < 0.5 else rng.randrange(len(content))


def _flip(rng: Rng, content: bytearray) -> None:
    content[_place(rng, content)] ^= 1 << rng.randrange(8)


def _set(rng: Rng, content: bytearray) -> None:
    content[_place(rng, content)] = rng.randrange(256)


def _set_number(rng: Rng, content: bytearray) -> None:
    width = rng.choice((1, 2, 4, 4, 8))
    number = rng.choice(NUMBERS) % 2 ** (8 * width)
    at = _place(rng, content)
    written = number.to_bytes(width, rng.choice(("little", "big")))
    content[at : at + width] = written[: len(content) - at]


def _add_to_number(rng: Rng, content: bytearray) -> None:
    at = _place(rng, content)
    content[at] = (content[at] + rng.choice((-16, -4, -1, 1, 4, 16))) % 256


def _span(rng: Rng, content: bytearray) -> tuple[int, int]:
    at = _place(rng, content)
    return at, min(at + rng.choice((1, 2, 4, 8, 32, 500)), len(content))


def _delete(rng: Rng, content: bytearray) -> None:
    start, end = _span(rng, content)
    del content[start:end]


def _repeat(rng: Rng, content: bytearray) -> None:
    start, end = _span(rng, content)
    content[start:start] = content[start:end] * rng.choice((1, 2, 50))


def _insert(rng: Rng, content: bytearray) -> None:
    at = _place(rng, content)
    content[at:at] = rng.randbytes(rng.choice((1, 2, 4, 64)))


def _copy(rng: Rng, content: bytearray) -> None:
    start, end = _span(rng, content)
    at = _place(rng, content)
    content[at : at + end - start] = content[start:end]


def _fill(rng: Rng, content: bytearray) -> None:
    start, end = _span(rng, content)
    content[start:end] = bytes([rng.choice((0, 0, 255))]) * (end - start)


def _cut(rng: Rng, content: bytearray) -> None:
    del content[rng.randrange(len(content)) :]


BYTE_CHANGES: tuple[Callable[[Rng, bytearray], None], ...] = (
    _flip, _flip, _set, _set_number, _set_number, _set_number, _add_to_number, _add_to_number,
    _delete, _repeat, _insert, _copy, _copy, _fill, _cut,
)  # fmt: skip


def mutated_text(rng: Rng, text: str, lines: tuple[str, ...] = ()) -> str:
    """The text with changes to its lines and words.

    Args:
        lines: hostile ones that may be added.
    """
    parts = text.splitlines() or [""]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, change = rng.randrange(len(parts)), rng.randrange(7)
        if change == 0 and lines:
            parts.insert(at, rng.choice(lines))
        elif change == 1:
            parts.insert(at, rng.choice(parts))
        elif change == 2 and len(parts) > 1:
            del parts[at]
        elif change == 3:
            parts[at] = " " * rng.randrange(5) + parts[at].lstrip()
        elif change == 4:
            before, colon, _ = parts[at].partition(rng.choice((":", " ", ",", "=")))
            parts[at] = before + colon + rng.choice(WORDS)
        elif change == 5:
            start = rng.randrange(len(parts[at]) + 1)
            parts[at] = parts[at][:start] + rng.choice(WORDS) + parts[at][start + 1 :]
        else:
            word = rng.choice((*WORDS, "[", "]", "{", "}", "&a", "*a", "!!map", "<<", "|", "?"))
            parts[at] += word
    return "\n".join(parts) + rng.choice(("\n", ""))


def mutated_json(rng: Rng, value: Any, values: tuple[Any, ...] = ()) -> Any:
    """A JSON value with one to four parts changed.

    Args:
        values: hostile ones that may replace a part.
    """
    whole = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(whole))
        holder, key = rng.choice(places)
        change = rng.randrange(10)
        if change < 3:
            holder[key] = copy.deepcopy(rng.choice((*scalars(), *values)))
        elif change < 5 and values:
            holder[key] = copy.deepcopy(rng.choice(values))
        elif change < 7:
            holder[key] = _other(rng, holder[key])
        elif change == 7 and len(places) > 1 and holder is not whole:
            del holder[key]
        elif change == 8:
            other, at = rng.choice(places)
            holder[key] = copy.deepcopy(other[at])
        elif isinstance(holder, dict):
            holder[rng.choice((*WORDS, str(key).upper(), f"{key}s"))] = holder[key]
        else:
            holder[key] = [holder[key]]
    return whole[0]


def _places(node: Any) -> Any:
    for key in node if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])


def _other(rng: Rng, value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return rng.choice((-value, value + 1, value - 1, value * 1000, 0, -1, *NUMBERS))
    if isinstance(value, float):
        return rng.choice((-value, value * 1e6, 0.0, math.nan, math.inf))
    if isinstance(value, str):
        return rng.choice((*WORDS, value[::-1], value[:-1], value.upper(), value * 3))
    if isinstance(value, list):
        return rng.choice((value[::-1], value[:-1], value * 2, value * 50))
    return dict(list(value.items())[::-1][:-1])


def as_json(value: Any) -> bytes:
    """JSON as a careless program writes it: with NaN, and with lone surrogates."""
    return json.dumps(value).encode()


def mutated_message(rng: Rng, message: Any) -> Any:
    """A protobuf message with one to four fields changed, at any depth."""
    changed = copy.deepcopy(message)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        holders = list(_messages(changed))
        holder = rng.choice(holders)
        fields = holder.DESCRIPTOR.fields
        if fields:
            try:
                _change_field(rng, holder, rng.choice(fields), holders)
            except (TypeError, ValueError, AttributeError, OverflowError):
                continue  # the field cannot hold that value
    return changed


def _messages(message: Any) -> Any:
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE and not _is_map(field):
            for part in value if _is_repeated(field) else [value]:
                yield from _messages(part)


def _is_map(field: Any) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _change_field(rng: Rng, holder: Any, field: Any, holders: list[Any]) -> None:
    if field.type == field.TYPE_MESSAGE:
        same = [m for m in holders if m.DESCRIPTOR is field.message_type]
        if _is_repeated(field):
            values = getattr(holder, field.name)
            if len(values) and rng.random() < 0.5:
                del values[rng.randrange(len(values))]
            elif same:
                values.append(copy.deepcopy(rng.choice(same)))
        elif same:
            getattr(holder, field.name).CopyFrom(copy.deepcopy(rng.choice(same)))
        else:
            holder.ClearField(field.name)
        return
    if rng.random() < 0.15:
        holder.ClearField(field.name)
        return
    if field.cpp_type == field.CPPTYPE_STRING:
        is_text = field.type == field.TYPE_STRING
        own = getattr(holder, field.name) if not _is_repeated(field) else ""
        word = rng.choice([w for w in WORDS if w.isprintable()])
        value: Any = word if is_text else rng.choice((word.encode(), rng.randbytes(8)))
        if not is_text and own and rng.random() < 0.6:
            value = mutated_bytes(rng, own)
    elif field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        value = rng.choice((0.0, -1.0, math.nan, math.inf, 1e30))
    elif field.cpp_type == field.CPPTYPE_ENUM:
        value = rng.choice([v.number for v in field.enum_type.values])
    else:
        number = rng.choice((*NUMBERS, -1, -2, 3, 7, rng.randrange(1000)))
        value = (number + 2**31) % 2**32 - 2**31 if rng.random() < 0.5 else number
    if not _is_repeated(field):
        setattr(holder, field.name, value)
        return
    values = getattr(holder, field.name)
    if len(values) and rng.random() < 0.7:
        values[rng.randrange(len(values))] = value
    else:
        values.append(value)


def mutated_object(rng: Rng, root: Any) -> Any:
    """An object of flatbuffers' object API (`ModelT`) with one to four members changed."""
    changed = copy.deepcopy(root)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        holder, key = rng.choice(list(_members(changed)))
        value = _get(holder, key)
        if isinstance(value, bool | int | float) or hasattr(value, "dtype"):
            number = rng.choice((*NUMBERS, -1, -2, 3, 7, 100, rng.randrange(300)))
            value = (number + 2**31) % 2**32 - 2**31 if rng.random() < 0.7 else number
            if rng.random() < 0.5:
                value = rng.choice((-1, 0, 1, 2, 3, 5, 127, rng.randrange(160)))
        elif isinstance(value, bytes):
            value = mutated_bytes(rng, value)
        elif isinstance(value, list):
            value = rng.choice((value[:-1], value * 2, value[::-1], [], None))
        else:
            value = None
        _put(holder, key, value)
    return changed


def _members(node: Any) -> Any:
    keys = range(min(len(node), 64)) if isinstance(node, list) else list(vars(node))
    for key in keys:
        value = _get(node, key)
        if value is None:
            continue
        yield node, key
        if isinstance(value, list) or hasattr(value, "__dict__"):
            yield from _members(value)
        elif hasattr(value, "dtype") and value.ndim == 1:
            for place in range(min(len(value), 8)):
                yield value, place


def _get(holder: Any, key: Any) -> Any:
    return getattr(holder, key) if isinstance(key, str) else holder[key]


def _put(holder: Any, key: Any, value: Any) -> None:
    if isinstance(key, str):
        setattr(holder, key, value)
    elif isinstance(holder, list):
        holder[key] = value
    else:
        holder[key] = value % 2 ** (8 * holder.itemsize - 1)
