"""``attrs`` of any kind into what the daemon takes."""

from __future__ import annotations

from typing import Any

import msgspec

from tallymark.protocol.nesting import is_deep
from tallymark.texts import plain

ATTRS_BYTES_MAX = 16 * 1024
"""Encoded. What is too large is refused with the whole event, and a run with all its tokens."""

_encode = msgspec.msgpack.Encoder(enc_hook=plain).encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


def clean_attrs(given: object) -> dict[str, Any] | None:
    """A copy of ``attrs`` as the daemon will see them; None for what it would refuse."""
    try:
        encoded = _encode(dict(given))  # type: ignore[call-overload]
        found: dict[str, Any] = _decode(encoded)
        # State files are JSON.
        msgspec.json.encode(found)
    # They are the caller's: encoding them may fail in any way.
    except Exception:  # noqa: BLE001
        return None
    return None if len(encoded) > ATTRS_BYTES_MAX or is_deep(found, 2) else found
