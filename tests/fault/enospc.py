"""A full disk: a real one, filled to every level, and ENOSPC at every write of a run.

Whatever fails, the daemon stays up, says so, answers health and reads throughout, and
goes on by itself once there is room. Every second time it is killed, or drained, and
started again on a disk without a single free byte.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tallymark.protocol.messages import HealthReport
from tallymark.questions import ask_state
from tests.daemon import Daemon, wait_for
from tests.fault import mounts, strace
from tests.fault.accounts import Findings, judge
from tests.fault.agents import accounts_of, pump_until
from tests.fault.mounts import MIB, Filler, tmpfs
from tests.fault.outcome import Outcome
from tests.fault.raw_agent import RawAgent
from tests.fault.runs import BUSY, ROUNDS, one_round, restart_and_judge, two_agents

TMPFS_BYTES = 4 * MIB
LEVEL_STEP_BYTES = 4096
LEVELS = 60
PROBES = 5
"""Times that health and reads are asked while the disk is full."""

CALLS = ("pwrite64", "fallocate")
TRIES_MIN = {"pwrite64": 12, "fallocate": 8}
OPTIONS = (*BUSY, "--history-bytes-max", "1GiB")


def cannot_fill() -> str:
    """Why this cannot be done here; empty when it can."""
    return mounts.cannot_mount() or strace.cannot_trace()


@dataclass
class _FullDisk:
    """A daemon and its agents, while the disk is full and after."""

    daemon: Daemon
    agents: Sequence[RawAgent]
    findings: Findings
    where: str

    def work(self, rounds: int) -> bool:
        """Record until the disk is full, at most so many rounds; whether it is."""
        for _ in range(rounds):
            one_round(self.agents, lambda: self.full or not self.daemon.running)
            if self.full or not self.daemon.running:
                break
        return self.full

    @property
    def full(self) -> bool:
        return any(agent.disk_full for agent in self.agents)

    def probe(self) -> None:
        """Ask it, while the agents go on trying: it must answer, and tell."""
        before = sum(agent.disk_full for agent in self.agents)
        for _ in range(PROBES):
            for agent in self.agents:
                agent.pump(0.002)
            codes = _codes(self.daemon.health())
            self.findings.check("disk_full" in codes, self.where, f"health tells only of {codes}")
            if self.agents[0].acked:
                state = ask_state([self.daemon.socket], self.agents[0].project)
                self.findings.check(
                    sum(p.total_invocations for p in state.agents.values())
                    >= self.agents[0].acked,
                    self.where, "the state that it shows lacks what it acknowledged",
                )  # fmt: skip
        pump_until("another Nack", self.agents,
                   lambda: sum(agent.disk_full for agent in self.agents) > before)  # fmt: skip

    def heal(self) -> None:
        """There is room again: all must be acknowledged, and the reasons go."""

        def well() -> bool:
            codes = _codes(self.daemon.health())
            return not codes & {"disk_full", "save_failed"}

        pump_until("acknowledgements", self.agents, lambda: not any(a.ahead for a in self.agents))
        wait_for("a health without complaints of the disk", well)
        self.findings.check(self.daemon.running, self.where, "it has ended")
        one_round(self.agents, lambda: False)
        judge(self.daemon, accounts_of(self.agents), self.findings, self.where)


def _codes(health: HealthReport) -> set[str]:
    return {reason.code for reason in health.reasons}


def _fill_to(mount: Path, level: int, findings: Findings) -> bool:
    """One daemon on a disk with so many bytes to go; whether it became full."""
    where = f"{level // 1024} KiB free"
    filler = Filler(mount)
    directory = mount / f"level-{level}"
    daemon = Daemon(directory, *OPTIONS)
    daemon.log_path = mount.with_name(f"level-{level}.log")
    agents = two_agents(daemon.socket)
    disk = _FullDisk(daemon, agents, findings, where)
    try:
        daemon.start()
        one_round(agents, lambda: False)
        filler.leave(level)
        full = disk.work(ROUNDS * 4)
        if full:
            disk.probe()
        if full and level // LEVEL_STEP_BYTES % 2:
            for agent in agents:
                agent.disconnect()
            drain = level // LEVEL_STEP_BYTES % 4 == 3
            _end_on_full_disk(daemon, filler, findings, where, drain=drain)
            daemon.start()
            judge(daemon, accounts_of(agents), findings, f"{where}, started while full")
            for agent in agents:
                agent.disk_full = 0
            pump_until("a Nack, or all acknowledged", agents,
                       lambda: disk.full or not any(a.ahead for a in agents))  # fmt: skip
            findings.check("disk_low" in _codes(daemon.health()), where, "health is content")
        filler.give_back()
        disk.heal()
        return full
    finally:
        filler.give_back()
        _end(daemon, agents)
        shutil.rmtree(directory, ignore_errors=True)


def _end_on_full_disk(
    daemon: Daemon, filler: Filler, findings: Findings, where: str, *, drain: bool
) -> None:
    """End it, and leave no byte for its next start: where a segment did not fit any more,
    a smaller file would have. A drain has room, and takes away what SQLite would go on in."""
    if drain:
        filler.give_back()
        code = daemon.stop()
        findings.check(code == 0, where, f"it stopped with {code}")
    filler.leave(0)
    daemon.kill()
    filler.leave(0)


def _fail_from(directory: Path, call: str, findings: Findings, number: int) -> bool:
    """Every such call fails from the n-th of its thread; whether there was one."""
    where = f"ENOSPC from {call} {number}"
    log = directory / f"{call}-{number}.strace"
    daemon = Daemon(directory / f"{call}-{number}", *OPTIONS)
    daemon.under = strace.traced(log, call, f"{call}:error=ENOSPC:when={number}+")
    agents = two_agents(daemon.socket)
    disk = _FullDisk(daemon, agents, findings, where)
    try:
        daemon.spawn()
        if not _up(daemon):
            findings.check(_refused_in_a_line(daemon.log()), where, "it ended without a word")
            restart_and_judge(daemon, agents, findings, where, whole_history=True)
            return True
        if disk.work(ROUNDS):
            disk.probe()
        struck = "ENOSPC" in log.read_text(errors="replace")
        assert daemon.process is not None
        strace.let_go(daemon.process.pid)
        disk.heal()
        return struck
    finally:
        _end(daemon, agents)


def _up(daemon: Daemon) -> bool:
    """Whether it comes up; false when it ends instead."""

    def look() -> bool:
        try:
            return not daemon.running or daemon.answers() is not None
        except AssertionError:
            return True

    wait_for("an answer, or the end", look)
    return daemon.running


def _refused_in_a_line(log: str) -> bool:
    return "Traceback" not in log and bool(re.search(r"^tallymarkd: cannot ", log, re.MULTILINE))


def _end(daemon: Daemon, agents: Sequence[RawAgent]) -> None:
    daemon.kill()
    for agent in agents:
        agent.disconnect()


def ordeal(
    directory: Path, step: int = 1, levels: int = LEVELS, calls: Sequence[str] = CALLS
) -> Outcome:
    """Every ``step``-th level and write."""
    findings = Findings()
    counts = {}
    with tmpfs(directory / "disk", TMPFS_BYTES) as mount:
        free = range(0, levels * LEVEL_STEP_BYTES, step * LEVEL_STEP_BYTES)
        counts["levels"] = sum([_fill_to(mount, level, findings) for level in free])
        findings.check(counts["levels"] == len(free), "levels", "some were never full")
    for call in calls:
        fails = partial(_fail_from, directory, call, findings)
        struck = itertools.takewhile(fails, itertools.count(1, step))
        counts[call] = sum(1 for _ in struck)
        findings.check(counts[call] >= TRIES_MIN[call] // step, call, f"only {counts[call]}")
    return Outcome(
        "ENOSPC at every write of a run, and room again",
        sum(counts.values()),
        findings.lost,
        findings.doubled,
        findings.wrong,
        (", ".join(f"{what} {count}" for what, count in counts.items()), *findings.notes),
    )
