"""Restarts under load, which nobody notices: systemd holds the socket."""

from __future__ import annotations

from tests.systemd.programs import running
from tests.systemd.services import SERVICE, SOCKET, Service

RESTARTS = 20

TALKERS = 8
RECORDERS = 3

BETWEEN = TALKERS
"""Conversations that end between two restarts."""


def test_restarts_under_load_lose_nothing_and_refuse_nobody(service: Service) -> None:
    socket = str(service.socket)
    talk = (socket, f"{TALKERS}", "once", "ever")
    record = (socket, f"{RECORDERS}", "library")
    with (
        running(service.machine, "tests.systemd.once", *talk) as talkers,
        running(service.machine, "tests.systemd.recorder", *record) as recorders,
    ):
        recorders.until("recorded events", "recorded", 100)
        for _ in range(RESTARTS):
            ended = talkers.until("conversations", "conversations", 1)
            talkers.until("conversations", "conversations", ended + BETWEEN)
            service.systemctl("restart", SERVICE)
        talked, recorded = talkers.finish(), recorders.finish()
    assert service.restarts() == 0, service.last_words()
    service.systemctl("stop", SERVICE)

    assert talked["broken"] == {}, talked
    # Without any the restarts would have fallen between the conversations.
    assert talked["ends"]["goodbye"] >= RESTARTS
    assert talked["ends"]["acknowledged"] >= RESTARTS * BETWEEN // 2
    library = [
        f"{name}-{number}"
        for name, count in recorded["events"].items()
        for number in range(1, count + 1)
    ]
    stored = service.hold([*talked["acked"], *library])
    assert stored.keys() >= set(library)
    assert not any(stats["dropped"] or stats["rejected"] for stats in recorded["stats"])
    assert service.active(SOCKET) == "active"
    assert service.verify()["verdict"] == "whole"
