"""The daemon is down for the whole life of agents; it comes, and has everything."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

from tallymark.spool import SUFFIX
from tests.daemon import Daemon, wait_for
from tests.fault.outcome import Outcome
from tests.fault.spooling import Tally, agent, ended, ids, journaled
from tests.fault.spooling_agent import Plan

AGENTS = 8
EVENTS = 1000
SECONDS_MAX = 5.0


def daemon_down(directory: Path, agents: int = AGENTS, events: int = EVENTS) -> Outcome:
    """Half of the agents flush as they go, half only end."""
    tally = Tally()
    spools = directory / "spool"
    daemon = Daemon(directory / "state", "--spool-dir", str(spools))
    names = [f"agent-{number}" for number in range(agents)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                agent(
                    Plan(
                        name=name, socket=str(daemon.socket), spool_dir=str(spools), events=events,
                        flush_every=(number % 2) * max(1, events // 5),
                    )
                )
            )
            for number, name in enumerate(names)
        ]  # fmt: skip
        for name, process in zip(names, processes, strict=True):
            life = ended(process)
            tally.check(f"{name} ended with", life.code, 0)
            stats = life.said[-1]["stats"]
            tally.check(f"{name} spooled", stats["spooled"], events)
            if "Traceback" in life.stderr:
                tally.wrong.append(life.stderr)
    tally.check("spools", sum(name.endswith(SUFFIX) for name in os.listdir(spools)), agents)
    try:
        begun = time.monotonic()
        daemon.start()
        wait_for("all events", lambda: daemon.ledger["stored"] >= agents * events)
        took = time.monotonic() - begun
        wait_for("the spools' end", lambda: not os.listdir(spools))
        ledger = daemon.ledger
        tally.check("the daemon's end", daemon.stop(), 0)
    finally:
        daemon.kill()
    counts = (ledger["received"], ledger["stored"], ledger["duplicate"], ledger["skipped"])
    tally.check("the ledger", counts, (agents * events, agents * events, 0, 0))
    found = journaled(daemon.state_dir)
    tally.check("producers", len(found.producers), agents)
    tally.hold(found.stored, [key for name in names for key in ids(name, events)])
    if took > SECONDS_MAX:
        tally.wrong.append(f"it took {took:.1f} s")
    return Outcome(
        f"no daemon in the life of {agents} agents with {events} events each",
        agents * events,
        tally.lost,
        tally.doubled,
        len(tally.wrong),
        (f"stored {took:.2f} s after the daemon was started", *tally.wrong),
    )
