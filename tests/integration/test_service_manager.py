"""The daemon under a service manager that these tests play; tests/systemd has a real one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tallymark import Client
from tallymark.events import Usage
from tallymark.protocol.connection import ClientConnection
from tallymark.protocol.messages import Ack, Goodbye, ServerMessage, Welcome
from tallymark.questions import ask_health
from tests import activated
from tests.conversation_parts import opening, wire
from tests.daemon import DEADLINE_SECONDS, Daemon, wait_for
from tests.daemon_parts import publish, run_end
from tests.fault.mounts import Filler, cannot_mount, tmpfs
from tests.notify_socket import NotifySocket

MIB = 1024 * 1024


@contextmanager
def managed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str, state: Path | None = None
) -> Iterator[tuple[Daemon, NotifySocket]]:
    """A daemon, not started yet, that reports to a socket of ours."""
    daemon = Daemon(state or tmp_path / "state", *options)
    with NotifySocket(tmp_path / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        try:
            yield daemon, manager
        finally:
            daemon.kill()


def test_it_says_when_it_is_ready_alive_and_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    with managed(tmp_path, monkeypatch) as (daemon, manager):
        daemon.spawn()

        assert manager.next() == {"STATUS": "reading the journal"}
        assert manager.next()["READY"] == "1"
        with Client("p", socket=daemon.socket) as client:
            client.emit(Usage(agent_name="coding", input_tokens=1), durable=True, timeout=60)
            while "0 events" in (found := manager.until("WATCHDOG"))["STATUS"]:
                pass
        assert found["STATUS"] == "ready: 1 connection, 1 event stored"
        assert daemon.stop() == 0
        assert manager.until("STOPPING")["STATUS"].startswith("stopping: ")


def post(path: Path, text: str) -> int:
    """Post one event with this much in it; gives the answer's status."""
    body = json.dumps({"type": "usage", "agent_name": "a", "attrs": {"text": text}}).encode()
    head = b"POST /v1/events?project=p HTTP/1.0\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE_SECONDS)
        sock.connect(str(path))
        sock.sendall(head % len(body) + body)
        return int(sock.recv(65536).split()[1])


@pytest.mark.skipif(bool(cannot_mount()), reason=cannot_mount() or "it can")
def test_who_cannot_commit_is_not_ready_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tmpfs(tmp_path / "disk", 4 * MIB) as disk:
        state = disk / "state"
        chunk = ("--segment-chunk-bytes", "64KiB", "--segment-bytes-max", "512KiB")
        with managed(tmp_path, monkeypatch, *chunk, state=state) as (daemon, manager):
            daemon.socket = tmp_path / "t.sock"
            daemon.log_path = tmp_path / "log"
            daemon.start()
            manager.until("READY")
            filler = Filler(disk)
            filler.leave(0)
            # Until what was taken ahead is used up as well, to the last few bytes.
            while post(daemon.socket, "x" * 4000) == 200:
                pass
            while ask_health([daemon.socket], deep=True).status != "failing":
                pass
            assert daemon.stop() == 0
            daemon.spawn()
            manager.until("STOPPING")
            assert manager.next() == {"STATUS": "reading the journal"}
            told = manager.next()
            assert told["STATUS"].startswith("not ready: cannot "), told
            assert "READY" not in told
            assert daemon.health().status == "degraded"

            filler.give_back()

            assert manager.until("READY")["STATUS"].startswith("ready: ")
            assert daemon.stop() == 0


def test_a_reload_takes_over_what_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "t.toml"
    config.write_text("connections_max = 1024\n")
    with managed(tmp_path, monkeypatch, "--config", str(config)) as (daemon, manager):
        daemon.start()
        manager.until("READY")
        config.write_text("connections_max = 1\nstrict = true\n")

        daemon.signal(signal.SIGHUP)

        assert manager.until("RELOADING")["MONOTONIC_USEC"].isdigit()
        assert manager.next()["READY"] == "1"
        wait_for("its account", lambda: "reloaded: " in daemon.log())
        assert "set connections_max = 1; strict will change with the next restart" in daemon.log()
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.connect(str(daemon.socket))
            first.sendall(opening())
            first.settimeout(DEADLINE_SECONDS)
            assert first.recv(1)
            second.connect(str(daemon.socket))
            second.settimeout(DEADLINE_SECONDS)
            assert b"1 connections are open" in second.recv(1000)

        config.write_text("connections_max = many\n")
        daemon.signal(signal.SIGHUP)
        manager.until("RELOADING")
        assert manager.next()["READY"] == "1"
        wait_for("the refusal", lambda: "cannot reload: cannot read the config" in daemon.log())


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket that outlives its daemons, as that of a socket unit."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen(1024)
        sock.set_inheritable(True)
        yield sock


