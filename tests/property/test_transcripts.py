"""Imports of made-up transcripts, held against what is true of them."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallymark.events import EVENT_BYTES_MAX, Event, RunEnd, SessionEnd, SessionStart, Usage
from tallymarkd.sources.claude_code import ImportPlan, read_transcripts
from tallymarkd.sources.claude_files import find_transcripts
from tallymarkd.sources.claude_lines import TokenCount
from tests.transcript_lines import BROKEN
from tests.transcripts import EPOCH, IDLE, World

SEEDS = 200


class Store:
    """Counts events as the daemon does: what has a known key changes nothing."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, str], Event] = {}
        self.duplicates = 0

    def take(self, events: Iterable[tuple[str, Event]]) -> None:
        decoder = msgspec.msgpack.Decoder(Event)
        for project, event in events:
            raw = msgspec.msgpack.encode(event)
            assert len(raw) <= EVENT_BYTES_MAX
            assert decoder.decode(raw) == event
            if (project, event.dedupe_key) in self.events:
                self.duplicates += 1
            else:
                self.events[project, event.dedupe_key] = event

    @property
    def given(self) -> list[tuple[str, Event]]:
        return [(project, event) for (project, _), event in self.events.items()]

    @property
    def usages(self) -> list[Usage]:
        return [event for event in self.events.values() if isinstance(event, Usage)]

    @property
    def runs(self) -> list[RunEnd]:
        return [event for event in self.events.values() if isinstance(event, RunEnd)]

    def tokens(self, field: str) -> dict[str, TokenCount]:
        found: dict[str, TokenCount] = {}
        for usage in self.usages:
            name = getattr(usage, field)
            found[name] = found.get(name, TokenCount()) + tokens_of(usage)
        return found


def tokens_of(event: Usage | RunEnd) -> TokenCount:
    return TokenCount(
        event.input_tokens, event.cache_read_tokens, event.cache_write_tokens, event.output_tokens
    )


def plan_of(root: Path, now: datetime) -> ImportPlan:
    return read_transcripts(
        find_transcripts(root, {}), now=now, project_of=lambda cwd: cwd.rsplit("/", 1)[-1]
    )


def assert_true_of(world: World, store: Store) -> None:
    truth = world.truth
    assert {usage.dedupe_key for usage in store.usages} == {
        f"anthropic:{name}" for name in truth.responses
    }
    assert store.tokens("source") == ({"claude-code": truth.tokens()} if truth.responses else {})
    assert store.tokens("session_id") == truth.by_session()
    assert store.tokens("agent_name") == truth.by_agent()
    runs = {run.run_id.removeprefix("claude-code:run:"): run for run in store.runs}
    assert runs.keys() == truth.runs.keys()
    for name, run in runs.items():
        expected = truth.runs[name]
        parent = f"claude-code:run:{expected.parent}" if expected.parent else ""
        assert (run.agent_name, run.session_id, run.status, run.parent_run_id) == (
            expected.agent,
            expected.session,
            expected.status,
            parent,
        )
        assert (run.started_at, run.ended_at) == (expected.started_at, expected.ended_at)
    assert_sessions_true(world, store)


def assert_sessions_true(world: World, store: Store) -> None:
    """Each session in which a model answered begins once, ends, and is of one project."""
    sessions = {run.session for run in world.truth.runs.values()}
    projects = {
        session: world.truth.session_cwd[session].rsplit("/", 1)[-1] for session in sessions
    }
    assert {event.session_id: project for project, event in store.given} == projects
    began = [event.session_id for _, event in store.given if isinstance(event, SessionStart)]
    assert sorted(began) == sorted(sessions)
    ended = {event.session_id for _, event in store.given if isinstance(event, SessionEnd)}
    assert ended == sessions


def assert_runs_add_up(store: Store) -> None:
    """A run's own tokens are those of its usages."""
    used = store.tokens("run_id")
    for run in store.runs:
        assert tokens_of(run) == used.get(run.run_id, TokenCount())
        assert run.event_id == run.run_id == run.dedupe_key


