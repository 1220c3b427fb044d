"""Batches that are summed before they are durable come to the same as all others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from tallymark.events import RunEnd, RunStart, Usage
from tallymark.state import EVENTS_MAX, DashboardState
from tallymarkd.core.apply import ProjectState, apply, empty, snapshot
from tallymarkd.core.entry import Batch, Cost
from tallymarkd.core.stretch import CONDENSED_MIN, condense

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def run(number: int, **more: Any) -> RunEnd:
    fields: dict[str, Any] = {
        "event_id": f"r{number}",
        "agent_name": "coding",
        "session_id": "s",
        "ticket_key": f"AI-{number % 3}",
        "started_at": NOON + timedelta(seconds=number),
        "ended_at": NOON + timedelta(seconds=number + 5),
        "duration_seconds": 5.0,
        "status": "error" if number % 7 == 3 else "success",
        "input_tokens": number,
        "output_tokens": 1,
        "estimated_cost_usd": 0.001 * number,
        "artifacts": ["commit:a", "file:b"],
    }
    return RunEnd(**{**fields, **more})


def batch_of(events: list[Any], **more: Any) -> Batch:
    return Batch(list(events), received_at=NOON, **more)


def condensed(events: list[Any], **more: Any) -> Batch:
    batch = batch_of(events, **more)
    condense(batch, msgspec.Raw(msgspec.msgpack.encode(events)))
    return batch


def applied(batches: list[Batch]) -> ProjectState:
    state = empty("p", NOON)
    for batch in batches:
        apply(state, batch, state.applied_lsn + 1)
    return state


def shown(state: ProjectState) -> DashboardState:
    return snapshot(state)


def runs(first: int, count: int = CONDENSED_MIN, **more: Any) -> list[RunEnd]:
    return [run(number, **more) for number in range(first, first + count)]


@pytest.mark.parametrize("count", [CONDENSED_MIN, 300, EVENTS_MAX, 2 * EVENTS_MAX + 1])
def test_condensed_batches_come_to_the_same(count: int) -> None:
    parts = [runs(count * each, count) for each in range(4)]
    assert all(condensed(part).sums is not None for part in parts)
    fast, slow = applied([condensed(p) for p in parts]), applied([batch_of(p) for p in parts])
    assert shown(fast) == shown(slow)
    assert [each.event_id for each in fast.runs] == [each.event_id for each in slow.runs]


def test_condensed_batches_among_others() -> None:
    late = Usage(run_id="r1", input_tokens=9)
    parts: list[list[Any]] = [runs(0, 30), [late], runs(30, 500), [run(530)], runs(531, 20)]
    parts += [[Usage(run_id="r530", input_tokens=9)], runs(551, 480), [Usage(run_id="r540")]]
    fast, slow = applied([condensed(p) for p in parts]), applied([batch_of(p) for p in parts])
    assert shown(fast) == shown(slow)


@pytest.mark.parametrize(
    "before",
    [
        [RunStart(run_id="r5", agent_name="coding", session_id="other", host="here")],
        [Usage(run_id="r5", agent_name="coding", input_tokens=7)],
    ],
)
def test_a_run_that_is_open_when_the_batch_is_durable(before: list[Any]) -> None:
    fast = applied([batch_of(before), condensed(runs(0))])
    slow = applied([batch_of(before), batch_of(runs(0))])
    assert shown(fast) == shown(slow)
    assert not fast.open_runs


@pytest.mark.parametrize(
    "events",
    [
        runs(0, CONDENSED_MIN - 1),
        [*runs(0), run(90, agent_name="testing")],
        [*runs(0), run(90, session_id="t")],
        [*runs(0), run(90, estimated_cost_usd=None)],
        [*runs(0), run(90, started_at=None)],
        [*runs(0), run(90, duration_seconds=None)],
        [*runs(0), run(90, event_id="", run_id="x")],
        [*runs(0), Usage(input_tokens=1)],
    ],
)
def test_what_is_no_stretch_is_left_as_it_is(events: list[Any]) -> None:
    batch = condensed(events)
    assert batch.sums is None
    assert batch.events == events


@pytest.mark.parametrize(
    "more",
    [
        {"verdicts": bytes(CONDENSED_MIN)},
        {"costs": {0: Cost(1, "x")}},
        {"extras": {0: {"new": 1}}},
    ],
)
def test_what_admission_had_to_add_to_is_left_as_it_is(more: dict[str, Any]) -> None:
    assert condensed(runs(0), **more).sums is None


def test_condensed_events_can_be_had_again() -> None:
    batch = condensed(runs(0))
    assert batch.count == CONDENSED_MIN
    assert batch.events == runs(0)


def test_a_run_is_found_in_a_condensed_batch_while_it_is_among_the_newest() -> None:
    state = applied([condensed(runs(0, 300)), condensed(runs(300, 300))])
    assert state.find_run("r99") is None
    place = state.find_run("r100")
    assert place is not None
    assert state.runs[place].event_id == "r100"
    assert len(state.runs) == EVENTS_MAX
