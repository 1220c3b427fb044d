from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from tallymarkd import answers as answers_module
from tallymarkd.answers import BooksAnswers
from tallymarkd.health import Vitals
from tallymarkd.server.desk import Condition
from tests.daemon_parts import Bench, run_end


class FakeVitals:
    def condition(self, *, probe_failed: str = "") -> Condition:
        return Condition("failing" if probe_failed else "ok", [], {"probe_failed": probe_failed})


def answers(bench: Bench) -> BooksAnswers:
    return BooksAnswers(cast(Vitals, FakeVitals()), bench.engine)


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
