"""Bytes as text: lines of offset and 16 bytes, lines of zeros left out, the length last."""

from __future__ import annotations

LINE_BYTES = 16


def dump(data: bytes) -> str:
    """The bytes as text."""
    lines = []
    for at in range(0, len(data), LINE_BYTES):
        line = data[at : at + LINE_BYTES]
        if line.strip(b"\0"):
            lines.append(f"{at:08x} {line.hex()}\n")
    return "".join(lines) + f"{len(data):08x}\n"


def undump(text: str) -> bytes:
    """The bytes again."""
    *lines, end = text.splitlines()
    data = bytearray(int(end, 16))
    for line in lines:
        offset, _, digits = line.partition(" ")
        piece = bytes.fromhex(digits)
        data[int(offset, 16) : int(offset, 16) + len(piece)] = piece
    return bytes(data)
