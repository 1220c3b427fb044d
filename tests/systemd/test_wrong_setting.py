"""A wrong setting, while agents wait: it is not tried over and over, and mending it is enough.
What its manager has for every service leads it nowhere."""

from __future__ import annotations

import socket
import time

import pytest

from tests.systemd.services import SOCKET, Service

PAUSE_SECONDS_MIN = 4.0
"""From one attempt to the next; the unit says 5."""

TRIED = "status=2/INVALIDARGUMENT"


def test_a_wrong_setting_is_tried_now_and_then_until_it_is_mended(service: Service) -> None:
    with service.listening() as said, socket.socket(socket.AF_UNIX) as waiting:
        with service.configured('log_fromat = "json"\n'):
            waiting.connect(str(service.machine.path(service.socket)))
            service.until("an attempt", lambda: TRIED in said())
            began = time.monotonic()
            service.until("another attempt", lambda: said().count(TRIED) > 1)
            assert time.monotonic() - began >= PAUSE_SECONDS_MIN, said()
        service.until("a ready daemon", lambda: service.active() == "active")
    assert service.active(SOCKET) == "active"
    assert service.health()["status"] == "ok"


def test_what_its_manager_has_for_every_service_leads_it_nowhere(service: Service) -> None:
    service.systemctl("set-environment", "TALLYMARK_SOCKET=/else", "PYTHONHOME=/else")
    try:
        assert service.health()["status"] == "ok"
        service.systemctl("set-environment", "TALLYMARK_FOO=1")
        with pytest.raises(AssertionError, match="cannot use variable TALLYMARK_FOO"):
            service.install()
    finally:
        service.systemctl("unset-environment", "TALLYMARK_SOCKET", "PYTHONHOME", "TALLYMARK_FOO")
