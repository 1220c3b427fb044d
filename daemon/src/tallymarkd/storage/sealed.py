"""A checksum inside a JSON file, which stays plain JSON.

The checksum is the last member: ``…,"checksum":"crc32:9f3a0c11"`` followed by
the closing braces and a newline. It covers every byte before its comma, so a
file verifies as it lies, without being encoded again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from tallymark.errors import DamagedError

_MEMBER = b',"checksum":"crc32:%08x"'
_MEMBER_BYTES = len(_MEMBER % 0)


def seal(parts: Iterable[bytes], closing: bytes) -> Iterator[bytes]:
    """The parts of a JSON object without its ``closing`` braces, then the seal."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
        yield part
    yield _MEMBER % crc + closing + b"\n"


def verify_seal(body: bytes, closing: bytes) -> None:
    """Raises ``DamagedError`` unless ``body`` ends in a seal that holds."""
    tail = closing + b"\n"
    end = len(body) - len(tail) - _MEMBER_BYTES
    if end <= 0 or not body.endswith(tail):
        raise DamagedError("the file has no checksum at its end")
    if body[end : len(body) - len(tail)] != _MEMBER % zlib.crc32(memoryview(body)[:end]):
        raise DamagedError("the file's checksum does not hold")
