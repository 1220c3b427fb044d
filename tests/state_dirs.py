"""State directories for tests, made by the daemon's parts without its sockets."""

from __future__ import annotations

import itertools
import json
import math
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tallymark.fs import FileSystem, OsFileSystem
from tallymark.record import NO_PRODUCER, Kind
from tallymarkd.core.admission import Admission
from tallymarkd.core.checkpoint import Checkpointer, CheckpointSettings
from tallymarkd.core.entry import encode_entry
from tallymarkd.core.layout import Layout
from tallymarkd.core.restore import Restored, restore
from tallymarkd.storage.journal import JournalSettings
from tests.daemon_parts import NOON_NS, PRODUCERS, UID, array, image, producer_bytes, run_end, usage

KIB = 1024
SUFFIXES = ["", ".bak", ".bak.2", ".bak.3"]
SERVER_UUID = uuid.UUID("0194a0b2-7c4d-4e5f-8a6b-3c2d1e0f9a8b")


def journal_settings(segment_bytes_max: int = 64 * KIB) -> JournalSettings:
    return JournalSettings(
        segment_bytes_max=segment_bytes_max,
        segment_chunk_bytes=4 * KIB,
        random_bytes=os.urandom,
        clock_ns=lambda: NOON_NS,
    )


class Core:
    """The daemon between the sockets and the disk, one event at a time."""

    def __init__(
        self,
        root: Path,
        *,
        segment_bytes_max: int = 64 * KIB,
        fs: FileSystem | None = None,
        strict: bool = False,
    ) -> None:
        root.mkdir(exist_ok=True)
        settings = journal_settings(segment_bytes_max)
        self.restored: Restored = restore(
            fs or OsFileSystem(), root, settings, strict=strict, new_uuid=lambda: SERVER_UUID
        )
        self.layout = Layout(root)
        self.books = self.restored.books
        self.journal = self.restored.journal
        self.keys = self.restored.keys
        self.report = self.restored.report
        ids = itertools.count(1)
        self._admission = Admission(self.keys, lambda event: None, lambda: f"id-{next(ids)}")
        self.checkpointer = Checkpointer(
            fs or OsFileSystem(),
            self.layout,
            self.books,
            self.journal,
            self.keys,
            CheckpointSettings(5.0, 0, 400),
            run_job=self._run_job,
            call_later=lambda seconds, call: None,
        )
        self.checkpointer.adopt(self.restored.reaches, self.restored.server_reaches)

    @staticmethod
    def _run_job(job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        done(job(), None)

    def put(self, *events: Any, project: str = "spotter", producer: str = PRODUCERS[0]) -> None:
        """Take a batch in and make it durable."""
        decision = self._admission.decide(
            array(*events), len(events), project=project, uid=UID, received_ns=NOON_NS
        )
        key = producer_bytes(producer)
        mark = self.books.server.marks.get(producer)
        seq = mark.seq + 1 if mark else 1
        payload = encode_entry(decision.entry)
        lsn = self.journal.append(Kind.BATCH, payload, count=len(events), producer=key, seq=seq)
        self.journal.sync()
        self.books.batch(lsn, len(events), key, seq, decision.entry, decision.batch)
        self.keys.settle(decision.keys, lsn)

    def save(self) -> None:
        """Save what changed since the save before, and all of the rest as well."""
        self.books.touched.update(self.books.projects)
        self.checkpointer.note()
        assert self.checkpointer.save_all(math.inf) == []

    def retire(self) -> int:
        """Retire what no generation needs; gives how many segments went."""
        gone = 0
        while (sealed := self.journal.sealed()) and self._past(sealed[0].last_lsn):
            self.keys.forget_before(sealed[0].last_lsn + 1)
            self.journal.retire(sealed[0].number)
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
        """Close as the daemon does."""
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
