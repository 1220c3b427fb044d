"""The daemon between the sockets and the disk, for tests: state directories that come again.

Everything is the real thing: recovery, admission, journal, state files, index. Ids
and times are counted and salts come from a seed, so that the same calls write the
same bytes.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tallymark.fs import FileSystem, OsFileSystem
from tallymark.record import NO_PRODUCER, Kind
from tallymarkd.core.admission import Admission
from tallymarkd.core.books import SkipNotice
from tallymarkd.core.checkpoint import Checkpointer, CheckpointSettings
from tallymarkd.core.entry import encode_entry
from tallymarkd.core.layout import Layout
from tallymarkd.core.restore import Restored, restore
from tallymarkd.storage.damage import Damage
from tallymarkd.storage.journal import JournalSettings
from tests.daemon_parts import (
    NOON_NS,
    PRODUCERS,
    UID,
    a_record,
    array,
    image,
    producer_bytes,
    run_end,
    usage,
)

KIB = 1024
SUFFIXES = ["", ".bak", ".bak.2", ".bak.3"]
NOON = datetime.fromtimestamp(NOON_NS / 1e9, UTC)
SERVER_UUID = uuid.UUID("0194a0b2-7c4d-4e5f-8a6b-3c2d1e0f9a8b")


def journal_settings(segment_bytes_max: int = 64 * KIB, seed: int | None = None) -> JournalSettings:
    """Small sizes; with a seed the salts come again."""
    clock = itertools.count(NOON_NS, 1_000_000_000)
    return JournalSettings(
        segment_bytes_max=segment_bytes_max,
        segment_chunk_bytes=4 * KIB,
        random_bytes=os.urandom if seed is None else random.Random(seed).randbytes,
        clock_ns=lambda: next(clock),
    )


@dataclass(frozen=True)
class Acknowledged:
    """A batch that was made durable: what must be there after whatever happens."""

    lsn: int
    count: int
    project: str
    producer: str
    seq: int
    run_ids: tuple[str, ...]
    keys: tuple[int, ...]


class Core:
    """A daemon on a state directory, one batch at a time."""

    def __init__(
        self,
        root: Path,
        *,
        segment_bytes_max: int = 64 * KIB,
        seed: int | None = None,
        fs: FileSystem | None = None,
        strict: bool = False,
    ) -> None:
        root.mkdir(exist_ok=True)
        fs = OsFileSystem() if fs is None else fs
        settings = journal_settings(segment_bytes_max, seed)
        self.restored: Restored = restore(
            fs,
            root,
            settings,
            strict=strict,
            new_uuid=lambda: SERVER_UUID,
            clock=lambda: 0.0,
            now=lambda: NOON,
        )
        self.layout = Layout(root)
        self.books = self.restored.books
        self.journal = self.restored.journal
        self.keys = self.restored.keys
        self.report = self.restored.report
        self.acknowledged: list[Acknowledged] = []
        self._timer: Callable[[], None] | None = None
        ids = itertools.count(1)
        self._admission = Admission(self.keys, lambda event: None, lambda: f"id-{next(ids)}")
        self.checkpointer = Checkpointer(
            fs,
            self.layout,
            self.books,
            self.journal,
            self.keys,
            CheckpointSettings(5.0, 0, 400),
            run_job=self._run_job,
            call_later=self._call_later,
        )
        self.checkpointer.adopt(self.restored.reaches, self.restored.server_reaches)

    @staticmethod
    def _run_job(job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        done(job(), None)

    def _call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timer = call

    def tick(self) -> bool:
        """Let the checkpointer take its next step, as time would; False when it has none.

        It saves one file, or retires one segment that no generation needs.
        """
        if self._timer is None:
            self.checkpointer.note()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer()
        return self._timer is not None

    def put(self, *events: Any, project: str = "spotter", producer: str = PRODUCERS[0]) -> None:
        """Take a batch in and make it durable."""
        self.put_bytes(array(*events), len(events), project=project, producer=producer)
        run_ids = tuple(e["event_id"] for e in events if e.get("type") == "run.end")
        last = self.acknowledged[-1]
        self.acknowledged[-1] = replace(last, run_ids=run_ids)

    def put_bytes(self, events: bytes, count: int, *, project: str, producer: str) -> None:
        """The same with the events as they came; what cannot be split is a tombstone."""
        decision = self._admission.decide(
            events, count, project=project, uid=UID, received_ns=NOON_NS
        )
        key = producer_bytes(producer)
        seq = self.next_seq(producer)
        kind = Kind.TOMBSTONE if decision.batch is None else Kind.BATCH
        payload = encode_entry(decision.entry)
        lsn = self.journal.append(kind, payload, count=count, producer=key, seq=seq)
        self.journal.sync()
        self.books.batch(lsn, count, key, seq, decision.entry, decision.batch)
        self.keys.settle(decision.keys, lsn)
        keys = tuple(decision.keys)
        self.acknowledged.append(Acknowledged(lsn, count, project, producer, seq, (), keys))

    def next_seq(self, producer: str) -> int:
        """The number of a producer's next batch."""
        mark = self.books.server.marks.get(producer)
        return mark.seq + 1 if mark else 1

    def skip(self, batches: int, *, project: str = "spotter", producer: str = PRODUCERS[0]) -> None:
        """A client tells of batches that can never come."""
        notice = SkipNotice(events=3 * batches, reason="spool damaged", project=project, uid=UID)
        first = self.next_seq(producer)
        seq = first + batches - 1
        self._control(Kind.SKIP, msgspec.json.encode(notice), producer, seq, first)

    def forget(self, producer: str) -> None:
        """A producer says goodbye."""
        self._control(Kind.FORGET, b"", producer)

    def mark(self) -> None:
        """What is written after a second of rest."""
        self._control(Kind.MARK, b"")

    def lose(self, events: int) -> None:
        """What an earlier recovery wrote in place of what it had not found."""
        last = self.journal.next_lsn
        damage = Damage(
            segment=1, start=0, end=1, from_lsn=last, through_lsn=last, torn=False,
            reason="damaged before", events=events,
        )  # fmt: skip
        self._control(Kind.LOSS, msgspec.json.encode(damage))

    def _control(
        self, kind: Kind, payload: bytes, producer: str = "", seq: int = 0, from_seq: int = 0
    ) -> None:
        key = producer_bytes(producer) if producer else NO_PRODUCER
        lsn = self.journal.append(kind, payload, producer=key, seq=seq, from_seq=from_seq or seq)
        self.journal.sync()
        self.books.control(
            a_record(kind, payload, lsn=lsn, producer=producer, seq=seq, from_seq=from_seq or seq)
        )

    def save(self) -> None:
        """Save what changed since the save before, and all of the rest as well."""
        self.books.touched.update(self.books.projects)
        self.checkpointer.note()
        assert self.checkpointer.save_all(math.inf) == []

    def save_server(self) -> None:
        """Save ``server.json`` only, as when there is no time for more."""
        self.books.touched.clear()
        self.checkpointer.note()
        assert self.checkpointer.save_all(math.inf) == []

    def retire(self) -> int:
        """Retire what no generation needs; gives how many segments went."""
        gone = 0
        while (sealed := self.journal.sealed()) and self._past(sealed[0].last_lsn):
            self.journal.retire(sealed[0].number)
            self.keys.forget_before(sealed[0].last_lsn + 1)
            gone += 1
        return gone

    def _past(self, lsn: int) -> bool:
        directories = [self.layout.root, *map(self.layout.project, self.books.projects)]
        return all(min(reaches_in(directory), default=0) >= lsn for directory in directories)

    def crash(self) -> dict[str, Any]:
        """Close without a word; gives everything that was known."""
        self.journal.close()
        self.keys.close()
        return image(self.books)

    def stop(self) -> dict[str, Any]:
        """Close as the daemon does that has no time to save."""
        self.journal.append(Kind.STOP, b"", producer=NO_PRODUCER)
        self.journal.sync()
        return self.crash()


