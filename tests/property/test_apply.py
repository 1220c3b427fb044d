"""``apply`` against a model that keeps every charge and adds up at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tallymark.events import Event, RunEnd, RunStart, SessionEnd, SessionStart, Usage
from tallymarkd.core import charges, project_state, stretch
from tallymarkd.core.apply import UNKNOWN_AGENT, ProjectState, apply, empty, freeze, snapshot
from tallymarkd.core.entry import Batch, Cost, OtherEvent
from tallymarkd.core.project_file import decode, encode, encode_view
from tallymarkd.core.stretch import condense

T0 = datetime(2026, 1, 1, tzinfo=UTC)
RUNS_MAX = 6
SESSIONS_MAX = 3

moderately = settings(max_examples=60)
"""Each example is a stream of some fifty events."""

Stored = Event | OtherEvent


@contextlib.contextmanager
def small_limits(**more: int) -> Iterator[None]:
    """With few runs and sessions, short streams reach every limit."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(project_state, "EVENTS_MAX", RUNS_MAX))
        stack.enter_context(mock.patch.object(charges, "SESSIONS_MAX", SESSIONS_MAX))
        for name, value in more.items():
            module = project_state if hasattr(project_state, name) else charges
            stack.enter_context(mock.patch.object(module, name, value))
            if hasattr(charges, name):
                stack.enter_context(mock.patch.object(charges, name, value))
        yield


agents = st.sampled_from(["", "coding", "coding", "review"])
sessions = st.sampled_from(["", "s0", "s0", "s1", "s2", "s3", "s4", "s5"])
runs = st.sampled_from([f"r{number}" for number in range(9)])
tokens = st.integers(0, 5)
nanos = st.one_of(st.none(), st.integers(0, 3_000_000_000))
times = st.integers(0, 1000).map(lambda seconds: T0 + timedelta(seconds=seconds))
maybe_times = st.one_of(st.none(), times)
artifacts = st.lists(
    st.sampled_from(
        "commit:a commit:b pr:merged:1 pr:#2 file:created:x file:y issue:completed:A issue:B"
        " message:m slack:s review:r test:t other:o commit pr".split()
    ),
    max_size=4,
)


def usd(amount: int | None) -> float | None:
    return None if amount is None else amount / 1e9


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    given_tokens, cached = draw(tokens), draw(tokens)
    return Usage(
        at=draw(maybe_times),
        agent_name=draw(agents),
        session_id=draw(sessions),
        run_id=draw(st.one_of(st.just(""), runs)),
        input_tokens=given_tokens + cached,
        output_tokens=draw(tokens),
        cache_read_tokens=cached,
        estimated_cost_usd=usd(draw(nanos)),
    )


@st.composite
def run_ends(draw: st.DrawFn) -> RunEnd:
    plain = draw(st.booleans())  # plain ones go the fast way
    return RunEnd(
        event_id=draw(runs) if plain else draw(st.one_of(st.just(""), runs)),
        at=draw(maybe_times),
        agent_name="coding" if plain else draw(agents),
        session_id="s0" if plain else draw(sessions),
        ticket_key=draw(st.sampled_from(["", "AI-1", "AI-2"])),
        started_at=draw(times if plain else maybe_times),
        ended_at=draw(times if plain else maybe_times),
        duration_seconds=draw(st.integers(0, 40)) / 4 if plain or draw(st.booleans()) else None,
        status=draw(st.sampled_from(["success", "success", "success", "error", "timeout"])),
        input_tokens=draw(tokens),
        output_tokens=draw(tokens),
        total_tokens=draw(st.one_of(st.just(msgspec.UNSET), tokens)),
        estimated_cost_usd=usd(draw(nanos)),
        artifacts=draw(artifacts),
        error_message=draw(st.sampled_from(["", "boom"])),
    )


run_starts = st.builds(
    RunStart, run_id=runs, at=maybe_times, agent_name=agents, session_id=sessions
)
session_starts = st.builds(SessionStart, at=maybe_times, session_id=sessions)
session_ends = st.builds(
    SessionEnd,
    at=maybe_times,
    session_id=sessions,
    status=st.sampled_from(["continue", "error", "complete"]),
)
others = st.just(OtherEvent("other", {"type": "other"}))
events: st.SearchStrategy[Stored] = st.one_of(
    usages(), usages(), run_ends(), run_ends(), run_ends(), run_starts, session_starts,
    session_ends, others,
)  # fmt: skip


