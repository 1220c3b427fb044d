from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tallymark.errors import UsageError
from tallymarkd.server import notify
from tallymarkd.server.notify import STATUS_CHARS_MAX, Notifier, watchdog_seconds
from tests.notify_socket import NotifySocket


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[NotifySocket]:
    with NotifySocket(tmp_path / "notify") as made:
        yield made


def test_each_word_is_one_datagram(manager: NotifySocket) -> None:
    env = {"NOTIFY_SOCKET": manager.address, "PATH": "/bin"}
    notifier = Notifier.from_environment(env)

    assert notifier
    assert env == {"PATH": "/bin"}
    notifier.starting("reading")
    assert manager.next() == {"STATUS": "reading"}
    notifier.ready("well")
    assert manager.next() == {"READY": "1", "STATUS": "well"}
    notifier.alive("well")
    assert manager.next() == {"WATCHDOG": "1", "STATUS": "well"}
    notifier.reloading(123)
    assert manager.next() == {"RELOADING": "1", "MONOTONIC_USEC": "123", "STATUS": "reloading"}
    notifier.stopping("so long")
    assert manager.next() == {"STOPPING": "1", "STATUS": "so long"}


def test_an_abstract_address_will_do() -> None:
    with NotifySocket(f"@tallymark-test-{os.getpid()}") as manager:
        Notifier(manager.address).ready("well")

        assert manager.next()["READY"] == "1"


def test_a_status_stays_one_line_and_short(manager: NotifySocket) -> None:
    Notifier(manager.address).alive("well\nREADY=1\n" + "x" * 1000)

    found = manager.next()

    assert set(found) == {"WATCHDOG", "STATUS"}
    assert len(found["STATUS"]) == STATUS_CHARS_MAX


def test_without_an_address_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "socket")
    notifier = Notifier.from_environment({})

    assert not notifier
    notifier.ready("nobody hears it")


def test_an_address_that_is_of_no_use_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot use NOTIFY_SOCKET='vsock:2'"):
        Notifier.from_environment({"NOTIFY_SOCKET": "vsock:2"})


def test_a_manager_that_is_gone_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING):
        notifier.alive("a")
        notifier.alive("b")
    assert [record.getMessage() for record in caplog.records] == [
        "cannot reach the service manager: No such file or directory"
    ]

    with NotifySocket(tmp_path / "gone") as manager:
        notifier.alive("c")
        assert manager.next()["STATUS"] == "c"


def test_a_manager_that_does_not_read_holds_nobody_up(
    manager: NotifySocket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "SEND_TIMEOUT_SECONDS", 0.001)
    notifier = Notifier(manager.address)

    while not caplog.records:
        notifier.alive("x" * STATUS_CHARS_MAX)

    assert "cannot reach the service manager" in caplog.text


@pytest.mark.parametrize(
    ("env", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "7"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "8"}, None),
    ],
)
def test_the_watchdog_of_this_process(env: dict[str, str], seconds: float | None) -> None:
    assert watchdog_seconds(env, 7) == seconds
    assert env == {}


@pytest.mark.parametrize("wrong", ["soon", "0", "-5", "1.5", "²"])
def test_a_watchdog_that_cannot_be_read_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="cannot read WATCHDOG_USEC="):
        watchdog_seconds({"WATCHDOG_USEC": wrong}, 7)
