"""What a power cut may leave of a file, and of the names in directories.

The rules, which are as hard as a file system may be:

- what was synced is there;
- of what was not, each sector of 512 bytes holds what it held at the last sync or
  after any later write to it, each sector by itself;
- the length is that of the last sync, or any that came after;
- of the changes of names in a directory that was not synced, any are there and
  any are not. One call changes its names together, over two directories too; and
  a name has no change without those that it had before.

A ``Die`` is one such question with the number of its answers; a *throw* answers
all of them. The answer 0 is always what was synced, the last one what programs see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SECTOR_BYTES = 512


class Die(NamedTuple):
    """One question that a power cut answers: about a ``name``, a ``length`` or a ``sector``."""

    kind: str
    answers: int


@dataclass(eq=False)
class File:
    """One file, whatever its names are."""

    live: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Since the last sync: (offset, bytes written), or (new length, None)."""

    def write(self, offset: int, data: bytes) -> None:
        self.changes.append((offset, data))
        put(self.live, offset, data)

    def resize(self, length: int) -> None:
        self.changes.append((length, None))
        fit(self.live, length)

    def sync(self) -> None:
        data = bytearray(self.durable)
        for change in self.changes:
            carry_out(data, change)
        self.durable = bytes(data)
        self.changes.clear()

    def versions(self) -> Versions:
        """Everything that a power cut may leave of it."""
        data = bytearray(self.durable)
        lengths = [len(data)]
        sectors: dict[int, list[bytes]] = {}
        for change in self.changes:
            touched = carry_out(data, change)
            if len(data) not in lengths:
                lengths.append(len(data))
            for number in touched:
                kept = sectors.setdefault(number, [sector(self.durable, number)])
                now = sector(data, number)
                if now != kept[-1]:
                    kept.append(now)
        return Versions(lengths, {n: each for n, each in sectors.items() if len(each) > 1})


@dataclass
class Versions:
    """The lengths that a file may have, and what its sectors may hold."""

    lengths: list[int]
    sectors: dict[int, list[bytes]]

    def dice(self) -> list[Die]:
        dice = [Die("length", len(self.lengths))] if len(self.lengths) > 1 else []
        return dice + [Die("sector", len(each)) for each in self.sectors.values()]

    def left(self, durable: bytes, throw: Sequence[int]) -> bytes:
        """The file's bytes after this throw of its dice."""
        rest = iter(throw)
        length = self.lengths[next(rest)] if len(self.lengths) > 1 else self.lengths[0]
        data = bytearray(durable)
        fit(data, max([length, *((n + 1) * SECTOR_BYTES for n in self.sectors)]))
        for number, each in self.sectors.items():
            put(data, number * SECTOR_BYTES, each[next(rest)])
        fit(data, length)
        return bytes(data)


NameChange = dict[tuple[Path, str], File | None]
"""Names that change at once: to a file, or away."""


@dataclass
class Directory:
    """Names in one directory: those that programs see, and those that were synced."""

    live: dict[str, File] = field(default_factory=dict)
    durable: dict[str, File] = field(default_factory=dict)


def carry_out(data: bytearray, change: tuple[int, bytes | None]) -> range:
    """Change a file's bytes; gives the sectors that hold something else now."""
    offset, written = change
    if written is None:
        end = len(data)
        fit(data, offset)
        return range(offset // SECTOR_BYTES, -(-end // SECTOR_BYTES))
    put(data, offset, written)
    return range(offset // SECTOR_BYTES, -(-(offset + len(written)) // SECTOR_BYTES))


def sector(data: bytes | bytearray, number: int) -> bytes:
    """One sector's bytes; zeros beyond the end of the file."""
    return bytes(data[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES]).ljust(
        SECTOR_BYTES, b"\0"
    )


def put(data: bytearray, offset: int, piece: bytes) -> None:
    """Write into a file's bytes; a hole before them is zeros."""
    if offset > len(data):
        fit(data, offset)
    data[offset : offset + len(piece)] = piece


def fit(data: bytearray, length: int) -> None:
    """Cut or extend a file's bytes."""
    del data[length:]
    data.extend(bytes(length - len(data)))
