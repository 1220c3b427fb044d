"""The weakness of the original design: four processes, sixty updates each.

There 63 of 240 were lost, because load, change and save were three steps.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tallymark import Client
from tallymark.state import DashboardState
from tallymarkd import MetricsStore
from tests import agent_process
from tests.daemon import DEADLINE_SECONDS, running
from tests.fault import updating_process
from tests.fault.outcome import Outcome

PROCESSES = 4
UPDATES = 60
TOTAL = PROCESSES * UPDATES
LIFE_SECONDS = 4 * DEADLINE_SECONDS


def through_store(directory: Path) -> Outcome:
    """Through ``MetricsStore.update``, without a daemon."""
    commands = [
        [str(updating_process.PATH), str(directory), f"agent-{number}", str(UPDATES)]
        for number in range(PROCESSES)
    ]
    failed = run_together(commands, begin=b"go\n")
    store = MetricsStore("p", directory)
    state = store.load()
    expected = {f"agent-{p}-{n}" for p in range(PROCESSES) for n in range(UPDATES)}
    damaged = store.quarantine_path.exists()
    return _outcome("MetricsStore.update", state, expected, failed + damaged)


def through_daemon(directory: Path) -> Outcome:
    """Through the daemon, each event flushed before the next."""
    with running(directory / "state") as daemon:
        commands = [
            [str(agent_process.PATH), f"agent-{number}", str(daemon.socket), str(UPDATES), "1"]
            for number in range(PROCESSES)
        ]
        failed = run_together(commands)
        with Client("p", socket=daemon.socket) as client:
            state = client.dump()
        ledger = daemon.ledger
        unlike = ledger["stored"] < TOTAL or ledger["stored"] != ledger["received"]
        return _outcome("the daemon", state, None, failed + unlike + (daemon.stop() != 0))


def run_together(commands: Sequence[Sequence[str]], begin: bytes = b"") -> int:
    """Run these as processes; gives how many failed. With ``begin`` each says that it
    is there, and begins when it is told to."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            pipes = subprocess.PIPE if begin else subprocess.DEVNULL
            processes.append(
                subprocess.Popen([sys.executable, *command], stdin=pipes, stdout=pipes)
            )
        for process in processes:
            if process.stdout is not None:
                process.stdout.readline()
        for process in processes:
            if process.stdin is not None:
                process.stdin.write(begin)
                process.stdin.close()
        return sum(process.wait(LIFE_SECONDS) != 0 for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _outcome(through: str, state: DashboardState, expected: set[str] | None, wrong: int) -> Outcome:
    """What is in the state, held against what was done."""
    there = Counter(run.event_id for run in state.events)
    missing = TOTAL - len(there) if expected is None else len(expected - there.keys())
    strange = 0 if expected is None else len(there.keys() - expected)
    counted = [profile.total_invocations for _, profile in sorted(state.agents.items())]
    wrong += counted != [UPDATES] * PROCESSES
    return Outcome(
        f"{PROCESSES} processes, {UPDATES} updates each, through {through}",
        TOTAL,
        lost=missing,
        doubled=sum(there.values()) - len(there) + strange,
        wrong=wrong,
        notes=(f"{len(there)} of {TOTAL}",),
    )
