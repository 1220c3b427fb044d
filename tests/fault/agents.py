"""Load: agents as plain processes, and those in this one, each with its account."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.daemon import DEADLINE_SECONDS, wait_for
from tests.fault import raw_agent
from tests.fault.accounts import Account, Findings
from tests.fault.raw_agent import RawAgent


class Agent:
    """One process of ``raw_agent``."""

    def __init__(
        self, directory: Path, name: str, project: str, socket: Path, ahead: int, pace: float
    ) -> None:
        self.name = name
        self.project = project
        self._account = directory / f"{name}.account"
        self.process = subprocess.Popen(
            [sys.executable, str(raw_agent.PATH), name, project, str(socket),
             str(self._account), str(ahead), str(pace)],
            stdin=subprocess.PIPE,
        )  # fmt: skip

    def account(self) -> Account:
        """What it sent and what it was promised, by now."""
        sent, acked, _ = raw_agent.read_account(self._account)
        return Account(self.name, self.project, sent, acked)

    def alive(self) -> bool:
        """Whether it goes on; fails when it ended in error."""
        code = self.process.poll()
        assert code in (None, 0), f"{self.name} ended with {code}"
        return code is None

    def stands_still(self) -> bool:
        """Whether a SIGSTOP has reached it."""
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2]
        return state.startswith("T")

    def end(self) -> None:
        """It is gone after this."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


class Crowd:
    """All of them. ``with`` it, so that none outlives the test."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        self.agents = agents

    def accounts(self) -> list[Account]:
        """Every agent's account by now. Stop them first, to have them at one moment."""
        return [agent.account() for agent in self.agents]

    def acked(self) -> int:
        """How many events are acknowledged, of all. Fails when an agent has failed."""
        for agent in self.agents:
            agent.alive()
        return sum(account.acked for account in self.accounts())

    @contextmanager
    def stopped(self) -> Iterator[list[Account]]:
        """None of them moves inside."""
        for agent in self.agents:
            agent.process.send_signal(signal.SIGSTOP)
        for agent in self.agents:
            wait_for("a stopped agent", agent.stands_still)
        try:
            yield self.accounts()
        finally:
            for agent in self.agents:
                agent.process.send_signal(signal.SIGCONT)

    def finish(self, findings: Findings) -> list[Account]:
        """Have them send nothing new, and wait until all is acknowledged.

        After a loss they never come to their end: what they have forgotten is asked for.
        """
        for agent in self.agents:
            assert agent.process.stdin is not None
            agent.process.stdin.close()
        if not findings.lost:
            wait_for("the agents' end", lambda: not any(a.alive() for a in self.agents), 120)
        accounts = self.accounts()
        missing = sum(account.sent - account.acked for account in accounts)
        findings.check(not missing, "at the end", f"{missing} events were never acknowledged")
        return accounts


@contextmanager
def crowd(
    directory: Path,
    socket: Path,
    count: int,
    *,
    name: str = "agent",
    ahead: int = 4,
    pace: float = 0.01,
) -> Iterator[Crowd]:
    """So many agents, in half as many projects, sending until ``finish``."""
    agents: list[Agent] = []
    try:
        for number in range(count):
            project = f"project-{number // 2}"
            agents.append(Agent(directory, f"{name}-{number}", project, socket, ahead, pace))
        yield Crowd(agents)
    finally:
        for agent in agents:
            agent.end()


def accounts_of(agents: Sequence[RawAgent]) -> list[Account]:
    """The accounts of agents in this process."""
    return [Account(a.name, a.project, a.sent, a.acked) for a in agents]


def pump_until(
    what: str,
    agents: Sequence[RawAgent],
    look: Callable[[], object],
    seconds: float = DEADLINE_SECONDS,
) -> None:
    """Have the agents in this process send and receive until something is so."""
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"this did not come within {seconds:g} s: {what}"
        for agent in agents:
            agent.pump(0.002)
