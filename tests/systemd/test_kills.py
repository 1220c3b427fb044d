"""A daemon that is killed under load, or hangs: systemd starts it again, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.daemon import DEADLINE_SECONDS
from tests.fault.raw_agent import event_id
from tests.systemd.programs import Program, running
from tests.systemd.services import SERVICE, Service

CLIENTS = 50
KILLS = 2
RECORDERS = 3

ACKED_EACH = 8
"""Every client has so many acknowledged events before something is done to the daemon."""

ACKED_AFTER = 500
"""So many events more are acknowledged between what is done and the judgement."""

WATCHDOG_SECONDS = 1

FED = 1500
"""Acknowledged events that a healthy daemon lives through: they take longer than the
watchdog's interval."""

STUCK = "fdatasync:delay_enter=60s"


@contextmanager
def crowd(service: Service, count: int) -> Iterator[Program]:
    """So many clients, every one of which has been served."""
    arguments = (str(service.socket), f"{count}", "agent")
    with running(service.machine, "tests.systemd.crowd", *arguments) as program:
        program.until("acknowledged events of every client", "least", ACKED_EACH)
        yield program


@contextmanager
def library(service: Service) -> Iterator[Program]:
    """Agents that record with the library, and give no event a key."""
    arguments = (str(service.socket), f"{RECORDERS}", "library")
    with running(service.machine, "tests.systemd.recorder", *arguments) as program:
        program.until("recorded events", "recorded", ACKED_EACH)
        yield program


def judge(service: Service, *programs: Program) -> None:
    """All that was acknowledged is there once, and all else that is there was sent."""
    came = [program.finish()["events"] for program in programs]
    service.systemctl("stop", SERVICE)
    assert service.active() == "inactive", service.last_words()
    acked = [
        event_id(name, number)
        for events in came
        for name, count in events.items()
        for number in range(1, count + 1)
    ]
    # At its end a client knows of everything that it has sent what became of it.
    assert set(service.hold(acked)) == set(acked)
    assert service.verify()["findings"] == []


def test_sigkill_under_load_is_made_good(service: Service) -> None:
    with crowd(service, CLIENTS) as clients, library(service) as recorders:
        for kills in range(1, KILLS + 1):
            assert service.health()["connections"] >= CLIENTS
            os.kill(service.pid(), signal.SIGKILL)
            service.until("another start", lambda: service.restarts() == kills)  # noqa: B023
            service.until("a ready daemon", lambda: service.active() == "active")
            clients.until("events", "acked", clients.told()["acked"] + ACKED_AFTER)
        judge(service, clients, recorders)


def test_a_stuck_disk_has_the_watchdog_start_it_again(service: Service) -> None:
    with (
        service.changed(f"WatchdogSec={WATCHDOG_SECONDS}"),
        service.listening() as said,
        crowd(service, 5) as clients,
    ):
        # It is fed as long as commits reach the disk.
        clients.until("events", "acked", FED)
        assert service.restarts() == 0, said()
        hung = service.pid()
        with stuck(hung):
            service.until("the watchdog", lambda: "Watchdog timeout" in said())
        service.until("another start", lambda: service.restarts() >= 1)
        service.until("a ready daemon", lambda: service.active() == "active")
        assert service.pid() != hung
        assert "Failed with result 'watchdog'" in said()
        clients.until("events", "acked", clients.told()["acked"] + ACKED_AFTER)
        judge(service, clients)


@contextmanager
def stuck(pid: int) -> Iterator[None]:
    """Its disk takes a minute for everything; after this nobody holds it any more."""
    options = ("-f", "-q", "-e", "trace=fdatasync", "-e", f"inject={STUCK}")
    tracer = subprocess.Popen(
        ["strace", *options, "-p", f"{pid}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        yield
    finally:
        tracer.kill()
        told = tracer.communicate(timeout=DEADLINE_SECONDS)[1]
    assert b"fdatasync" in told, "it has not written"