@st.composite
def batches(draw: st.DrawFn) -> list[Batch]:
    found = []
    for part in draw(st.lists(st.lists(events, min_size=1, max_size=12), max_size=8)):
        priced = draw(st.dictionaries(st.integers(0, len(part) - 1), st.integers(0, 10**9)))
        found.append(
            Batch(
                list(part),
                received_at=draw(times),
                ids={index: f"id{index}" for index in range(len(part))},
                costs={index: Cost(amount, "table") for index, amount in priced.items()},
            )
        )
    return found


def applied(all_batches: list[Batch], state: ProjectState | None = None) -> ProjectState:
    state = empty("p", T0) if state is None else state
    lsn = state.applied_lsn + 1
    for batch in all_batches:
        apply(state, batch, lsn)
        lsn += batch.count
    return state


class Model:
    """Every charge by itself; a charge that is taken back is struck out."""

    def __init__(self) -> None:
        self.charges: list[dict[str, Any]] = []
        self.finished: list[dict[str, Any]] = []
        self.open: dict[str, dict[str, Any]] = {}
        self.results: list[tuple[str, RunEnd]] = []
        self.sessions: dict[str, None] = {}
        self.seconds: dict[str, float] = {}
        self.others = 0
        self.faults = 0

    def take(self, batch: Batch) -> None:
        for index, event in enumerate(batch.events):
            if isinstance(event, OtherEvent):
                self.others += 1
            elif isinstance(event, Usage):
                self.usage(event, batch, index)
            elif isinstance(event, RunEnd):
                self.run_end(event, batch, index)
            elif isinstance(event, RunStart):
                self.run_start(event, batch)
            elif isinstance(event, SessionStart | SessionEnd):
                if event.session_id:
                    self.sessions[event.session_id] = None
                else:
                    self.faults += 1

    def figures(self, event: Usage | RunEnd, batch: Batch, index: int) -> dict[str, Any]:
        total: Any = getattr(event, "total_tokens", msgspec.UNSET)
        if total is msgspec.UNSET:
            total = event.input_tokens + event.output_tokens
        any_tokens = bool(event.input_tokens or event.output_tokens or total)
        amount: int | None = None
        if event.estimated_cost_usd is not None:
            amount = round(event.estimated_cost_usd * 1e9)
        elif index in batch.costs:
            amount = batch.costs[index].nanos
        return {
            "input": event.input_tokens,
            "output": event.output_tokens,
            "total": total,
            "cache_read": event.cache_read_tokens,
            "nanos": amount or 0,
            "unpriced": int(amount is None and any_tokens),
            "usages": int(isinstance(event, Usage) or any_tokens or bool(amount)),
        }

    def newest(self, run_id: str) -> dict[str, Any] | None:
        return next((r for r in reversed(self.finished[-RUNS_MAX:]) if r["id"] == run_id), None)

    def usage(self, event: Usage, batch: Batch, index: int) -> None:
        run_id = event.run_id
        known = self.open.get(run_id) or (self.newest(run_id) if run_id else None) or {}
        charge = self.figures(event, batch, index) | {
            "agent": event.agent_name or known.get("agent") or UNKNOWN_AGENT,
            "session": event.session_id or known.get("session", ""),
        }
        self.charges.append(charge)
        self.sessions.setdefault(charge["session"], None)
        if "id" in known:
            if known["from"] == "run.end":
                self.charges.remove(known["charge"])
                known["from"], known["spent"] = "usage", []
            known["spent"].append(charge)
        elif run_id:
            opened = self.open.setdefault(run_id, {"agent": "", "session": "", "spent": []})
            opened["agent"] = opened["agent"] or event.agent_name
            opened["session"] = opened["session"] or charge["session"]
            opened["spent"].append(charge)

    def run_start(self, event: RunStart, batch: Batch) -> None:
        known = self.open.get(event.run_id) or {"agent": "", "session": "", "spent": []}
        agent = event.agent_name or known["agent"] or UNKNOWN_AGENT
        session = event.session_id or known["session"]
        self.sessions.setdefault(session, None)
        self.seconds.setdefault(agent, 0.0)
        if self.newest(event.run_id) is None:
            at = event.at or batch.received_at
            self.open[event.run_id] = known | {"agent": agent, "session": session, "at": at}

    def run_end(self, event: RunEnd, batch: Batch, index: int) -> None:
        run_id = event.event_id or batch.ids[index]
        opened = self.open.pop(run_id, {"agent": "", "session": "", "spent": []})
        agent = event.agent_name or opened["agent"] or UNKNOWN_AGENT
        session = event.session_id or opened["session"]
        charge = self.figures(event, batch, index) | {"agent": agent, "session": session}
        ended = event.ended_at or event.at or batch.received_at
        started = event.started_at or opened.get("at")
        seconds = event.duration_seconds
        if seconds is None:
            seconds = max(0.0, (ended - started).total_seconds()) if started else 0.0
        self.seconds[agent] = self.seconds.get(agent, 0.0) + seconds
        self.sessions.setdefault(session, None)
        self.results.append((agent, event))
        run = {"id": run_id, "agent": agent, "session": session, "from": "usage"}
        run["spent"] = list(opened["spent"])
        if not run["spent"]:
            # So that no two are equal, and the right one is struck out.
            charge["number"] = len(self.results)
            run |= {"from": "run.end", "charge": charge, "spent": [charge]}
            self.charges.append(charge)
        self.finished.append(run)

    def sums(self, **where: str) -> dict[str, int]:
        chosen = [c for c in self.charges if all(c[key] == value for key, value in where.items())]
        names = ("input", "output", "total", "cache_read", "nanos", "unpriced", "usages")
        return {name: sum(charge[name] for charge in chosen) for name in names}


