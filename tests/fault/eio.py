"""EIO on one fdatasync of the journal: no acknowledgement, no second try, exit 74.

strace makes the call fail, and tells from its log whether it was tried again. What the
failed call should have made durable is then taken from the file, as a kernel does that
drops the pages it could not write: an acknowledgement of it would show as a loss.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tallymarkd.core.committer import EXIT_IO_ERROR
from tests.daemon import Daemon
from tests.fault.accounts import Findings
from tests.fault.agents import pump_until
from tests.fault.outcome import Outcome
from tests.fault.raw_agent import RawAgent
from tests.fault.runs import BUSY, restart_and_judge, two_agents
from tests.fault.strace import Call, read_log, traced

CALLS = 50
SEGMENTS = 20
"""Far more than 50 commits fill: strace must know their names beforehand."""

_WRITTEN = re.compile(r", (?P<length>\d+), (?P<offset>\d+)\)")


@dataclass
class SyncFailure:
    """What strace's log says of a run with one fdatasync that failed."""

    failed: str = ""
    syncs_before: int = 0
    tried_again: int = 0
    dropped: dict[Path, int] = field(default_factory=dict)
    """Where the bytes begin, by segment, that no fdatasync made durable."""


def read_failure(calls: Sequence[Call]) -> SyncFailure:
    """Follow the writes and syncs of the journal up to the one that failed, and after it."""
    found = SyncFailure()
    for call in calls:
        if call.name == "pwrite64" and not found.failed:
            match = _WRITTEN.search(call.arguments)
            assert match, call
            found.dropped.setdefault(call.path, int(match["offset"]))
        elif call.error and not found.failed:
            found.failed = call.error
        elif found.failed:
            found.tried_again += call.name == "fdatasync"
        else:
            found.syncs_before += 1
            found.dropped.pop(call.path, None)
    return found


def drop(failure: SyncFailure) -> int:
    """Zero what was not durable, as if it had never reached the disk; how many bytes."""
    count = 0
    for path, begin in failure.dropped.items():
        with path.open("r+b") as file:
            file.seek(begin)
            rest = len(file.read())
            file.seek(begin)
            file.write(bytes(rest))
            count += rest
    return count


def _work_until_it_ends(daemon: Daemon, agents: Sequence[RawAgent]) -> int:
    """Give it commits until it is gone; its exit code."""

    def gone() -> bool:
        for agent in agents:
            if not agent.ahead:
                agent.make()
        return not daemon.running

    pump_until("the daemon's end", agents, gone)
    assert daemon.process is not None
    return daemon.process.wait()


def _try(directory: Path, number: int, findings: Findings) -> None:
    where = f"EIO on fdatasync {number}"
    log = directory / f"{number}.strace"
    daemon = Daemon(directory / f"{number}", *BUSY, "--history-bytes-max", "1GiB")
    journal = daemon.state_dir / "journal"
    daemon.under = traced(
        log, "fdatasync,pwrite64", f"fdatasync:error=EIO:when={number}",
        paths=[journal / f"{segment:012d}.seg" for segment in range(1, SEGMENTS)],
    )  # fmt: skip
    agents = two_agents(daemon.socket)
    try:
        daemon.spawn()
        code = _work_until_it_ends(daemon, agents)
        findings.check(code == EXIT_IO_ERROR, where, f"exit code {code}")
        for agent in agents:
            agent.disconnect()
        failure = read_failure(read_log(log))
        findings.check(failure.failed == "EIO", where, f"it failed with {failure.failed!r}")
        findings.check(failure.syncs_before == number - 1, where,
                       f"it was call {failure.syncs_before + 1}")  # fmt: skip
        findings.check(failure.tried_again == 0, where,
                       f"{failure.tried_again} more calls after it")  # fmt: skip
        findings.check(drop(failure) > 0, where, "nothing was waiting for it")
        restart_and_judge(daemon, agents, findings, where, whole_history=True)
    finally:
        daemon.kill()
        for agent in agents:
            agent.disconnect()


def ordeal(directory: Path, calls: int = CALLS, step: int = 1) -> Outcome:
    """One daemon for each of the first fdatasync calls of the journal."""
    findings = Findings()
    numbers = range(1, calls + 1, step)
    for number in numbers:
        _try(directory, number, findings)
    return Outcome(
        f"EIO on each of the first {calls} fdatasync calls",
        len(numbers),
        findings.lost,
        findings.doubled,
        findings.wrong,
        tuple(findings.notes),
    )
