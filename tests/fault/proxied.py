"""Acknowledgements that get lost, late or doubled, and connections that break."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tallymark import Client
from tallymark.events import RunEnd
from tallymarkd.core.entry import Verdict
from tests.daemon import running
from tests.fault.outcome import Outcome
from tests.fault.spooling import Tally, ids, journaled
from tests.fault.unkind_proxy import Odds, UnkindProxy

BATCHES = 10_000
BATCH_EVENTS = 4
BAD_ONE_IN = 25
FLUSH_BATCHES = 10
FLUSH_SECONDS = 60.0
DONE = ("dropped", "delayed", "doubled", "cut")


def proxied(directory: Path, batches: int = BATCHES, seed: int = 1) -> Outcome:
    """Every batch on its way through a proxy; some hold an event that is refused for good."""
    tally = Tally()
    spools = directory / "spool"
    names = ids("event", batches * BATCH_EVENTS)
    good = [name for number, name in enumerate(names) if number % BAD_ONE_IN]
    with (
        running(directory / "state", "--spool-dir", str(directory / "none")) as daemon,
        UnkindProxy(directory / "proxy.sock", daemon.socket, seed, Odds()) as proxy,
    ):
        client = Client("p", socket=directory / "proxy.sock", spool_dir=spools, linger_seconds=0,
                        batch_events_max=BATCH_EVENTS, ack_timeout_seconds=0.05,
                        spool_after_seconds=0.05)  # fmt: skip
        spilled = 0
        for number, name in enumerate(names):
            client.emit(_event(name, good=number % BAD_ONE_IN > 0))
            if (number + 1) % (FLUSH_BATCHES * BATCH_EVENTS) == 0:
                client.flush(FLUSH_SECONDS)
                spilled += client.stats().spooled > 0
        client.flush(FLUSH_SECONDS)
        proxy.be_kind()
        client.emit(_event("last"), durable=True, timeout=FLUSH_SECONDS)
        client.close(FLUSH_SECONDS)
        stats, ledger = client.stats(), daemon.ledger
        tally.check("the daemon's end", daemon.stop(), 0)
    found = journaled(directory / "state")
    bad = len(names) - len(good)
    tally.hold(found.stored, [*good, "last"])
    tally.check("refused events", dict(found.others), {Verdict.CACHE_EXCEEDS_INPUT: bad})
    tally.check("the client's count", (stats.acknowledged, stats.dropped), (len(names) + 1, {}))
    counts = (ledger["stored"], ledger["duplicate"], ledger["rejected"], ledger["skipped"])
    tally.check("the ledger", counts, (len(good) + 1, 0, {"cache_exceeds_input": bad}, 0))
    tally.check("spools", os.listdir(spools) if spools.exists() else [], [])
    tally.check("enough batches", found.batches >= batches, True)
    tally.check("what was not done", [what for what in DONE if not proxy.did[what]], [])
    told = ", ".join(f"{proxy.did[what]} {what}" for what in DONE)
    notes = (
        f"acknowledgements and connections: {told}; {proxy.did['connections']} connections",
        f"{spilled} flushes ended in the spool; {bad} events with good neighbours were refused",
    )
    return Outcome(
        "batches through an unkind proxy", found.batches, tally.lost, tally.doubled,
        len(tally.wrong), (*notes, *tally.wrong),
    )  # fmt: skip


def _event(name: str, *, good: bool = True) -> RunEnd:
    more: dict[str, Any] = {} if good else {"cache_read_tokens": 2}
    return RunEnd(event_id=name, agent_name="a", input_tokens=1, output_tokens=1, **more)
