"""The power of a file system is cut under load: what was not synced is gone, for real.

FS_IOC_SHUTDOWN without a flush of the log, on ext4 and xfs in a loop file: from that
moment every operation fails, and after the next mount there is only what fsync and
fdatasync had brought to the disk. The agents die with it, as they would.

What counts is what was acknowledged when the cut began. Unlike with a true power cut the
daemon lives a little longer, and ext4 lets an fdatasync that is on its way return 0
although its data will not be there (seen on 6.18, without any daemon, in 23 of 150 cuts,
and never for one that had returned before): such an acknowledgement could never
have been read, and is only told.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

from tallymarkd.core.committer import EXIT_IO_ERROR
from tests.daemon import Daemon, wait_for
from tests.fault import mounts
from tests.fault.accounts import Account, Findings, judge
from tests.fault.agents import crowd
from tests.fault.mounts import LoopDisk, loop_disk
from tests.fault.outcome import Outcome

KINDS = ("ext4", "xfs")
CUTS = 20
AGENTS = 4
ACKED_MAX = 400
JITTER_SECONDS_MAX = 0.02
OPTIONS = (
    "--save-interval-seconds", "0.1",
    "--idle-mark-seconds", "0.05",
    "--segment-bytes-max", "64KiB",
    "--segment-chunk-bytes", "16KiB",
)  # fmt: skip
"""Rolls and checkpoints all the time, so that cuts fall into them."""


@dataclass
class _Machine:
    """A disk, its daemon, and all agents that there ever were."""

    directory: Path
    disk: LoopDisk
    daemon: Daemon
    findings: Findings
    known: list[Account] = field(default_factory=list)
    too_late: int = 0

    def cut(self, rng: random.Random, number: int) -> None:
        """Cut the power at a moment that the seed decides, and bring everything back."""
        where = f"{self.disk.kind}, cut {number}"
        with crowd(self.directory, self.daemon.socket, AGENTS, name=f"agent-{number}") as agents:
            enough = rng.randint(1, ACKED_MAX)
            wait_for(f"{enough} acknowledged events", lambda: agents.acked() >= enough)
            threading.Event().wait(rng.uniform(0, JITTER_SECONDS_MAX))
            promised = agents.accounts()
            self.disk.cut_power()
            wait_for("the daemon's end, under load", lambda: not self.daemon.running)
        assert self.daemon.process is not None
        code = self.daemon.process.returncode
        self.findings.check(code == EXIT_IO_ERROR, where, f"exit code {code}")
        self.disk.unmount()
        self.disk.mount()
        self.daemon.start()
        last = agents.accounts()
        accounts = [replace(p, sent=q.sent) for p, q in zip(promised, last, strict=True)]
        self.known = judge(self.daemon, [*self.known, *accounts], self.findings, where)
        there = self.known[-AGENTS:]
        self.too_late += sum(max(0, q.acked - n.sent) for q, n in zip(last, there, strict=True))

    def finish(self) -> int:
        """Work once more, in peace; how many events there are."""
        with crowd(self.directory, self.daemon.socket, AGENTS, name="agent-last") as agents:
            wait_for("events of all", lambda: all(a.acked for a in agents.accounts()))
            self.known += agents.finish(self.findings)
        judge(self.daemon, self.known, self.findings, f"{self.disk.kind}, at the end")
        return sum(account.sent for account in self.known)


def _try(directory: Path, kind: str, cuts: int, seed: int, findings: Findings) -> str:
    """So many cuts of one disk; what there is to tell."""
    rng = random.Random(seed)
    directory.mkdir()
    with loop_disk(kind, directory) as disk:
        daemon = Daemon(disk.at / "state", *OPTIONS, socket=directory / "socket")
        daemon.log_path = directory / "log"
        machine = _Machine(directory, disk, daemon, findings)
        try:
            daemon.start()
            for number in range(1, cuts + 1):
                machine.cut(rng, number)
            events = machine.finish()
        finally:
            daemon.kill()
    return (
        f"{kind}: {cuts} cuts, {events} events, "
        f"{machine.too_late} that fdatasync told durable after the cut were not"
    )


def ordeal(
    directory: Path, cuts: int = CUTS, seed: int = 1, kinds: tuple[str, ...] = KINDS
) -> Outcome:
    """Every kind that can be had; what cannot be is wrong, and said."""
    findings = Findings()
    told = []
    for kind in kinds:
        if reason := mounts.cannot_mount(kind):
            findings.blame(kind, reason)
        else:
            told.append(_try(directory / kind, kind, cuts, seed, findings))
    return Outcome(
        f"power cuts of {' and '.join(kinds)} under load from {AGENTS} clients",
        cuts * len(told),
        findings.lost,
        findings.doubled,
        findings.wrong,
        (*told, f"seed {seed}", *findings.notes),
    )