def spawn_on(daemon: Daemon, sock: socket.socket) -> None:
    """Start the daemon with the socket handed over."""
    with daemon.log_path.open("ab") as log:
        daemon.process = subprocess.Popen(
            [
                sys.executable, activated.__file__, f"fd:{sock.fileno()}",
                sys.executable, "-m", "tallymarkd", "--state-dir", str(daemon.state_dir),
            ],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, pass_fds=[sock.fileno()],
        )  # fmt: skip


def test_who_waits_in_the_socket_is_answered_by_the_next_daemon(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "state", socket=tmp_path / "t.sock")
    with listening(daemon.socket) as sock:
        try:
            for seq in (1, 2):
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(DEADLINE_SECONDS)
                    client.connect(str(daemon.socket))  # nobody is there to accept it
                    client.sendall(opening() + wire(publish(seq, run_end(seq))))
                    spawn_on(daemon, sock)
                    protocol = ClientConnection()
                    found: list[ServerMessage] = []
                    while len(found) < 2:
                        found += protocol.receive(client.recv(65536))
                    assert isinstance(found[0], Welcome)
                    assert found[1] == Ack(through_seq=seq, stored=1)
                    daemon.signal(signal.SIGHUP)
                    wait_for("its account", lambda: "reloaded: " in daemon.log())
                    assert daemon.stop() == 0
                    rest = protocol.receive(client.recv(65536))
                    assert rest == [Goodbye(reason="the daemon is stopping")]
                assert daemon.socket.is_socket()
        finally:
            daemon.kill()
    assert "restart" not in daemon.log()


def test_the_library_goes_from_one_daemon_to_the_next(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "state", socket=tmp_path / "t.sock")
    with listening(daemon.socket) as sock:
        try:
            with Client("p", socket=daemon.socket) as client:
                for number in range(5):
                    spawn_on(daemon, sock)
                    client.emit(Usage(agent_name="a", event_id=f"e{number}"))
                    client.flush(DEADLINE_SECONDS)
                    wait_for("the daemon", daemon.answers)
                    # It may have gone into the spool while the daemon was starting.
                    stored = number + 1
                    wait_for("the event", lambda: daemon.ledger["stored"] == stored)  # noqa: B023 - called at once
                    assert daemon.stop() == 0
        finally:
            daemon.kill()


def test_a_wrong_hand_over_is_refused_in_one_line(tmp_path: Path) -> None:
    found = subprocess.run(
        [
            sys.executable, activated.__file__, str(tmp_path / "t.sock"), sys.executable, "-m",
            "tallymarkd", "--state-dir", str(tmp_path / "s"), "--socket", str(tmp_path / "o.sock"),
        ],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip

    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"tallymarkd: cannot listen on {tmp_path / 'o.sock'} (option --socket)")
    assert not (tmp_path / "s").exists()


def test_the_end_of_its_terminal_is_the_end_of_it(tmp_path: Path) -> None:
    """Elsewhere SIGHUP reloads; but nobody would look after a daemon without its terminal."""
    daemon = Daemon(tmp_path / "state")
    leader, follower = os.openpty()
    try:
        daemon.process = subprocess.Popen(
            [sys.executable, "-m", "tallymarkd", "--state-dir", str(daemon.state_dir)],
            stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
        )  # fmt: skip
        os.close(follower)
        wait_for("an answer of the daemon", daemon.answers)
        daemon.signal(signal.SIGHUP)
        assert wait_for("its account", lambda: b"reloaded: " in os.read(leader, 65536))
        assert daemon.running

        os.close(leader)
        daemon.signal(signal.SIGHUP)

        assert daemon.process.wait(DEADLINE_SECONDS) == 0
    finally:
        daemon.kill()


def test_the_end_of_its_terminal_ends_it_also_with_messages_elsewhere(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "state")
    leader, follower = os.openpty()
    try:
        with daemon.log_path.open("wb") as log:
            daemon.process = subprocess.Popen(
                [sys.executable, "-m", "tallymarkd", "--state-dir", str(daemon.state_dir)],
                stdin=follower, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        os.close(follower)
        wait_for("an answer of the daemon", daemon.answers)
        os.close(leader)
        daemon.signal(signal.SIGHUP)

        assert daemon.process.wait(DEADLINE_SECONDS) == 0
    finally:
        daemon.kill()