@pytest.mark.parametrize("hundred", range(0, SEEDS, 25))
def test_an_import_gives_what_is_true(tmp_path: Path, hundred: int) -> None:
    for seed in range(hundred, hundred + 25):
        world = World(seed)
        root = tmp_path / str(seed)
        world.write(root)
        plan = plan_of(root, world.end() + 2 * IDLE)
        store = Store()
        store.take(plan.events())
        assert store.duplicates == 0
        assert_true_of(world, store)
        assert_runs_add_up(store)
        assert plan.report.faults.counts == world.truth.faults
        assert plan.report.responses == len(world.truth.responses)
        assert plan.report.runs == len(world.truth.runs)
        assert plan.report.tokens == world.truth.tokens()


@pytest.mark.parametrize("hundred", range(0, SEEDS, 25))
def test_imports_while_transcripts_grow_give_what_is_true(tmp_path: Path, hundred: int) -> None:
    for seed in range(hundred, hundred + 25):
        world = World(seed)
        chance = random.Random(seed)
        store = Store()
        root = tmp_path / str(seed)
        for moment in sorted(chance.choices(world.moments(), k=3)):
            world.write(root, moment, torn=chance.random() < 0.5)
            store.take(plan_of(root, moment).events())
        world.write(root)
        store.take(plan_of(root, world.end() + 2 * IDLE).events())
        assert_true_of(world, store)
        assert_runs_add_up(store)


def test_a_second_import_gives_the_same_and_stores_nothing(tmp_path: Path) -> None:
    world = World(7, sessions=5)
    world.write(tmp_path)
    now = world.end() + 2 * IDLE
    first = list(plan_of(tmp_path, now).events())
    store = Store()
    store.take(first)
    again = plan_of(tmp_path, now)
    assert list(again.events()) == list(again.events()) == first
    before = len(store.events)
    store.take(first)
    assert len(store.events) == before
    assert store.duplicates == len(first) > 100


def test_events_come_by_project_and_session_in_order_of_time(tmp_path: Path) -> None:
    world = World(11, sessions=6)
    world.write(tmp_path)
    plan = plan_of(tmp_path, world.end() + 2 * IDLE)
    events = list(plan.events())
    groups = list(dict.fromkeys((project, event.session_id) for project, event in events))
    assert [(s.project, s.session_id) for s in plan.report.sessions] == groups
    assert [project for project, _ in groups] == sorted(project for project, _ in groups)
    assert len({project for project, _ in groups}) == 2
    for group in groups:
        of_session = [event for project, event in events if (project, event.session_id) == group]
        assert isinstance(of_session[0], SessionStart)
        assert isinstance(of_session[-1], SessionEnd)
        times = [event.at for event in of_session if event.at is not None]
        assert times == sorted(times)
        assert len(times) == len(of_session)


# A text that was cut between the halves of a surrogate pair, and one that is too long.
TEXT = st.text(max_size=20) | st.sampled_from(["cut \ud83d", "\U0001f600" * 5000, "a" * 5000])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """The lines of a sound transcript, with things in them that do not belong there."""
    world = World(draw(st.integers(0, 20)), sessions=1)
    raws = [line.raw for lines in world.files.values() for line in lines]
    some = raws[: draw(st.integers(1, 30))]
    return b"\n".join(_spoil(draw, raw) if draw(st.booleans()) else raw for raw in some)


def _spoil(draw: st.DrawFn, raw: bytes) -> bytes:
    if raw in {broken for _, broken in BROKEN} or draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(raw)))
        return raw[:at] + draw(st.binary(max_size=8)) + raw[at + draw(st.integers(0, 8)) :]
    line = json.loads(raw)
    inner = line
    while True:
        name = draw(st.sampled_from(sorted(inner)))
        if isinstance(inner[name], dict) and inner[name] and draw(st.booleans()):
            inner = inner[name]
            continue
        inner[name] = draw(JSON)
        return json.dumps(line, allow_nan=True).encode()


@settings(max_examples=150)
@given(mangled(), st.booleans())
def test_nothing_in_a_transcript_raises(raw: bytes, live: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "session.jsonl")
        path.write_bytes(raw)
        touched = EPOCH + IDLE
        os.utime(path, (touched.timestamp(), touched.timestamp()))
        now = touched + (0 if live else 2) * IDLE
        plan = plan_of(path, now)
        store = Store()
        store.take(plan.events())
    assert plan.report.lines == len(raw.split(b"\n")) - (raw.endswith(b"\n") or not raw)
    assert_runs_add_up(store)
    for usage in store.usages:
        assert usage.cache_read_tokens + usage.cache_write_tokens <= usage.input_tokens
    assert not store.duplicates
