"""Keys of things already counted: in the index, being written to it, or new.

A key is the 64-bit BLAKE2b of project and key text. Two of ten million keys
collide with a chance of 3 in a million; then the later event would be taken
for a duplicate of the earlier.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from tallymarkd.storage.index import KeyIndex

IN_FLIGHT = 0
"""Stands for the LSN of a key whose event is not durable yet."""


def key_hash(project: str, key: str) -> int:
    """The signed 64-bit hash under which a key is remembered."""
    # The length keeps "a" and "b…" apart from "ab" and "…".
    text = f"{len(project)}:{project}{key}"
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def pack_keys(keys: Iterable[int]) -> bytes:
    """Hashes as an entry holds them."""
    return b"".join(key.to_bytes(8, "little", signed=True) for key in keys)


def unpack_keys(data: bytes) -> list[int]:
    """Hashes from an entry."""
    return [
        int.from_bytes(data[at : at + 8], "little", signed=True) for at in range(0, len(data), 8)
    ]


class Keys:
    """Which keys are known. Loop thread, but for ``write``.

    ``reader`` and ``writer`` are two connections to the same index, so that a write
    keeps nobody waiting; on a full disk they may be one.
    """

    def __init__(self, reader: KeyIndex, writer: KeyIndex) -> None:
        self._reader = reader
        self._writer = writer
        self._fresh: dict[int, int] = {}
        self._writing: dict[int, int] = {}

    def known(self, keys: Iterable[int]) -> set[int]:
        """Those of ``keys`` that are durable or in flight."""
        found: set[int] = set()
        rest: list[int] = []
        for key in keys:
            if key in self._fresh or key in self._writing:
                found.add(key)
            else:
                rest.append(key)
        return found | self._reader.known(rest) if rest else found

    def admit(self, keys: Iterable[int]) -> None:
        """Remember keys whose events are on their way to the journal."""
        self._fresh.update(dict.fromkeys(keys, IN_FLIGHT))

    def settle(self, keys: Iterable[int], lsn: int) -> None:
        """The events of these keys are durable, from number ``lsn`` on."""
        self._fresh.update(dict.fromkeys(keys, lsn))

    def withdraw_all(self) -> None:
        """Nothing that was on its way has been kept."""
        self._fresh = {key: lsn for key, lsn in self._fresh.items() if lsn != IN_FLIGHT}

    def begin_write(self) -> int:
        """Take the durable keys out for ``write``; gives how many there are."""
        self._writing.update((k, lsn) for k, lsn in self._fresh.items() if lsn != IN_FLIGHT)
        self._fresh = {k: lsn for k, lsn in self._fresh.items() if lsn == IN_FLIGHT}
        return len(self._writing)

    def write(self, through_lsn: int) -> None:
        """Put what ``begin_write`` took into the index. Any one thread; blocks.

        Raises ``sqlite3.Error``; the keys stay known and are written the next time.
        """
        self._writer.add(list(self._writing.items()), through_lsn)

    def end_write(self) -> None:
        """The index has what was written."""
        self._writing = {}

    def forget_before(self, lsn: int) -> int:
        """Remove the keys of history that is gone. Any one thread; blocks."""
        return self._writer.forget(0, lsn - 1)

    def close(self) -> None:
        """Close the index."""
        self._reader.close()
        self._writer.close()
