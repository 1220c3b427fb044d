"""Many agent processes, and a daemon that is killed under them."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event as Flag
from pathlib import Path

import pytest

from tallymark import Client
from tallymark.events import RunEnd
from tallymark.fs import OsFileSystem
from tallymark.record import Kind
from tallymark.state import EVENTS_MAX
from tallymarkd.core.entry import decode_entry, decode_events
from tallymarkd.storage.survey import survey
from tests.daemon import Daemon, running, wait_for

AGENTS = 8
RUNS = 500
KILL_SHARES = (0.25, 0.5, 0.75)
FLUSH_SECONDS = 90.0
RUNS_AHEAD_MAX = 40
"""Runs that an agent may have on their way, so that kills fall between acknowledgements."""

Told = tuple[str, list[str], int]
"""Agent, ids of its runs in the order in which they ended, its tokens."""


def work(
    name: str,
    socket: Path,
    acknowledged: SimpleQueue[tuple[str, list[str]]],
    told: SimpleQueue[Told],
    over: Flag,
) -> None:
    """One agent process; it tells the runs that it knows to be durable."""
    ids: list[str] = []
    tokens = 0
    with Client("p", socket=socket, batch_events_max=8, ack_timeout_seconds=5.0) as client:
        for number in range(RUNS):
            with client.track_agent(name, announce=False) as run:
                run.add_tokens(input_tokens=number, output_tokens=1)
                run.add_artifact(f"commit:{number}")
            ids.append(run.run_id)
            tokens += number + 1
            if len(ids) % RUNS_AHEAD_MAX == 0:
                client.flush(FLUSH_SECONDS)
                acknowledged.put((name, ids[-RUNS_AHEAD_MAX:]))
        client.flush(FLUSH_SECONDS)
        assert not client.stats().dropped
    told.put((name, ids, tokens))
    over.wait(FLUSH_SECONDS)


class Crowd:
    """The agents, and what they have told so far."""

    def __init__(self, socket: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._acknowledged: SimpleQueue[tuple[str, list[str]]] = context.SimpleQueue()
        self._told: SimpleQueue[Told] = context.SimpleQueue()
        self._over = context.Event()
        self.durable: dict[str, list[str]] = {}
        self.processes = [
            context.Process(
                target=work,
                args=(f"agent-{n}", socket, self._acknowledged, self._told, self._over),
            )
            for n in range(AGENTS)
        ]

    def start(self) -> None:
        for process in self.processes:
            process.start()

    def look(self) -> int:
        """How many runs the agents know to be durable."""
        while not self._acknowledged.empty():
            name, ids = self._acknowledged.get()
            self.durable.setdefault(name, []).extend(ids)
        dead = [p.exitcode for p in self.processes if p.exitcode]
        assert not dead, f"agents ended with {dead}"
        return sum(map(len, self.durable.values()))

    def results(self) -> dict[str, tuple[list[str], int]]:
        found = {name: (ids, tokens) for name, ids, tokens in
                 (self._told.get() for _ in self.processes)}  # fmt: skip
        self._over.set()
        for process in self.processes:
            process.join(FLUSH_SECONDS)
            assert process.exitcode == 0
        return found

    def end(self) -> None:
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()


@pytest.mark.timeout(300)
def test_kills_under_eight_agents_lose_and_double_nothing(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("not on this platform: spawn is too slow a start elsewhere")
    with running(tmp_path / "state", "--save-interval-seconds", "0.2") as daemon:
        crowd = Crowd(daemon.socket)
        try:
            crowd.start()
            for share in KILL_SHARES:
                kill_when_durable(daemon, crowd, round(share * AGENTS * RUNS))
            results = crowd.results()
        finally:
            crowd.end()
        with Client("p", socket=daemon.socket) as client:
            state = client.dump()
        assert sum(a.total_invocations for a in state.agents.values()) == AGENTS * RUNS
        assert {name: (a.total_invocations, a.total_tokens, a.commits_made)
                for name, a in state.agents.items()} == {
            name: (RUNS, tokens, RUNS) for name, (_, tokens) in results.items()
        }  # fmt: skip
        assert state.total_tokens == sum(tokens for _, tokens in results.values())
        sent = {run for ids, _ in results.values() for run in ids}
        assert len(sent) == AGENTS * RUNS
        kept = [run.event_id for run in state.events]
        assert len(kept) == len(set(kept)) == EVENTS_MAX
        assert set(kept) <= sent
        ledger = daemon.ledger
        assert (ledger["rejected"], ledger["skipped"], ledger["lost"]) == ({}, 0, 0)
        assert daemon.stop() == 0
    assert sorted(ids_in_journal(tmp_path / "state")) == sorted(sent)
    files = [path.name for path in (tmp_path / "state" / "projects").rglob(".agent_metrics.json*")]
    assert {".agent_metrics.json", ".agent_metrics.json.bak"} <= set(files)


def kill_when_durable(daemon: Daemon, crowd: Crowd, count: int) -> None:
    """SIGKILL once so many runs are known to be durable; they must be there after."""
    wait_for(f"{count} durable runs", lambda: crowd.look() >= count)
    known = {name: list(ids) for name, ids in crowd.durable.items()}
    daemon.kill()
    daemon.start()
    with Client("p", socket=daemon.socket) as client:
        agents = client.dump().agents
    for name, ids in known.items():
        assert agents[name].total_invocations >= len(ids)
    kept = set(ids_in_journal(daemon.state_dir))
    assert kept >= {run for ids in known.values() for run in ids}


def ids_in_journal(state_dir: Path) -> list[str]:
    """The id of every run that the journal holds, read from its files."""
    found: list[str] = []
    for record in survey(OsFileSystem(), state_dir / "journal").records(0):
        if record.kind == Kind.BATCH:
            entry = decode_entry(record.payload)
            assert not entry.verdicts
            found += [e.event_id for e in decode_events(entry.events) if isinstance(e, RunEnd)]
    return found
