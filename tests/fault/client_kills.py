"""Clients are killed at every kind of moment; what they had flushed is there, once.

One daemon serves all tries. Each try has a spool directory of its own, and a name of
its own for the daemon's socket: where that name is not there, the daemon is down.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.daemon import Daemon, running
from tests.fault.outcome import Outcome
from tests.fault.spooling import Tally, adopt, agent, ended, ids, journaled, live
from tests.fault.spooling_agent import Plan

KILLS = 100
EVENTS = 60
FLUSH_EVERY = 10
ROUNDS_MAX = 3

Moment = tuple[str, str, int, bool]
"""What is under way, the call, which one of them, and whether it is made before the end."""

FRAME: list[tuple[str, int]] = [("send", 9), ("receive", 9)]
SPOOL: list[tuple[str, int]] = [
    ("write", 7), ("sync_data", 6), ("sync", 1), ("lock", 1), ("replace", 1), ("sync_dir", 2),
]  # fmt: skip
DELIVERY: list[tuple[str, int]] = [("send", 8), ("unlink", 1), ("receive", 8), ("sync_dir", 2)]
ADOPTION: list[tuple[str, int]] = [
    ("lock_existing", 1), ("write", 1), ("sync_data", 1), ("send", 8), ("receive", 3),
    ("unlink", 1), ("sync_dir", 1),
]  # fmt: skip

KINDS = ("mid-frame", "mid-spool", "mid-delivery of a spool", "mid-adoption", "at random")


def moments(seed: int) -> Iterator[Moment]:
    """Endless: each kind in turn, at every call in turn, before and after it."""
    rng = random.Random(seed)
    calls = {
        kind: itertools.cycle(
            rng.sample(
                [
                    (call, number, after)
                    for call, most in table
                    for number in range(1, most + 1)
                    for after in (False, True)
                ],
                sum(most for _, most in table) * 2,
            )
        )
        for kind, table in zip(KINDS, (FRAME, SPOOL, DELIVERY, ADOPTION), strict=False)
    }
    for kind in itertools.cycle(KINDS):
        yield (kind, *next(calls[kind])) if kind in calls else (kind, "", rng.randrange(6), False)


class Trial:
    """One try: a directory, and a name for the daemon's socket."""

    def __init__(self, directory: Path, daemon: Daemon, number: int) -> None:
        self.name = f"agent-{number}"
        self.directory = directory / self.name
        self.directory.mkdir()
        self.spools = self.directory / "spool"
        self.daemon = daemon
        self.socket = self.directory / "s"

    def plan(self, **more: object) -> Plan:
        plan = Plan(
            name=self.name,
            socket=str(self.socket),
            spool_dir=str(self.spools),
            events=EVENTS,
            flush_every=FLUSH_EVERY,
            link=str(self.daemon.socket),
        )
        for key, value in more.items():
            setattr(plan, key, value)
        return plan

    def run(self, moment: Moment, rng: random.Random) -> tuple[int, bool]:
        """How many events were flushed, and whether the agent died in what it was to die in."""
        kind, call, number, after = moment
        deadly = {"kill": call, "kill_at": number, "kill_after": after}
        if kind == "mid-adoption":
            before = live(self.plan())
            assert before.safe == EVENTS, before
            self.connect()
            return EVENTS, live(self.plan(adopts=True, **deadly)).code == -signal.SIGKILL
        if kind == "at random":
            return self._killed_at_random(number, rng)
        times = {
            "mid-frame": {"link_at": 0},
            "mid-spool": {"link_at": EVENTS * 2 // 3} if rng.random() < 0.5 else {},
            "mid-delivery of a spool": {"link_at": EVENTS // 2},
        }
        life = live(self.plan(**times[kind], **deadly))
        assert "Traceback" not in life.stderr, life.stderr
        return life.safe, life.code == -signal.SIGKILL

    def _killed_at_random(self, number: int, rng: random.Random) -> tuple[int, bool]:
        plan = self.plan(link_at=rng.randrange(EVENTS), unlink_at=rng.randrange(EVENTS * 2))
        if plan.unlink_at <= plan.link_at:
            plan.unlink_at = -1
        with agent(plan) as process:
            assert process.stdout is not None
            lines = list(itertools.islice(process.stdout, number))
            # Any moment from here on: a spin, for a sleep is never so short.
            for _ in range(rng.randrange(20_000)):
                pass
            process.kill()
            life = ended(process)
        return life.safe or len(lines) * FLUSH_EVERY, life.code == -signal.SIGKILL

    def connect(self) -> None:
        """The daemon is there, if it was not."""
        if not self.socket.is_symlink():
            self.socket.symlink_to(self.daemon.socket)

    def settle(self) -> list[str]:
        """Adoption does its work; gives the spools that are left."""
        self.connect()
        for _ in range(ROUNDS_MAX):
            adopt(self.spools, self.socket)
        return [] if not self.spools.exists() else os.listdir(self.spools)


def client_kills(directory: Path, kills: int = KILLS, seed: int = 1) -> Outcome:
    """Kill until so many were hit in the middle of something."""
    tally, rng = Tally(), random.Random(seed)
    hits: Counter[str] = Counter()
    safe: list[str] = []
    sent: list[str] = []
    tried = 0
    with running(directory / "state", "--spool-dir", str(directory / "none")) as daemon:
        for number, moment in enumerate(moments(seed)):
            if hits.total() >= kills or number >= 3 * kills:
                break
            trial = Trial(directory, daemon, number)
            flushed, hit = trial.run(moment, rng)
            hits[moment[0]] += hit
            tried += 1
            safe += ids(trial.name, flushed)
            sent += ids(trial.name, EVENTS)
            left = [name for name in trial.settle() if not name.endswith(".tmp")]
            tally.check(f"spools left after a kill {moment}", left, [])
        skipped = daemon.ledger["skipped"]
        tally.check("the daemon's end", daemon.stop(), 0)
    tally.check("skipped events", skipped, 0)
    tally.hold(journaled(directory / "state").stored, safe, sent)
    for kind in KINDS:
        if hits[kind] < kills // (2 * len(KINDS)):
            tally.wrong.append(f"only {hits[kind]} kills {kind}")
    tally.check("enough kills", hits.total() >= kills, True)
    told = ", ".join(f"{hits[kind]} {kind}" for kind in KINDS)
    return Outcome(
        "clients killed at every kind of moment", hits.total(), tally.lost, tally.doubled,
        len(tally.wrong), (f"{told}; {len(safe)} events were flushed before", *tally.wrong),
    )  # fmt: skip
