from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tallymarkd import answers as answers_module
from tallymarkd.answers import BooksAnswers
from tallymarkd.core.holds import Held, Holds
from tallymarkd.health import Vitals
from tallymarkd.server.desk import Condition
from tests.daemon_parts import SERVER_ID, Bench, run_end


@pytest.fixture(autouse=True)
def fake_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    def condition(vitals: Vitals, *, probe_failed: str = "") -> Condition:
        return Condition("failing" if probe_failed else "ok", [], {"probe_failed": probe_failed})

    monkeypatch.setattr(answers_module, "condition", condition)


def answers(bench: Bench) -> BooksAnswers:
    vitals, holds = cast(Vitals, None), Holds(lambda: None)
    return BooksAnswers(vitals, bench.engine, holds, lambda uid: True)


def test_projects_and_states_are_those_that_are_durable() -> None:
    with Bench() as bench:
        asked = answers(bench)
        client = bench.join(project="spotter")
        client.publish(1, run_end(1))
        assert msgspec.json.decode(asked.projects()) == []
        bench.settle()

        (project,) = msgspec.json.decode(asked.projects())
        state = msgspec.json.decode(asked.state("spotter") or b"")

        assert project["project"] == "spotter"
        assert [event["event_id"] for event in state["events"]] == ["run-1"]
        assert asked.state("nobody") is None


def test_a_shallow_question_is_answered_at_once() -> None:
    with Bench() as bench:
        found: list[Condition] = []
        answers(bench).health(False, found.append)
        assert [condition.status for condition in found] == ["ok"]


def deep(bench: Bench, hold: bool) -> list[Condition]:
    """What a deep question brings, with the disk held or not; and what comes after it."""

    async def ask() -> list[Condition]:
        loop = asyncio.get_running_loop()
        bench.on_commit = lambda tickets: loop.call_soon_threadsafe(bench.engine.committed, tickets)
        if hold:
            bench.log.may_sync.clear()
        came: asyncio.Queue[Condition] = asyncio.Queue()
        answers(bench).health(True, came.put_nowait)
        first = await asyncio.wait_for(came.get(), 60)
        bench.log.may_sync.set()
        behind: asyncio.Future[Any] = loop.create_future()
        bench.engine.probe(behind.set_result)
        await behind
        return [first, *(came.get_nowait() for _ in range(came.qsize()))]

    return asyncio.run(ask())


def test_a_deep_question_waits_for_its_probe() -> None:
    with Bench() as bench:
        (condition,) = deep(bench, hold=False)

        assert condition.status == "ok"
        assert bench.log.syncs >= 1


def test_a_probe_that_does_not_come_back_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "PROBE_SECONDS", 0.01)
    with Bench() as bench:
        (condition,) = deep(bench, hold=True)

        assert condition.status == "failing"
        assert condition.report["probe_failed"] == "nothing was durable within 0.01 s"


class Rig:
    """Answers over a journal that is durable through 41, and what they have said."""

    def __init__(self) -> None:
        self.holds = Holds(lambda: None)
        self.said: list[tuple[bytes, str]] = []
        self.journal = SimpleNamespace(durable_lsn=41)
        settings = SimpleNamespace(state_dir=Path("/var/lib/tallymark"))
        vitals = SimpleNamespace(journal=self.journal, settings=settings)
        server = SimpleNamespace(server_id=SERVER_ID)
        engine = SimpleNamespace(books=SimpleNamespace(server=server))
        self.answers = BooksAnswers(
            cast(Any, vitals), cast(Any, engine), self.holds, lambda uid: uid == 1000
        )

    def hold(self, uid: int) -> Any:
        return self.answers.hold(uid, lambda body, error: self.said.append((body, error)))


def test_whose_the_daemon_is_may_hold_history() -> None:
    rig = Rig()
    release = rig.hold(1000)

    assert rig.holds
    ((body, error),) = rig.said
    assert error == ""
    held = msgspec.json.decode(body, type=Held)
    assert (held.durable_lsn, held.server_id) == (41, SERVER_ID)
    assert held.state_dir == "/var/lib/tallymark"
    release()
    assert not rig.holds


def test_nobody_else_may() -> None:
    """Who cannot read the files could only make the disk full."""
    rig = Rig()
    release = rig.hold(1001)

    assert not rig.holds
    assert rig.said == [(b"", "cannot hold history: only the daemon's own user and root may")]
    release()


def test_the_number_is_that_of_the_moment_when_nothing_is_retired_any_more() -> None:
    rig = Rig()
    rig.holds.begin()
    rig.hold(1000)
    assert rig.said == []
    rig.journal.durable_lsn = 50

    rig.holds.end()

    assert msgspec.json.decode(rig.said[0][0], type=Held).durable_lsn == 50
