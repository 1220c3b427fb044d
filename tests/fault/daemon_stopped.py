"""The daemon stands still under load: whoever records notices nothing, nothing is lost."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from tests.daemon import DEADLINE_SECONDS, Daemon, running
from tests.fault import steady_agent
from tests.fault.outcome import Outcome
from tests.fault.spooling import Tally, journaled

SECONDS = 30.0
EVENTS_PER_SECOND = 2000
GROWTH_BYTES_MAX = 32 * 1024 * 1024

INTERPRETER = {"futex", "mmap", "munmap", "mremap", "madvise", "brk", "sched_yield"}
"""The interpreter's own: it passes its lock from thread to thread, and takes memory."""

_CALL = re.compile(r"^(\d+)\s+(?:<\.\.\. )?(\w+)")


def daemon_stopped(directory: Path, seconds: float = SECONDS) -> Outcome:
    """Record through the stop, with every system call of the recording thread looked at."""
    strace = shutil.which("strace")
    if strace is None:
        return Outcome("strace is needed", 0)
    tally = Tally()
    calls = directory / "calls"
    with running(directory / "state", "--spool-dir", str(directory / "none")) as daemon:
        command = [
            strace, "-f", "-qq", "-o", str(calls), sys.executable, str(steady_agent.PATH),
            str(daemon.socket), str(directory / "spool"), str(seconds), str(EVENTS_PER_SECOND),
        ]  # fmt: skip
        stopped, last = _through_the_stop(command, daemon, seconds)
        ledger = daemon.ledger
        tally.check("the daemon's end", daemon.stop(), 0)
    taken = stopped["taken"]
    tally.hold(
        journaled(directory / "state").stored,
        [*(f"steady-{number}" for number in range(taken)), "steady-last"],
    )
    tally.check("dropped", last["stats"]["dropped"], {})
    tally.check("stored", ledger["stored"], taken + 1)
    tally.check("something was spooled", stopped["stats"]["spooled"] > 0, True)
    tally.check("enough was recorded", stopped["recorded"] > seconds * 100, True)
    growth = stopped["after"] - stopped["before"]
    if growth > GROWTH_BYTES_MAX:
        tally.wrong.append(f"its memory grew by {growth} bytes")
    made = calls_between_marks(calls.read_text())
    own = {name: count for name, count in made.items() if name not in INTERPRETER}
    tally.check("system calls of the recording thread", own, {})
    slowest_ms = stopped["slowest"] * 1000
    notes = (
        f"{stopped['recorded']:.0f} events recorded, the slowest in {slowest_ms:.2f} ms (strace)",
        f"{stopped['stats']['spooled']} spooled; memory grew by {growth >> 10} KiB",
        f"system calls of the recording thread: {dict(made)}",
    )
    return Outcome(
        f"the daemon stopped for {seconds:g} s", round(stopped["recorded"]), tally.lost,
        tally.doubled, len(tally.wrong), (*notes, *tally.wrong),
    )  # fmt: skip


def _through_the_stop(
    command: list[str], daemon: Daemon, seconds: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the agent says while the daemon is stopped, and at its end."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        try:
            assert agent.stdin is not None
            assert agent.stdout is not None
            assert msgspec.json.decode(agent.stdout.readline())["ready"]
            daemon.signal(signal.SIGSTOP)
            try:
                agent.stdin.write(b"go\n")
                agent.stdin.flush()
                stopped = msgspec.json.decode(agent.stdout.readline())
            finally:
                daemon.signal(signal.SIGCONT)
            out, _ = agent.communicate(b"go on\n", DEADLINE_SECONDS + seconds)
            assert agent.returncode == 0
            return stopped, msgspec.json.decode(out)
        finally:
            agent.kill()


def calls_between_marks(told: str) -> Counter[str]:
    """The system calls that the thread between the two marks made, by name."""
    lines = told.splitlines()
    (begin,) = [n for n, line in enumerate(lines) if steady_agent.BEGIN in line]
    (end,) = [n for n, line in enumerate(lines) if steady_agent.END in line]
    thread = lines[begin].split()[0]
    found: Counter[str] = Counter()
    for line in lines[begin + 1 : end]:
        call = _CALL.match(line)
        if call and call[1] == thread and "resumed>" not in line:
            found[call[2]] += 1
    return found