def sums_of(found: Any, usages: int) -> dict[str, int]:
    return {
        "input": found.input_tokens,
        "output": found.output_tokens,
        "total": found.total_tokens,
        "cache_read": found.cache_read_tokens,
        "nanos": round(found.total_cost_usd * 1e9),
        "unpriced": found.unpriced_usages,
        "usages": usages,
    }


@moderately
@given(batches())
def test_totals_are_those_of_a_model_that_adds_up_at_the_end(all_batches: list[Batch]) -> None:
    model = Model()
    with small_limits():
        state = applied(all_batches)
        for batch in all_batches:
            model.take(batch)
        board = snapshot(state)

    assert sums_of(board, board.usages) == model.sums()
    model_agents = {charge["agent"] for charge in model.charges} | set(model.seconds)
    assert model_agents <= set(board.agents)
    for name, profile in board.agents.items():
        expected = model.sums(agent=name)
        assert sums_of(profile, expected["usages"]) == expected
        assert profile.total_duration_seconds == model.seconds.get(name, 0.0)
    model.sessions.pop("", None)
    assert board.total_sessions == len(model.sessions)
    assert [each.session_id for each in board.sessions] == list(model.sessions)[-SESSIONS_MAX:]
    for session in board.sessions:
        expected = model.sums(session=session.session_id)
        assert sums_of(session, expected["usages"]) == expected
    assert board.other_events == model.others
    assert state.apply_failures == model.faults
    assert set(state.open_runs) == set(model.open)


@moderately
@given(batches())
def test_runs_are_those_of_the_model(all_batches: list[Batch]) -> None:
    model = Model()
    with small_limits():
        board = snapshot(applied(all_batches))
        for batch in all_batches:
            model.take(batch)

    expected = model.finished[-RUNS_MAX:]
    assert [run.event_id for run in board.events] == [run["id"] for run in expected]
    for run, known in zip(board.events, expected, strict=True):
        assert (run.agent_name, run.session_id) == (known["agent"], known["session"])
        assert run.tokens_from == known["from"]
        assert run.total_tokens == sum(charge["total"] for charge in known["spent"])
        assert run.input_tokens == sum(charge["input"] for charge in known["spent"])
        assert run.unpriced_usages == sum(charge["unpriced"] for charge in known["spent"])
        money = sum(charge["nanos"] for charge in known["spent"])
        assert round(run.estimated_cost_usd * 1e9) == money


@moderately
@given(batches())
def test_results_are_those_of_the_model(all_batches: list[Batch]) -> None:
    model = Model()
    with small_limits():
        board = snapshot(applied(all_batches))
    for batch in all_batches:
        model.take(batch)

    for name, profile in board.agents.items():
        results = [run for agent, run in model.results if agent == name]
        statuses = "".join("." if run.status == "success" else "x" for run in results)
        streaks = [len(part) for part in statuses.split("x")]
        assert profile.total_invocations == len(results)
        assert profile.successful_invocations == statuses.count(".")
        assert profile.failed_invocations == statuses.count("x")
        assert (profile.current_streak, profile.best_streak) == (streaks[-1], max(streaks))
        failed = [run for run in results if run.status != "success"]
        assert profile.last_error == (
            failed[-1].error_message or failed[-1].status if failed else ""
        )
        made = [each for run in results for each in run.artifacts]
        assert profile.commits_made == sum(each.startswith("commit:") for each in made)
        assert profile.prs_merged == made.count("pr:merged:1")
        assert profile.prs_created == made.count("pr:#2")
        assert profile.files_created == made.count("file:created:x")
        assert profile.files_modified == made.count("file:y")
        assert profile.issues_completed == made.count("issue:completed:A")
        assert profile.issues_created == made.count("issue:B")
        assert profile.messages_sent == made.count("message:m") + made.count("slack:s")
        assert profile.reviews_completed == made.count("review:r")
        assert profile.tests_written == made.count("test:t")


