"""Two daemons for one state directory: one has it, the other says why it has not.

A thousand races of forked processes (``racers``) that take the directory and the socket
as the daemon does, and some tens of whole daemons against each other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.daemon import Daemon, wait_for
from tests.fault import racers
from tests.fault.accounts import Findings
from tests.fault.outcome import Outcome

ROUNDS = 1000
PROCESS_ROUNDS = 40
SECONDS_MAX = 600.0
REASON = "another tallymarkd"


def _forked(directory: Path, rounds: int, seed: int, findings: Findings) -> str:
    done = subprocess.run(
        [sys.executable, str(racers.PATH), str(directory), str(rounds), str(seed)],
        capture_output=True, text=True, timeout=SECONDS_MAX,
    )  # fmt: skip
    findings.check(done.returncode == 0, "racers", done.stderr[-500:])
    told = [json.loads(line) for line in done.stdout.splitlines()]
    findings.check(len(told) == rounds, "racers", f"{len(told)} rounds of {rounds}")
    for number, each in enumerate(told, 1):
        where = f"race {number}"
        findings.check(each["told"] == each["racers"], where, "a racer said nothing")
        findings.check(each["winners"] == 1, where, f"{each['winners']} winners")
        findings.check(each["reached"], where, "its socket does not lead to the winner")
        for reason in each["reasons"]:
            findings.check(REASON in reason, where, f"a loser said {reason!r}")
    return f"{sum(each['stale'] for each in told)} with a dead owner's socket in the way"


def _whole(directory: Path, number: int, findings: Findings) -> None:
    """Two daemons, started at once."""
    where = f"race {number} of daemons"
    both = [Daemon(directory / "state") for _ in range(2)]
    for index, daemon in enumerate(both):
        daemon.log_path = directory / f"{number}-{index}.log"
    try:
        for daemon in both:
            daemon.spawn()
        wait_for("one of two to give up", lambda: sum(d.running for d in both) < 2)
        running = [daemon for daemon in both if daemon.running]
        findings.check(len(running) == 1, where, f"{len(running)} winners")
        for daemon in running:
            health = wait_for("the winner's answer", daemon.answers)
            assert daemon.process is not None
            findings.check(health.report["pid"] == daemon.process.pid, where, "another answers")
        for daemon in both:
            if daemon not in running:
                assert daemon.process is not None
                findings.check(daemon.process.returncode == 1, where, "a wrong exit code")
                findings.check(REASON in daemon.log(), where, f"it said {daemon.log()!r}")
        if number % 2 and running:
            findings.check(running[0].stop() == 0, where, "it did not stop well")
    finally:
        for daemon in both:
            daemon.kill()


def ordeal(
    directory: Path, rounds: int = ROUNDS, process_rounds: int = PROCESS_ROUNDS, seed: int = 1
) -> Outcome:
    """Both kinds of race."""
    findings = Findings()
    note = _forked(directory / "raced", rounds, seed, findings)
    for number in range(1, process_rounds + 1):
        _whole(directory, number, findings)
    return Outcome(
        "races of two daemons for one state directory",
        rounds + process_rounds,
        findings.lost,
        findings.doubled,
        findings.wrong,
        (f"{note}; {process_rounds} of whole daemons; seed {seed}", *findings.notes),
    )
