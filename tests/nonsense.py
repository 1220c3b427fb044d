"""Nonsense that may come in at the daemon's socket, and what each must get.

Everything has a name, so that a refusal that changes is seen with its name.
The corpus is in ``nonsense_frames`` and ``nonsense_http``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from tallymark.protocol.framing import FRAME_BYTES_MAX, PREFACE, frame

PROJECT = "nonsense"

NEITHER = (
    b"cannot understand you: this is tallymarkd; it speaks the tallymark protocol and HTTP/1.1\n"
)
WRONG_PREFACE = "cannot read the preface: the first bytes are not C1 54 4D 01"
UNKNOWN = "cannot understand a message of the client: "
NO_VALUE = UNKNOWN + "MessagePack data is malformed: invalid opcode '\\xc1' (byte 0)"

encode = msgspec.msgpack.encode


@dataclass(frozen=True)
class Nonsense:
    """Bytes, and the one answer that is given of these."""

    name: str
    sends: bytes
    line: bytes | None = None
    """All that is said, in no tongue."""
    refused: tuple[str, str] | None = None
    """The last message: its code, and its text."""
    http: tuple[int, str] | None = None
    """The only response: its status, and what stands in its body."""
    ack: dict[str, int] | None = None
    """The last message: how many events are stored, and rejected by code."""
    silent: bool = False
    """Nothing: the other side hung up half-way."""

    @property
    def stored(self) -> int:
        """Events that are kept of it."""
        return self.ack.get("stored", 0) if self.ack else 0


def protocol_error(name: str, sends: bytes, message: str) -> Nonsense:
    """What breaks the protocol."""
    return Nonsense(name, sends, refused=("protocol_error", message))


def wrong_length(length: int) -> str:
    """What is said of a frame of that length."""
    return f"cannot read a frame of {length} bytes: 1 to {FRAME_BYTES_MAX} are allowed"


def text(value: bytes | str) -> bytes:
    """A msgpack text, of any bytes."""
    raw = value.encode() if isinstance(value, str) else value
    return b"\xd9" + bytes([len(raw)]) + raw


def mapping(*pairs: tuple[bytes | str, bytes]) -> bytes:
    """A msgpack map of encoded values, as wrong as one likes."""
    return bytes([0x80 | len(pairs)]) + b"".join(text(name) + value for name, value in pairs)


def nested(levels: int) -> bytes:
    """Msgpack arrays within one another."""
    return b"\x91" * levels + b"\xc0"


def say(**message: Any) -> bytes:
    """A message in its frame."""
    return frame(encode(message))


TONGUES = [
    Nonsense("TLS hello", bytes.fromhex("16030100c8010000c40303") + bytes(196), line=NEITHER),
    Nonsense("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", line=NEITHER),
    Nonsense("zeros", bytes(64), line=NEITHER),
    Nonsense("JSON", b'{"type": "usage"}\n', line=NEITHER),
    Nonsense("frame without preface", say(type="health", id=1), line=NEITHER),
    Nonsense("Redis", b"*1\r\n$4\r\nPING\r\n", line=NEITHER),
    Nonsense("D-Bus", b"\0AUTH EXTERNAL 30\r\n", line=NEITHER),
    Nonsense("SSH, which hangs up", b"SSH-2.0-OpenSSH_9.2\r\n", silent=True),
    Nonsense("nothing", b"", silent=True),
]


def noise(seed: int = 7) -> Iterator[Nonsense]:
    """Random bytes in every place where something else is expected."""
    dice = random.Random(seed)
    for number in range(8):
        data = dice.randbytes(dice.randrange(50, 5000))
        other = bytes([dice.choice([*range(0x41), *range(0x80, 0xC1), *range(0xC2, 0x100)])])
        yield Nonsense(f"noise {number}", other + data, line=NEITHER)
        yield protocol_error(f"noise {number} after C1", b"\xc1\0" + data, WRONG_PREFACE)
        length = data[:3] + b"\xff"
        yield protocol_error(
            f"noise {number} as a frame",
            PREFACE + length + data,
            wrong_length(int.from_bytes(length, "little")),
        )
        yield protocol_error(
            f"noise {number} as a message", PREFACE + frame(b"\xc1" + data), NO_VALUE
        )
        yield Nonsense(
            f"noise {number} as a request",
            b"G\0" + data.replace(b"\n", b"") + b"\r\n\r\n",
            http=(400, "cannot read the request: illegal request line"),
        )
