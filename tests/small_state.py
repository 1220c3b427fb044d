"""A small state directory with everything in it, and whether one is still right.

Two projects, three producers, every kind of record, several segments, several
generations; the same bytes each time. Kept in memory as path and bytes, so that
a test can write it out, break it, and start the daemon's recovery on it.
"""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from tallymark.fs import OsFileSystem
from tallymark.record import Record
from tallymarkd.core.books import Books
from tallymarkd.core.ledger import ServerState
from tallymarkd.storage.segment import RECORDS_OFFSET
from tallymarkd.storage.survey import survey
from tests.daemon_parts import PRODUCERS, image, run_end, usage
from tests.state_dirs import Acknowledged, Core, without_lsn

SEGMENT_BYTES = RECORDS_OFFSET + 2400
PROJECTS = ("spotter", "other")
FLEETING = PRODUCERS[2]
"""A producer that says goodbye."""

UNSPLITTABLE = msgspec.msgpack.encode("no array")

Files = dict[str, bytes]


@dataclass(frozen=True)
class SmallState:
    """The files, what had been acknowledged, and everything that was known at the end."""

    files: Files
    acknowledged: list[Acknowledged]
    known: dict[str, Any]
    records: list[Record]
    """The journal's, as far as it was not retired."""

    def write(self, root: Path, changed: dict[str, bytes | None] | None = None) -> None:
        """Put the files there, some of them changed, or not there at all (None)."""
        shutil.rmtree(root, ignore_errors=True)
        for name, content in {**self.files, **(changed or {})}.items():
            if content is not None:
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def forgetting_keys_before(self, lsn: int) -> SmallState:
        """The same where the history before a number is retired, and its keys with it."""
        kept = [each if each.lsn >= lsn else replace(each, keys=()) for each in self.acknowledged]
        return replace(self, acknowledged=kept)

    def names(self, part: str) -> list[str]:
        """The files whose path contains ``part``."""
        return [name for name in self.files if part in name]


