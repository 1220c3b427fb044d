"""MessagePack that is nested too deeply for msgspec, which works recursively.

How deep that is depends on Python's version and on the stack, so the protocol
has a limit of its own, far below. The walk here keeps no stack of calls; it is
slow, and only for what nobody sends in earnest.
"""

from __future__ import annotations

from typing import Any

from tallymark.errors import ProtocolError
from tallymark.events import EVENT_DEPTH_MAX

NIL = b"\xc0"

_ARRAY, _MAP = 0x90, 0x80

_EVENTS = tuple(head + b"events" for head in (b"\xa6", b"\xd9\6", b"\xda\0\6", b"\xdb\0\0\0\6"))
"""The name of the member that has a batch's events, in every form it may come in."""

# Of the types from 0xC0 on: bytes of the length that follows the first byte, and
# bytes that follow without one.
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_SIZES = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
    0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
_EXTENSIONS = (0xC7, 0xC8, 0xC9)
_CONTAINERS = {0xDC: (_ARRAY, 2), 0xDD: (_ARRAY, 4), 0xDE: (_MAP, 2), 0xDF: (_MAP, 4)}


def is_too_deep(data: bytes | memoryview) -> bool:
    """Whether the value has containers in containers over ``EVENT_DEPTH_MAX`` times.

    Raises ``ProtocolError`` for what is no MessagePack.
    """
    return _walk(memoryview(data), 0)[1] > EVENT_DEPTH_MAX


def is_deep(values: dict[str, Any], level: int) -> bool:
    """The same of a map that was decoded: the event's own (level 1), or its attrs (level 2)."""
    layer: list[Any] = [values]
    for _ in range(level, EVENT_DEPTH_MAX + 1):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list, tuple))
        ]
        if not layer:
            return False
    return True


def without_deep_values(payload: bytes | memoryview) -> bytes:
    """A message with nil in place of each event, or other value, that is too deep.

    So one such event is refused and its neighbours are not. Raises ``ProtocolError``.
    """
    data = memoryview(payload)
    kind, count, at = _container(data, 0)
    if kind != _MAP:
        raise ProtocolError("cannot understand a message of the client: it is no map")
    parts: list[bytes | memoryview] = [data[:at]]
    for _ in range(count // 2):
        value_at, _ = _walk(data, at)
        key = data[at:value_at]
        parts.append(key)
        if key in _EVENTS and _container(data, value_at)[0] == _ARRAY:
            _, events, at = _container(data, value_at)
            parts.append(data[value_at:at])
        else:
            events, at = 1, value_at
        for _ in range(events):
            end, depth = _walk(data, at)
            parts.append(NIL if depth > EVENT_DEPTH_MAX else data[at:end])
            at = end
    return b"".join((*parts, data[at:]))


def _walk(data: memoryview, at: int) -> tuple[int, int]:
    """Where the value that begins here ends, and how deeply it is nested."""
    left = [1]
    deepest = 0
    while left:
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        kind, count, at = _container(data, at)
        if kind:
            left.append(count)
            deepest = max(deepest, len(left) - 1)
    return at, deepest


def _container(data: memoryview, at: int) -> tuple[int, int, int]:
    """An array's or map's kind, number of values and where they begin; for any other
    value 0, 0 and its end."""
    if at >= len(data):
        raise ProtocolError("cannot understand a message of the client: it is truncated")
    first = data[at]
    at += 1
    if first < 0x80 or first >= 0xE0:
        return 0, 0, at
    if first < 0xA0:
        kind = first & 0xF0
        return kind, (first & 0x0F) * (2 if kind == _MAP else 1), at
    if first < 0xC0:
        return 0, 0, at + (first & 0x1F)
    if first in _SIZES:
        return 0, 0, at + _SIZES[first]
    if first in _CONTAINERS:
        kind, width = _CONTAINERS[first]
        count = int.from_bytes(data[at : at + width], "big")
        return kind, count * (2 if kind == _MAP else 1), at + width
    if first not in _LENGTHS:
        raise ProtocolError("cannot understand a message of the client: 0xC1 is no value")
    width = _LENGTHS[first]
    length = int.from_bytes(data[at : at + width], "big")
    return 0, 0, at + width + length + (first in _EXTENSIONS)
