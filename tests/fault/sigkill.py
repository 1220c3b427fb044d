"""SIGKILL at every call that changes the disk, and at any moment under load.

What goes through ``tallymark.fs`` is killed there (``killing_daemon``), at every call
of the daemon whatever its thread, before it and after it in turn. SQLite writes
``index.sqlite`` by itself: there strace kills, at every call on its files.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.daemon import Daemon, wait_for
from tests.fault import killing_daemon, strace
from tests.fault.accounts import Findings, judge
from tests.fault.agents import Crowd, crowd
from tests.fault.outcome import Outcome
from tests.fault.runs import BUSY, restart_and_judge, run_until_killed, two_agents

KINDS = tuple(killing_daemon.KINDS)
INDEX_CALLS = ("pwrite64", "fdatasync", "ftruncate", "unlink")
WORKERS = 2

KILLS_PER_KIND_MIN = 6
"""Less would not be a run with all that it should have."""

STORM_KILLS = 200
STORM_AGENTS = 4
ACKED_MAX = 400
"""A kill comes after up to so many events more are acknowledged."""

JITTER_SECONDS_MAX = 0.02
START_SECONDS_MAX = 0.3
START_SHARE = 0.15
"""Of the kills do not wait for acknowledgements: most of them fall into recovery."""

JUDGE_EVERY = 10


@dataclass
class _Sweep:
    """Numbers to kill at, handed out until two were beyond the last call: no run has
    exactly as many calls as another."""

    step: int
    kills: int = 0
    beyond: int = 0
    _numbers: itertools.count[int] = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1, self.step)

    def next(self) -> int | None:
        with self._lock:
            return None if self.beyond >= 2 else next(self._numbers)

    def tried(self, killed: bool) -> None:
        with self._lock:
            self.kills += killed
            self.beyond += not killed


def _try(daemon: Daemon, findings: Findings, where: str) -> bool:
    agents = two_agents(daemon.socket)
    try:
        daemon.spawn()
        killed = run_until_killed(daemon, agents)
        if killed:
            restart_and_judge(daemon, agents, findings, where)
        return killed
    finally:
        daemon.kill()
        for agent in agents:
            agent.disconnect()


def _at_interface(directory: Path, kind: str, findings: Findings, number: int) -> bool:
    when = "before" if number % 2 else "after"
    command = killing_daemon.command(kind, number, when)
    daemon = Daemon(directory / f"{kind}-{number}", *BUSY, command=command)
    return _try(daemon, findings, f"killed {when} {kind} {number}")


def _in_sqlite(directory: Path, call: str, findings: Findings, fresh: bool, number: int) -> bool:
    """With a fresh directory the index is created, else it is only written to."""
    where = f"{'creating' if fresh else 'writing'}-{call}-{number}"
    daemon = Daemon(directory / where, *BUSY)
    if not fresh:
        try:
            daemon.start()
            assert daemon.stop() == 0
        finally:
            daemon.kill()
    index = daemon.state_dir / "index.sqlite"
    daemon.under = strace.traced(
        directory / f"{where}.strace", call, f"{call}:signal=KILL:when={number}",
        paths=[index.with_name(index.name + end) for end in ("", "-wal", "-shm", "-journal")],
    )  # fmt: skip
    return _try(daemon, findings, f"SQLite killed at {call} {number}")


def sweep(
    directory: Path,
    step: int = 1,
    kinds: Sequence[str] = KINDS,
    index_calls: Sequence[str] = INDEX_CALLS,
) -> Outcome:
    """Kill at every ``step``-th call of every kind."""
    findings = Findings()
    kills: dict[str, int] = {}
    for kind in kinds:
        kills[kind] = _all_numbers(step, partial(_at_interface, directory, kind, findings))
        if kills[kind] < KILLS_PER_KIND_MIN // step:
            findings.blame(kind, f"killed only {kills[kind]} times")
    in_sqlite = 0
    for call, fresh in itertools.product(index_calls, (True, False)):
        in_sqlite += _all_numbers(step, partial(_in_sqlite, directory, call, findings, fresh))
    findings.check(in_sqlite >= len(index_calls), "SQLite", f"only {in_sqlite} kills")
    shown = ", ".join(f"{kind} {count}" for kind, count in kills.items())
    return Outcome(
        "SIGKILL at every fdatasync, write, rename, link, unlink",
        sum(kills.values()) + in_sqlite,
        findings.lost,
        findings.doubled,
        findings.wrong,
        (f"{shown}; in SQLite by strace {in_sqlite}", *findings.notes),
    )


def _all_numbers(step: int, attempt: Callable[[int], bool]) -> int:
    """Try one number after the other, on two threads; how many kills there were."""
    numbers = _Sweep(step)

    def work() -> None:
        while (number := numbers.next()) is not None:
            numbers.tried(attempt(number))

    with ThreadPoolExecutor(WORKERS) as pool:
        for future in [pool.submit(work) for _ in range(WORKERS)]:
            future.result()
    return numbers.kills


def storm(directory: Path, kills: int = STORM_KILLS, seed: int = 1) -> Outcome:
    """Random SIGKILLs under the load of processes that go on throughout."""
    rng = random.Random(seed)
    findings = Findings()
    daemon = Daemon(
        directory / "state", "--save-interval-seconds", "0.2", "--segment-bytes-max", "1MiB",
        "--segment-chunk-bytes", "256KiB", "--idle-mark-seconds", "0.05",
    )  # fmt: skip
    starting = done = 0
    try:
        daemon.start()
        with crowd(directory, daemon.socket, STORM_AGENTS) as agents:
            while done < kills and not findings.lost:
                done += 1
                starting += _kill_once(daemon, agents, rng)
                if done % JUDGE_EVERY:
                    daemon.spawn()
                    continue
                with agents.stopped() as accounts:
                    daemon.start()
                    judge(daemon, accounts, findings, f"after kill {done}")
            accounts = agents.finish(findings)
        judge(daemon, accounts, findings, "at the end")
    finally:
        daemon.kill()
    sent = sum(account.sent for account in accounts)
    findings.check(sent > 10 * kills, "at the end", f"only {sent} events were sent")
    return Outcome(
        f"random SIGKILLs under load from {STORM_AGENTS} clients",
        done,
        findings.lost,
        findings.doubled,
        findings.wrong,
        (
            f"{sent} events sent; {starting} kills just after a start; seed {seed}",
            *findings.notes,
        ),
    )


def _kill_once(daemon: Daemon, agents: Crowd, rng: random.Random) -> bool:
    """At a moment that the seed decides; whether nothing was waited for."""
    pause = threading.Event()
    if starting := rng.random() < START_SHARE:
        pause.wait(rng.uniform(0, START_SECONDS_MAX))
    else:
        enough = agents.acked() + rng.randint(1, ACKED_MAX)
        wait_for(f"{enough} acknowledged events", lambda: agents.acked() >= enough)
        pause.wait(rng.uniform(0, JITTER_SECONDS_MAX))
    assert daemon.running, daemon.log()
    daemon.kill()
    return starting
