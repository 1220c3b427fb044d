"""Agents that spool, and what of their events the daemon has: shared by the ordeals."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tallymark.adoption import Adopted, Adopter
from tallymark.fs import OsFileSystem
from tallymark.record import Kind
from tallymarkd.core.entry import Verdict, decode_entry, split_events
from tallymarkd.storage.survey import survey
from tests.daemon import DEADLINE_SECONDS
from tests.fault import spooling_agent
from tests.fault.spooling_agent import Plan


@dataclass
class Journaled:
    """Every event in a journal, by what was decided of it."""

    stored: Counter[str] = field(default_factory=Counter)
    others: Counter[Verdict] = field(default_factory=Counter)
    batches: int = 0
    producers: set[bytes] = field(default_factory=set)


def journaled(state_dir: Path) -> Journaled:
    """What the files of a daemon hold that has stopped, or has nothing on its way."""
    found = Journaled()
    for record in survey(OsFileSystem(), state_dir / "journal").records(0):
        if record.kind != Kind.BATCH:
            continue
        entry = decode_entry(record.payload)
        found.batches += 1
        found.producers.add(record.producer)
        for number, raw in enumerate(split_events(entry.events)):
            verdict = Verdict(entry.verdicts[number]) if entry.verdicts else Verdict.STORED
            if verdict == Verdict.STORED:
                found.stored[msgspec.msgpack.decode(raw)["event_id"]] += 1
            else:
                found.others[verdict] += 1
    return found


@dataclass
class Tally:
    """What is wrong with what is stored: ``safe`` must be there, of ``sent`` anything may be."""

    lost: int = 0
    doubled: int = 0
    wrong: list[str] = field(default_factory=list)

    def hold(self, stored: Counter[str], safe: Collection[str], sent: Collection[str] = ()) -> None:
        """Hold what is stored against what was sent."""
        missing = set(safe) - stored.keys()
        foreign = stored.keys() - set(safe) - set(sent)
        twice = {key: count for key, count in stored.items() if count > 1}
        self.lost += len(missing)
        self.doubled += sum(count - 1 for count in twice.values()) + len(foreign)
        for what, keys in (("lost", missing), ("twice", twice), ("never sent", foreign)):
            if keys:
                self.wrong.append(f"{what}: {sorted(keys)[:5]}")

    def check(self, what: str, found: Any, expected: Any) -> None:
        """Something beside the events."""
        if found != expected:
            self.wrong.append(f"{what}: {found!r}, expected {expected!r}")


@contextmanager
def agent(plan: Plan, *prefix: str) -> Iterator[subprocess.Popen[str]]:
    """A process that acts as planned, and is gone after."""
    process = subprocess.Popen(
        [*prefix, sys.executable, str(spooling_agent.PATH), msgspec.json.encode(plan).decode()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Life:
    """How an agent ended, what it had said by then, and on stderr."""

    code: int
    said: list[dict[str, Any]]
    stderr: str

    @property
    def safe(self) -> int:
        """Events before this one were flushed."""
        return max((line["safe"] for line in self.said if "safe" in line), default=0)


def ended(process: subprocess.Popen[str]) -> Life:
    """Wait for its end."""
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    return Life(process.returncode, [msgspec.json.decode(line) for line in out.splitlines()], err)


def live(plan: Plan) -> Life:
    """The whole life of an agent."""
    with agent(plan) as process:
        return ended(process)


def ids(name: str, count: int) -> list[str]:
    """The ids of an agent's first events."""
    return [spooling_agent.event_id(name, number) for number in range(count)]


def adopt(directory: Path, socket: Path) -> Adopted:
    """One round, in this process."""
    return Adopter(OsFileSystem(), directory, [socket], client="ordeal/1").run()
