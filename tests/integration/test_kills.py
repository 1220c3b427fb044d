"""Many agent processes, and a daemon that is killed under them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tallymark import Client
from tallymark.state import EVENTS_MAX
from tests import agent_process
from tests.daemon import DEADLINE_SECONDS, Daemon, running, wait_for
from tests.stored_ids import ids_in_journal

AGENTS = 8
RUNS = 500
KILL_SHARES = (0.25, 0.5, 0.75)
RUNS_AHEAD_MAX = 40
"""Runs that an agent may have on their way, so that kills fall between acknowledgements."""


class Agent:
    """One agent process, and what it has told."""

    def __init__(self, name: str, socket: Path) -> None:
        self.name = name
        self.durable: list[str] = []
        self.tokens = -1
        self._process = subprocess.Popen(
            [sys.executable, str(agent_process.PATH), name, str(socket), str(RUNS),
             str(RUNS_AHEAD_MAX)],
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            self.durable += told.get("durable", [])
            self.tokens = told.get("tokens", self.tokens)

    def alive(self) -> bool:
        """Whether it goes on; fails when it ended in error."""
        code = self._process.poll()
        assert code in (None, 0), f"{self.name} ended with {code}"
        return code is None

    def end(self) -> None:
        """It is gone after this."""
        self._process.kill()
        self._process.wait()
        self._reader.join(DEADLINE_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Crowd:
    """All agents."""

    def __init__(self, socket: Path) -> None:
        self.agents = [Agent(f"agent-{number}", socket) for number in range(AGENTS)]

    def durable(self) -> dict[str, list[str]]:
        """The runs that each agent knows to be durable by now."""
        return {agent.name: list(agent.durable) for agent in self.agents}

    def look(self) -> int:
        """How many runs are known to be durable."""
        for agent in self.agents:
            agent.alive()
        return sum(len(ids) for ids in self.durable().values())

    def results(self) -> dict[str, tuple[list[str], int]]:
        """Wait for all to end; each one's runs and tokens."""
        wait_for("the agents' end", lambda: not any(a.alive() for a in self.agents), 120)
        wait_for("their last words", lambda: all(a.tokens >= 0 for a in self.agents))
        return {agent.name: (agent.durable, agent.tokens) for agent in self.agents}

    def end(self) -> None:
        """They are gone after this."""
        for agent in self.agents:
            agent.end()


@pytest.mark.timeout(300)
def test_kills_under_eight_agents_lose_and_double_nothing(tmp_path: Path) -> None:
    with running(tmp_path / "state", "--save-interval-seconds", "0.2") as daemon:
        crowd = Crowd(daemon.socket)
        try:
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
    assert list((tmp_path / "state" / "projects").rglob(".agent_metrics.json"))


def kill_when_durable(daemon: Daemon, crowd: Crowd, count: int) -> None:
    """SIGKILL once so many runs are known to be durable; they must be there after."""
    wait_for(f"{count} durable runs", lambda: crowd.look() >= count)
    known = {name: ids for name, ids in crowd.durable().items() if ids}
    daemon.kill()
    daemon.start()
    with Client("p", socket=daemon.socket) as client:
        agents = client.dump().agents
    for name, ids in known.items():
        assert agents[name].total_invocations >= len(ids)
    kept = set(ids_in_journal(daemon.state_dir))
    assert kept >= {run for ids in known.values() for run in ids}