@moderately
@given(batches())
def test_one_event_at_a_time_gives_the_same_as_batches(all_batches: list[Batch]) -> None:
    singles = [
        Batch(
            [event],
            received_at=batch.received_at,
            ids={0: batch.ids[index]},
            costs={0: batch.costs[index]} if index in batch.costs else {},
        )
        for batch in all_batches
        for index, event in enumerate(batch.events)
    ]
    with small_limits():
        together, apart = applied(all_batches), applied(singles)

    assert encode(together, server_id="s") == encode(apart, server_id="s")


@st.composite
def plain_batches(draw: st.DrawFn) -> list[list[Any]]:
    """Batches of which most are one stretch of complete runs."""
    found: list[list[Any]] = draw(
        st.lists(st.lists(st.builds(_complete, runs, times, nanos), max_size=9), max_size=8)
    )
    for part in draw(st.lists(st.lists(events, min_size=1, max_size=3), max_size=4)):
        found.insert(draw(st.integers(0, len(found))), part)
    return [part for part in found if part]


def _complete(run: str, time: datetime, amount: int | None) -> RunEnd:
    return RunEnd(
        event_id=run, agent_name="coding", session_id="s0", started_at=time, ended_at=time,
        duration_seconds=1.5, input_tokens=(amount or 0) % 5, estimated_cost_usd=usd(amount or 7),
        status="error" if amount else "success", artifacts=["commit:a"],
    )  # fmt: skip


@moderately
@given(plain_batches())
def test_a_batch_that_is_summed_in_advance_gives_the_same(parts: list[list[Any]]) -> None:
    plain = [Batch(list(part), received_at=T0) for part in parts]
    summed = [Batch(list(part), received_at=T0) for part in parts]
    with small_limits(), mock.patch.object(stretch, "CONDENSED_MIN", 1):
        for batch, part in zip(summed, parts, strict=True):
            if all(isinstance(event, RunEnd) for event in part):
                condense(batch, msgspec.Raw(msgspec.msgpack.encode(part)))
        fast, slow = applied(summed), applied(plain)

        assert encode(fast, server_id="s") == encode(slow, server_id="s")


@moderately
@given(batches(), st.data())
def test_a_save_and_a_load_anywhere_change_nothing(
    all_batches: list[Batch], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(all_batches)))
    limits = {"OPEN_RUNS_MAX": 4, "KNOWN_SESSIONS_MAX": 4}
    with small_limits(**limits):
        whole = applied(all_batches)
        half = decode(encode(applied(all_batches[:cut]), server_id="s"))
        resumed = applied(all_batches[cut:], half)

    assert encode(resumed, server_id="s") == encode(whole, server_id="s")
    assert snapshot(resumed) == snapshot(whole)


@moderately
@given(batches(), st.data())
def test_a_batch_that_was_applied_changes_nothing(
    all_batches: list[Batch], data: st.DataObject
) -> None:
    state = applied(all_batches)
    before = encode(state, server_id="s")
    again = data.draw(st.integers(0, len(all_batches)))
    lsn = 1 + sum(len(batch.events) for batch in all_batches[:again])
    for batch in all_batches[again:]:
        apply(state, batch, lsn)
        lsn += len(batch.events)

    assert encode(state, server_id="s") == before


@moderately
@given(batches())
def test_a_view_stays_as_it_was_while_apply_goes_on(all_batches: list[Batch]) -> None:
    state = empty("p", T0)
    taken = []
    with small_limits():
        for batch in all_batches:
            apply(state, batch, state.applied_lsn + 1)
            taken.append((freeze(state), encode(state, server_id="s")))

        for view, body in taken:
            assert b"".join(encode_view(view, server_id="s")) == body


@moderately
@given(batches())
def test_limits_are_never_exceeded(all_batches: list[Batch]) -> None:
    limits = {"OPEN_RUNS_MAX": 4, "KNOWN_SESSIONS_MAX": 4, "SESSION_NAMES_MAX": 1}
    state = empty("p", T0)
    with small_limits(**limits):
        for batch in all_batches:
            apply(state, batch, state.applied_lsn + 1)
            board = snapshot(state)
            assert len(board.events) <= RUNS_MAX
            assert len(board.sessions) <= SESSIONS_MAX
            assert len(state.open_runs) <= 4
            assert len(state.known_sessions) <= 4
            assert all(len(each.agents_invoked) <= 1 for each in board.sessions)
            assert all(len(each.tickets_worked) <= 1 for each in board.sessions)
            assert all(len(each.recent_events) <= 20 for each in board.agents.values())
            assert min(board.total_tokens, board.total_cost_usd, board.unpriced_usages) >= 0
