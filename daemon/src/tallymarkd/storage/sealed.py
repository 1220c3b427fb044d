"""A checksum inside a JSON file, which stays plain JSON.

The checksum is the last member: ``…,"checksum":"crc32:9f3a0c11"`` followed by
the closing braces and a newline. It covers every byte before its comma, so a
file verifies as it lies, without being encoded again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from tallymark.errors import DamagedError, NewerFormatError

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


class SealedDocument(msgspec.Struct, kw_only=True):
    """A whole file: its format, and in a subclass what it holds."""

    format: int


class _Format(msgspec.Struct):
    format: int


D = TypeVar("D", bound=SealedDocument)


def encode_document(document: SealedDocument) -> bytes:
    """The bytes of a sealed file."""
    return b"".join(seal([msgspec.json.encode(document)[:-1]], b"}"))


def decode_document(body: bytes, kind: type[D], newest_format: int) -> D:
    """Reads a sealed file. The format is read before anything else is believed.

    Raises ``DamagedError``, ``NewerFormatError``.
    """
    verify_seal(body, b"}")
    try:
        version = msgspec.json.decode(body, type=_Format).format
        if version > newest_format:
            raise NewerFormatError(f"format {version}; this version reads {newest_format}")
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise DamagedError(str(error)) from None
