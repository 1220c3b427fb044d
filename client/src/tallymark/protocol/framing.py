"""Frames: a ``u32`` little-endian length, then that many bytes of one message.

A conversation begins with the preface ``C1 54 4D 01``. 0xC1 is a byte that
msgpack never uses and no HTTP request begins with.
"""

from __future__ import annotations

import struct

from tallymark.errors import ProtocolError

PREFACE = b"\xc1TM\x01"
"""Fixed for ever, whatever the protocol's version."""

LENGTH_BYTES = 4

FRAME_BYTES_MAX = 1024 * 1024
"""Largest payload of a frame. Part of the protocol: never configured lower."""

_length = struct.Struct("<I")


def frame(payload: bytes) -> bytes:
    """The payload with its length before it. Raises ``ProtocolError`` over the limit."""
    if not 0 < len(payload) <= FRAME_BYTES_MAX:
        raise ProtocolError(
            f"cannot frame a message of {len(payload)} bytes: 1 to {FRAME_BYTES_MAX} are allowed"
        )
    return _length.pack(len(payload)) + payload


class FrameDecoder:
    """Cuts a byte stream into payloads. Not thread-safe.

    Holds at most one incomplete frame, in the pieces it came in, which are joined
    once; the length is checked before a byte of its payload is kept.
    """

    __slots__ = ("_need", "_pieces", "buffered_bytes")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._need = LENGTH_BYTES
        self.buffered_bytes = 0
        """Bytes held of a frame that is not complete."""

    @property
    def missing_bytes(self) -> int:
        """Bytes that must still come before the next payload or its length is known."""
        return self._need - self.buffered_bytes

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take bytes in, give the payloads that are complete.

        Raises ``ProtocolError`` for a length of 0 or over the limit; nothing
        can be decoded after that.
        """
        self._pieces.append(bytes(data))
        self.buffered_bytes += len(data)
        if self.buffered_bytes < self._need:
            return []
        joined = b"".join(self._pieces)
        payloads: list[bytes] = []
        at = 0
        self._need = LENGTH_BYTES
        while len(joined) - at >= LENGTH_BYTES:
            (length,) = _length.unpack_from(joined, at)
            if not 0 < length <= FRAME_BYTES_MAX:
                raise ProtocolError(
                    f"cannot read a frame of {length} bytes: 1 to {FRAME_BYTES_MAX} are allowed"
                )
            stop = at + LENGTH_BYTES + length
            if stop > len(joined):
                self._need = LENGTH_BYTES + length
                break
            payloads.append(joined[at + LENGTH_BYTES : stop])
            at = stop
        self._pieces = [joined[at:]] if at < len(joined) else []
        self.buffered_bytes = len(joined) - at
        return payloads
