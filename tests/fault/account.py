"""What agents have sent, what was acknowledged, and what must therefore be kept.

An account of its own: verdicts and sums are worked out here again, in the
plainest way, so that a fault in the daemon's own cannot hide itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from tallymarkd.core.books import Books
from tallymarkd.core.entry import Verdict
from tallymarkd.core.project_state import snapshot

Event = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Batch:
    """Events as they were frozen. ``seq`` is 0 for what came over HTTP."""

    producer: str
    seq: int
    project: str
    events: tuple[Event, ...]

    @property
    def array(self) -> msgspec.Raw:
        return msgspec.Raw(msgspec.msgpack.encode(self.events))


@dataclass(frozen=True, eq=False)
class Submission:
    """A batch on its way, with the verdicts that it must get; ``skipped`` for a skip."""

    batch: Batch
    verdicts: tuple[Verdict, ...]
    skipped: int = 0


def judge(batch: Batch, seen: set[tuple[str, str]], *, by_id: bool) -> Submission:
    """The verdicts of a batch after those before it; adds its keys to ``seen``."""
    verdicts = []
    for event in batch.events:
        key = _key(event, by_id=by_id)
        cached = event.get("cache_read_tokens", 0)
        if cached > event.get("input_tokens", 0):
            verdicts.append(Verdict.CACHE_EXCEEDS_INPUT)
        elif key and (batch.project, key) in seen:
            verdicts.append(Verdict.DUPLICATE)
        else:
            verdicts.append(Verdict.STORED)
            if key:
                seen.add((batch.project, key))
    return Submission(batch, tuple(verdicts))


def _key(event: Event, *, by_id: bool) -> str:
    key: str = event.get("dedupe_key", "") or (event.get("event_id", "") if by_id else "")
    return key


@dataclass
class Agent:
    """One producer: its batches, and how far each of them has come."""

    name: str
    project: str
    batches: list[Batch] = field(default_factory=list)
    sent: int = 0
    acked: int = 0
    gone: bool = False


@dataclass(frozen=True)
class Standing:
    """An account at one moment.

    ``log`` are the submissions that may be in the journal, in its order;
    ``acked`` what each producer has seen acknowledged; ``posts`` the batches
    without a seq that were answered; ``given`` the highest number given out.
    """

    log: tuple[Submission, ...] = ()
    acked: Mapping[str, int] = field(default_factory=dict)
    sent: Mapping[str, int] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    posts: frozenset[Batch] = frozenset()
    given: int = 0

    @property
    def acknowledged(self) -> int:
        """Events that were acknowledged."""
        return sum(
            len(each.batch.events) for each in self.log if self._is_acked(each.batch)
        )  # fmt: skip

    def _is_acked(self, batch: Batch) -> bool:
        return batch in self.posts or 0 < batch.seq <= self.acked.get(batch.producer, 0)


@dataclass
class Found:
    """What is wrong with a state that recovery gave."""

    lost: int = 0
    doubled: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)

    def add(self, other: Found) -> None:
        self.lost += other.lost
        self.doubled += other.doubled
        self.wrong += other.wrong


def kept(standing: Standing, books: Books) -> list[Submission]:
    """Which of the submissions are in the books: by the marks, and posts by their ids."""
    ids = run_ids(books)
    found = []
    for each in standing.log:
        batch = each.batch
        if batch.seq:
            mark = books.server.marks.get(batch.producer)
            # A producer without a mark has said goodbye, or nothing of it is there.
            goodbye = batch.producer in standing.gone
            reach = mark.seq if mark else standing.sent[batch.producer] if goodbye else 0
            if batch.seq <= reach:
                found.append(each)
        elif batch in standing.posts or any(
            event["event_id"] in ids.get(batch.project, ()) for event in batch.events
        ):
            found.append(each)
    return found


def run_ids(books: Books) -> Mapping[str, set[str]]:
    """The ids of the finished runs of each project."""
    return {
        name: {run.event_id for run in snapshot(state).events}
        for name, state in books.projects.items()
    }


def hold(standing: Standing, books: Books) -> Found:
    """Hold books that recovery gave against the account."""
    found = Found()
    for name, acked in standing.acked.items():
        mark = books.server.marks.get(name)
        seq = mark.seq if mark else 0
        if seq < acked and not (mark is None and name in standing.gone):
            found.lost += sum(
                len(each.batch.events)
                for each in standing.log
                if each.batch.producer == name and seq < each.batch.seq <= acked
            )
            found.wrong.append(f"{name}: acknowledged through {acked}, and the mark is {seq}")
        if seq > standing.sent.get(name, 0):
            found.doubled += 1
            found.wrong.append(f"{name}: the mark is {seq}, and only {standing.sent} was sent")
    there = kept(standing, books)
    for project in sorted({each.batch.project for each in standing.log} | books.projects.keys()):
        _hold_project(project, there, books, found)
    _hold_ledger(there, books, found)
    return found


def stored_events(submissions: Iterable[Submission], project: str) -> list[Event]:
    """The events of a project that were stored, in order."""
    return [
        event
        for each in submissions
        if each.batch.project == project
        for event, verdict in zip(each.batch.events, each.verdicts, strict=True)
        if verdict == Verdict.STORED
    ]


def _hold_project(
    project: str, there: Iterable[Submission], books: Books, found: Found
) -> None:  # fmt: skip
    events = stored_events(there, project)
    state = books.projects.get(project)
    board = snapshot(state) if state is not None else None
    expected = [event["event_id"] for event in events if event["type"] == "run.end"]
    runs = [run.event_id for run in board.events] if board else []
    found.lost += len(Counter(expected) - Counter(runs))
    found.doubled += len(Counter(runs) - Counter(expected))
    if runs != expected:
        found.wrong.append(f"{project}: runs are {runs[-5:]}, expected {expected[-5:]}")
    tokens = sum(
        event.get("input_tokens", 0) + event.get("output_tokens", 0) for event in events
    )  # fmt: skip
    if (board.total_tokens if board else 0) != tokens:
        found.wrong.append(
            f"{project}: {board.total_tokens if board else 0} tokens, expected {tokens}"
        )
    invoked = Counter(event["agent_name"] for event in events if event["type"] == "run.end")
    agents = board.agents if board else {}
    counted = {n: a.total_invocations for n, a in agents.items() if a.total_invocations}
    if counted != dict(invoked):
        found.wrong.append(f"{project}: invocations are {counted}, expected {dict(invoked)}")


def _hold_ledger(there: Iterable[Submission], books: Books, found: Found) -> None:
    ledger = books.server.ledger
    verdicts = Counter(verdict for each in there for verdict in each.verdicts)
    rejected = {v.code: count for v, count in verdicts.items() if v.rejected}
    expected = (
        verdicts.total(), verdicts[Verdict.STORED], verdicts[Verdict.DUPLICATE], rejected,
        sum(each.skipped for each in there), 0,
    )  # fmt: skip
    told = (
        ledger.received, ledger.stored, ledger.duplicate, dict(ledger.rejected),
        ledger.skipped, ledger.lost,
    )  # fmt: skip
    if told != expected:
        found.wrong.append(f"the ledger is {told}, expected {expected}")
    unnamed = [loss for loss in ledger.losses if not loss.reason.startswith("announced")]
    if unnamed:
        found.wrong.append(f"losses are told: {unnamed[:2]}")


class Account:
    """The account as it is kept while agents send."""

    def __init__(self) -> None:
        self.agents: dict[str, Agent] = {}
        self._log: list[Submission] = []
        self._seen: set[tuple[str, str]] = set()
        self._posts: set[Batch] = set()
        self._now: Standing | None = None

    @classmethod
    def resumed(cls, standing: Standing, agents: Iterable[Agent], books: Books) -> Account:
        """The account of agents that come back to a daemon with these books."""
        account = cls()
        account.agents = {
            agent.name: replace(agent, sent=standing.sent[agent.name], acked=0,
                                gone=agent.name in standing.gone)
            for agent in agents
            if agent.name in standing.sent
        }  # fmt: skip
        account._log = list(standing.log)
        account._posts = set(standing.posts)
        account.after_recovery(books)
        return account

    def standing(self, given: int) -> Standing:
        """The account as it stands."""
        if self._now is None:
            self._now = Standing(
                tuple(self._log),
                {agent.name: agent.acked for agent in self.agents.values()},
                {agent.name: agent.sent for agent in self.agents.values()},
                frozenset(agent.name for agent in self.agents.values() if agent.gone),
                frozenset(self._posts),
            )
        return replace(self._now, given=given)

    def join(self, name: str, project: str) -> Agent:
        """A new producer."""
        self._now = None
        agent = self.agents[name] = Agent(name, project)
        return agent

    def submit(self, batch: Batch, *, skipped: int = 0) -> None:
        """A batch, or a skip, is handed to the daemon."""
        self._now = None
        if batch.seq:
            self.agents[batch.producer].sent = batch.seq
        judged = judge(batch, self._seen, by_id=not batch.seq)
        self._log.append(replace(judged, skipped=skipped))

    def acknowledge(self, name: str, seq: int) -> None:
        """An agent has read an Ack."""
        self._now = None
        agent = self.agents[name]
        agent.acked = max(agent.acked, seq)

    def answer(self, batch: Batch) -> None:
        """A batch without a seq was answered: it is durable."""
        self._now = None
        self._posts.add(batch)

    def leave(self, name: str) -> None:
        """An agent says goodbye."""
        self._now = None
        self.agents[name].gone = True

    def go_back(self, name: str, durable_seq: int) -> None:
        """What an agent sent beyond this is not kept; it will be sent again."""
        self.agents[name].sent = durable_seq
        self._forget(lambda b: b.producer == name and b.seq > durable_seq)

    def withdraw(self, batch: Batch) -> None:
        """A batch without a seq was refused."""
        self._forget(lambda b: b is batch)

    def after_recovery(self, books: Books) -> None:
        """A new daemon: what its marks do not reach is to be sent again."""
        there = set(map(id, kept(self.standing(0), books)))
        for agent in self.agents.values():
            mark = books.server.marks.get(agent.name)
            agent.sent = mark.seq if mark else agent.sent if agent.gone else 0
        self._log = [each for each in self._log if id(each) in there]
        self._rebuild()

    def _forget(self, gone: Any) -> None:
        self._log = [each for each in self._log if not gone(each.batch)]
        self._rebuild()

    def _rebuild(self) -> None:
        self._now = None
        self._seen = set()
        for each in self._log:
            for event, verdict in zip(each.batch.events, each.verdicts, strict=True):
                if verdict == Verdict.STORED and (key := _key(event, by_id=not each.batch.seq)):
                    self._seen.add((each.batch.project, key))
