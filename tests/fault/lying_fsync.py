"""The fsync that lies, for real: it fails once, then reports success for what is gone.

ext4 lies in a file with holes, in a small tmpfs. When the tmpfs is full, ext4 goes on
giving out blocks that cannot be written: fdatasync fails once for each write, and a
second call returns 0, although nothing has reached the disk. The errno is EIO or
ENOSPC, as the kernel has it; neither may be taken for a full disk that one waits for.

A request of the loop device that spans pages, of which only the first has its space, is
told as a success by kernels from 6.x: no program could know of that loss. So requests are
cut to one page, and the first fdatasync is honest, as the contract assumes.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tallymarkd.core.committer import EXIT_IO_ERROR
from tests.daemon import Daemon
from tests.fault import mounts, strace
from tests.fault.accounts import Findings
from tests.fault.agents import pump_until
from tests.fault.eio import read_failure
from tests.fault.mounts import MIB, Filler, LoopDisk, tmpfs
from tests.fault.outcome import Outcome
from tests.fault.runs import one_round, restart_and_judge, two_agents

TMPFS_BYTES = 24 * MIB
BLOCK_BYTES = 4096
METADATA_BLOCKS = 256
TRIES = 20
ROUNDS_MAX = 12
LIES_PER_TRY = 2
"""Starts on the disk that lies, before there is room again."""

OPTIONS = (
    "--segment-bytes-max", "256KiB",
    "--segment-chunk-bytes", "256KiB",
    "--save-interval-seconds", "0.05",
    "--idle-mark-seconds", "0.05",
)  # fmt: skip


def cannot_lie() -> str:
    """Why this cannot be done here; empty when it can."""
    tools = [tool for tool in ("strace", "debugfs") if shutil.which(tool) is None]
    missing = f"cannot have a lying fsync: no {', '.join(tools)}" if tools else ""
    return mounts.cannot_mount("ext4") or missing


@dataclass
class LyingDisk:
    """Mounted at ``disk.at``; lies while ``filler`` takes what is left of the tmpfs."""

    disk: LoopDisk
    filler: Filler

    def recover(self) -> None:
        """Make room, and forget whatever only the page cache has."""
        self.filler.give_back()
        self.disk.unmount()
        self.disk.mount()
        self.disk.cut_requests(BLOCK_BYTES)

    def lies(self) -> bool:
        """Whether it fails once and then reports success. Only when it is full."""
        fd = os.open(self.disk.at / "probe", os.O_RDWR)
        try:
            # Unlike its content in no byte, so that it must be written.
            os.pwrite(fd, b"y" * BLOCK_BYTES, 0)
            try:
                os.fdatasync(fd)
            except OSError:
                os.fdatasync(fd)
                return True
            return False
        finally:
            os.close(fd)

    def prepare(self) -> None:
        """Leave a file with blocks that have never been written."""
        fd = os.open(self.disk.at / "probe", os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(fd, 0, BLOCK_BYTES)
        os.fsync(fd)
        os.close(fd)


@contextmanager
def lying_disk(directory: Path) -> Iterator[LyingDisk]:
    """One that is honest so far."""
    with tmpfs(directory / "memory", TMPFS_BYTES) as memory:
        disk = LoopDisk("ext4", memory / "image", directory / "disk")
        disk.make("-b", str(BLOCK_BYTES), "-N", "512", "-J", "size=4")
        _keep_metadata(disk.image)
        try:
            disk.mount()
            disk.cut_requests(BLOCK_BYTES)
            found = LyingDisk(disk, Filler(memory))
            found.prepare()
            yield found
        finally:
            mounts.unmount(disk.at)


def _keep_metadata(image: Path) -> None:
    """Give the metadata and ext4's own journal their space: only data is to fail."""
    found = subprocess.run(
        ["debugfs", "-R", "blocks <8>", str(image)], capture_output=True, text=True, check=True
    )
    with image.open("r+b") as file:
        for block in (*range(METADATA_BLOCKS), *map(int, found.stdout.split())):
            data = os.pread(file.fileno(), BLOCK_BYTES, block * BLOCK_BYTES)
            os.pwrite(file.fileno(), data, block * BLOCK_BYTES)


def _try(directory: Path, rounds: int, findings: Findings, where: str) -> str:
    """One disk; gives the errno with which it failed."""
    log = directory / "strace"
    with lying_disk(directory) as lying:
        state = lying.disk.at / "state"
        socket = directory / "socket"
        journal = [state / "journal" / f"{number:012d}.seg" for number in range(1, 100)]
        daemon = Daemon(state, *OPTIONS, socket=socket)
        daemon.log_path = directory / "daemon.log"
        agents = two_agents(socket)
        try:
            daemon.under = strace.traced(log, "fdatasync,pwrite64", paths=journal)
            daemon.start()
            for _ in range(rounds):
                one_round(agents, lambda: False)
            lying.filler.leave(0)
            findings.check(lying.lies(), where, "the disk did not lie")
            for agent in agents:
                agent.make()
            pump_until("the daemon's end", agents, lambda: not daemon.running)
            assert daemon.process is not None
            code = daemon.process.returncode
            findings.check(code == EXIT_IO_ERROR, where, f"exit code {code}")
            found = read_failure(strace.read_log(log))
            findings.check(found.tried_again == 0, where, f"{found.tried_again} more fdatasync")
            daemon.under = ()
            for _ in range(LIES_PER_TRY):
                daemon.spawn()
                pump_until("an end on a disk that lies", agents, lambda: not daemon.running)
            for agent in agents:
                agent.disconnect()
            lying.recover()
            restart_and_judge(daemon, agents, findings, where, whole_history=True)
            return found.failed
        finally:
            daemon.kill()
            for agent in agents:
                agent.disconnect()


def ordeal(directory: Path, tries: int = TRIES, seed: int = 1) -> Outcome:
    """Fresh disks, that begin to lie after different numbers of commits."""
    rng = random.Random(seed)
    findings = Findings()
    errors: set[str] = set()
    for number in range(tries):
        where = directory / str(number)
        where.mkdir()
        errors.add(_try(where, rng.randint(1, ROUNDS_MAX), findings, f"disk {number}"))
    return Outcome(
        "an fdatasync that fails once and then lies",
        tries,
        findings.lost,
        findings.doubled,
        findings.wrong,
        (f"fdatasync failed with {', '.join(sorted(errors))}", *findings.notes),
    )
