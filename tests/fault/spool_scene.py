"""A daemon, a spool directory, and spools as agents leave them: for the spool's ordeals."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tallymark.events import RunEnd
from tallymark.fs import OsFileSystem
from tallymark.ids import uuid7
from tallymark.protocol.outbox import FrozenBatch, Outbox
from tallymark.record import ALIGNMENT_BYTES, HEADER_BYTES, read_header, record_bytes
from tallymark.spool import Spool
from tallymark.spool_header import RECORDS_OFFSET, SpoolHeader, decode_header
from tests.daemon import Daemon
from tests.fault.spooling import Tally, adopt

BATCH_EVENTS = 5
SPOOL_BYTES_MAX = 1024 * 1024
PAGE_BYTES = 4096

_encode = msgspec.msgpack.Encoder().encode
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Left:
    """A spool that was left behind, and the ids of the events in each of its batches."""

    path: Path
    producer: str
    batches: list[list[str]]

    @property
    def events(self) -> list[str]:
        return [name for batch in self.batches for name in batch]

    def records(self) -> list[tuple[int, int]]:
        """Where each record stands in the file: from, to."""
        data = self.path.read_bytes()
        salt = decode_header(data[:RECORDS_OFFSET]).salt
        found = []
        at = RECORDS_OFFSET
        while at < len(data):
            head = read_header(data, at, salt=salt, offset=at)
            assert head is not None
            found.append((at, at + head[1]))
            at += head[1]
        return found

    def damage(self, at: int) -> None:
        """One byte goes bad."""
        with self.path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 0x55]))

    def damage_payload(self, number: int) -> None:
        """Of the n-th record."""
        self.damage(self.records()[number][0] + HEADER_BYTES + 10)

    def damage_header(self, number: int) -> None:
        """Of the n-th record."""
        self.damage(self.records()[number][0] + 30)

    def cut(self, length: int) -> None:
        os.truncate(self.path, length)


class Scene:
    """One spool directory; the daemon is shared. What is found goes to the tally."""

    def __init__(self, directory: Path, daemon: Daemon, tally: Tally) -> None:
        self.directory = directory
        directory.mkdir()
        self.spools = directory / "spool"
        self.daemon = daemon
        self.tally = tally
        self.before = daemon.ledger

    def leave(
        self,
        batches: int = 6,
        *,
        server_id: str = "",
        sockets: tuple[str, ...] | None = None,
        first_seq: int = 1,
        fill_page: bool = False,
    ) -> Left:
        """An agent leaves a spool behind; on request one whose last page has no room."""
        header = SpoolHeader(
            uuid7(),
            "p",
            server_id,
            (str(self.daemon.socket),) if sockets is None else sockets,
            first_seq,
        )
        spool = Spool.create(OsFileSystem(), self.spools, header)
        outbox = Outbox(first_seq)
        frozen: list[FrozenBatch] = []
        names = []
        for _ in range(batches):
            batch = [f"left-{next(_numbers)}" for _ in range(BATCH_EVENTS)]
            names.append(batch)
            events = [RunEnd(event_id=name, agent_name="a", output_tokens=1) for name in batch]
            frozen.append(outbox.freeze(_encode(events), len(events)))
        spool.append(frozen, SPOOL_BYTES_MAX)
        if fill_page:
            names.append([f"left-{next(_numbers)}"])
            spool.append([_filling(outbox, names[-1][0], spool.size_bytes)], SPOOL_BYTES_MAX)
        spool.close()
        return Left(spool.path, header.producer, names)

    def adopt(self) -> tuple[int, int]:
        """One round; spools delivered, and left."""
        adopted = adopt(self.spools, self.daemon.socket)
        return adopted.spools, len(adopted.left)

    def more(self, name: str) -> int:
        """How much a figure of the ledger has grown in this scene."""
        found: int = self.daemon.ledger[name] - self.before[name]
        return found

    def losses(self, producer: str) -> list[tuple[str, int, int, int]]:
        """Reason, seqs and events of what is told as lost of a producer."""
        return [
            (loss["reason"], loss["from_seq"], loss["through_seq"], loss["events"])
            for loss in self.daemon.ledger["losses"]
            if loss["producer"] == producer
        ]

    def names(self) -> list[str]:
        """What is in the spool directory."""
        return sorted(os.listdir(self.spools)) if self.spools.exists() else []


def _filling(outbox: Outbox, name: str, size_bytes: int) -> FrozenBatch:
    """A batch with which the file ends just before the end of a page."""

    def freeze(outbox: Outbox, length: int) -> FrozenBatch:
        event = RunEnd(event_id=name, agent_name="a", error_message="x" * length)
        return outbox.freeze(_encode([event]), 1)

    tried = size_bytes + record_bytes(len(freeze(Outbox(outbox.next_seq), PAGE_BYTES).frame))
    return freeze(outbox, PAGE_BYTES + -tried % PAGE_BYTES - ALIGNMENT_BYTES)


def image(path: Path) -> Iterator[object]:
    """Everything that could be changed of a file, but for the time it was looked at."""
    found = path.lstat()
    yield from (found.st_ino, found.st_mode, found.st_uid, found.st_size, found.st_mtime_ns)
    if path.is_symlink():
        yield os.readlink(path)
    elif path.is_file():
        yield path.read_bytes()
