"""Imports of made-up transcripts, held against what is true of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tallymark.events import EVENT_BYTES_MAX, Event, RunEnd, SessionEnd, SessionStart, Usage
from tallymarkd.sources.claude_code import ImportPlan, find_transcripts, read_transcripts
from tallymarkd.sources.claude_lines import TokenCount

from tests.transcripts import BROKEN, IDLE, World

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

    def all(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events.values() if isinstance(event, kind)]

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
    assert store.tokens("source") == (
        {"claude-code": truth.tokens()} if truth.responses else {}
    )
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