def read_files(root: Path) -> Files:
    """Every file below a directory."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def start(root: Path, seed: int = 9) -> Core:
    """Recovery as the daemon does it."""
    return Core(root, segment_bytes_max=SEGMENT_BYTES, seed=seed)


def stopped(root: Path) -> SmallState:
    """The daemon stopped in good order, with the time to save no more than its own
    file: that proves how far the journal went, and the projects need it to its end."""
    cores = list(_history(root))
    cores[-1].save_server()
    return taken(root, cores, cores[-1].stop())


def marked(root: Path) -> SmallState:
    """The daemon was killed a second after its last commit; the end is not saved."""
    cores = list(_history(root))
    cores[-1].mark()
    return taken(root, cores, cores[-1].crash())


def taken(root: Path, cores: list[Core], known: dict[str, Any]) -> SmallState:
    """The files that these daemons left there, and what they had acknowledged."""
    acknowledged = [each for core in cores for each in core.acknowledged]
    records = list(survey(OsFileSystem(), root / "journal").records(0))
    return SmallState(read_files(root), acknowledged, without_lsn(known), records)


def _history(root: Path) -> Iterator[Core]:
    """Two lives of a daemon, the second still open."""
    numbers = itertools.count(1)
    core = start(root, seed=1)
    _batches(core, numbers, 1)
    core.put_bytes(UNSPLITTABLE, 3, project="spotter", producer=PRODUCERS[0])
    core.save()
    core.put(run_end(next(numbers), session_id="s-brief"), producer=FLEETING)
    core.forget(FLEETING)
    core.save()
    core.skip(2, project="other", producer=PRODUCERS[1])
    core.lose(7)
    _batches(core, numbers, 1)
    core.mark()
    core.save()
    core.stop()
    yield core
    core = start(root, seed=2)
    _batches(core, numbers, 1)
    core.save()
    _batches(core, numbers, 2)
    yield core


def _batches(core: Core, numbers: Iterator[int], turns: int) -> None:
    """Each with a run, a usage of its own, a duplicate, a bad event, an odd one."""
    for _ in range(turns):
        for project, producer in zip(PROJECTS, PRODUCERS, strict=False):
            number = next(numbers)
            core.put(
                run_end(number, session_id=f"s{number // 3}", input_tokens=2**number),
                usage(f"key-{number}"),
                usage("same-key"),
                usage(input_tokens=-1),
                {"type": "odd"},
                project=project,
                producer=producer,
            )


@dataclass(frozen=True)
class Judged:
    """What a recovery made of it: acknowledged events that are gone and not named,
    runs that are there twice or were never sent, and everything else that is wrong."""

    lost: int = 0
    doubled: int = 0
    wrong: tuple[str, ...] = ()
    named: int = 0
    """Acknowledged events that are gone, as the report says."""

    missing: tuple[Acknowledged, ...] = ()
    """Batches that are gone and not named."""


def judge(state: SmallState, core: Core, *, first: bool = True) -> Judged:
    """Hold what was recovered against what had been acknowledged.

    The report of the ``first`` start has to name what is gone; the ledger for ever.
    """
    there = Counter(
        (name, run.event_id) for name, each in core.books.projects.items() for run in each.runs
    )
    sent = {(each.project, run) for each in state.acknowledged for run in each.run_ids}
    doubled = sum(there.values()) - len(there.keys() & sent)
    gone = [
        each
        for each in state.acknowledged
        if any((each.project, run) not in there for run in each.run_ids)
    ]
    unnamed = [each for each in gone if not named(core, each, first)]
    found = without_lsn(image(core.books))
    wrong = list(_differences(state, core, found, gone))
    return Judged(
        lost=sum(each.count for each in unnamed),
        doubled=doubled,
        wrong=tuple(wrong),
        named=sum(each.count for each in gone if each not in unnamed),
        missing=tuple(unnamed),
    )


def named(core: Core, batch: Acknowledged, first: bool) -> bool:
    """Whether report and ledger say that a batch is gone."""
    last = batch.lsn + batch.count - 1
    by_report = not first or any(
        not each.torn and each.from_lsn <= batch.lsn and last <= each.through_lsn
        for each in core.report.damage
    )
    by_ledger = any(
        (each.from_lsn <= batch.lsn and last <= each.through_lsn)
        or (each.producer == batch.producer and each.from_seq <= batch.seq <= each.through_seq)
        for each in core.books.server.ledger.losses
    )
    return by_report and by_ledger


def _differences(
    state: SmallState, core: Core, found: dict[str, Any], gone: list[Acknowledged]
) -> Iterator[str]:
    """What does not add up, beside what is missing."""
    yield from _other_projects(state, found, gone)
    yield from _other_marks(state, found, gone)
    if not gone and not core.report.damage:
        for part in ("ledger", "marks", "last_lsn", "first_lsn", "server_id"):
            if found["server"][part] != state.known["server"][part]:
                yield f"{part} of the server is another"
    keys = [key for each in state.acknowledged if each not in gone for key in each.keys]
    unknown = set(keys) - core.keys.known(keys)
    if unknown:
        yield f"{len(unknown)} keys of what is there are not known"


def _other_projects(
    state: SmallState, found: dict[str, Any], gone: list[Acknowledged]
) -> Iterator[str]:
    touched = {each.project for each in gone}
    for name, whole in state.known["projects"].items():
        if name not in touched and found["projects"].get(name) != whole:
            yield f"the state of {name} is another"
    rest = _without(state, gone) if touched else {}
    for name in touched:
        if _but_lsn(found["projects"].get(name)) != _but_lsn(rest.get(name)):
            yield f"the state of {name} is not what is left of it"


def _other_marks(
    state: SmallState, found: dict[str, Any], gone: list[Acknowledged]
) -> Iterator[str]:
    for producer, mark in state.known["server"]["marks"].items():
        seq = found["server"]["marks"].get(producer, [0])[0]
        if seq > mark[0]:
            yield f"the mark of {producer} is {seq} and had been {mark[0]}"
        there = [e.seq for e in state.acknowledged if e not in gone and e.producer == producer]
        if seq < max(there, default=0):
            yield f"the mark of {producer} is behind its batches"


def _without(state: SmallState, gone: list[Acknowledged]) -> dict[str, Any]:
    """What the projects would be had these batches never come."""
    books = Books(ServerState(server_id=""), {})
    lost = {each.lsn for each in gone}
    for record in state.records:
        if record.lsn not in lost:
            books.record(record)
    projects: dict[str, Any] = image(books)["projects"]
    return projects


def _but_lsn(project: Any) -> Any:
    """A project's image without the number up to which it has seen the journal."""
    return project and (project[0], *project[2:])
