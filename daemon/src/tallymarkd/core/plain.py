"""What a client put into an event freely, made into plain JSON values.

MessagePack knows values that JSON does not (extension types, NaN, keys of any
kind), and a state file must be readable whatever a client sent.
"""

from __future__ import annotations

import base64
import math
from datetime import datetime
from typing import Any

DEPTH_MAX = 32
"""What is nested deeper becomes text."""

INTEGER_MAX = 2**64 - 1
INTEGER_MIN = -(2**63)


def plain_dict(values: dict[str, Any]) -> dict[str, Any]:
    """The same as JSON can hold it; of what is plain already, an equal copy.

    Applied twice it gives the same as once, so that a state read back from its
    file equals the state that was written.
    """
    return {_key(key): _plain(value, 1) for key, value in values.items()}


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return value if INTEGER_MIN <= value <= INTEGER_MAX else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (dict, list, tuple)):
        if depth >= DEPTH_MAX:
            return "(nested too deeply)"
        if isinstance(value, dict):
            return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
        return [_plain(item, depth + 1) for item in value]
    return _text(value)


def _key(key: Any) -> str:
    return key if isinstance(key, str) else _text(key)


def _text(value: Any) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "code") and hasattr(value, "data"):  # a MessagePack extension
        return f"ext {value.code}: {base64.b64encode(value.data).decode('ascii')}"
    return str(value)