def reaches_in(directory: Path) -> list[int]:
    """How far every generation in a directory reaches; all four have to be there."""
    name = "server.json" if (directory / "server.json").exists() else ".agent_metrics.json"
    found = []
    for suffix in SUFFIXES:
        path = directory / (name + suffix)
        if not path.exists():
            return [0]
        content = json.loads(path.read_bytes())
        part = content["server"] if name == "server.json" else content["tallymark"]
        found.append(part["applied_lsn"])
    return found


def without_lsn(found: dict[str, Any]) -> dict[str, Any]:
    """The same whatever control records came last."""
    server = {**found["server"], "applied_lsn": 0}
    return {**found, "server": server}


def again(root: Path) -> Core:
    """The next start."""
    return Core(root)


def a_history(root: Path, *, generations: int = 4) -> Core:
    """Two projects, saved that often with events in between; the last are not saved."""
    core = Core(root)
    number = 0
    for _ in range(generations + 1):
        for project, producer in (("spotter", PRODUCERS[0]), ("other", PRODUCERS[1])):
            number += 1
            core.put(
                run_end(number, session_id=f"s{number}"),
                usage(f"key-{number}"),
                usage("same-key"),
                usage(input_tokens=-1),
                {"type": "odd"},
                project=project,
                producer=producer,
            )
        if number <= 2 * generations:
            core.save()
    return core
