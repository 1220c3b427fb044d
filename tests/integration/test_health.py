"""Trouble made real: the daemon says what it is, in both tongues alike, and when it is over."""

from __future__ import annotations

import json
import signal
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallymark import Client
from tallymark.errors import DeliveryError
from tallymark.events import RunEnd, Usage
from tallymark.protocol.connection import ClientConnection
from tallymark.protocol.outbox import Outbox
from tallymark.questions import ask_health
from tallymarkd.core.layout import PROJECT_FILE
from tests.daemon import DEADLINE_SECONDS, Daemon, running, tallymark, wait_for
from tests.fault.mounts import MIB, Filler, cannot_mount, tmpfs
from tests.fault.strace import cannot_trace, stuck
from tests.notify_socket import NotifySocket
from tests.unix_http import UnixHTTP

FIXED = ("status", "server_id", "pid", "state_dir", "socket", "version", "started_at")
"""What does not change between two questions that follow one another. Messages may hold
seconds, which go on; their codes do not."""


class Report:
    """What the daemon says of itself, asked in both tongues."""

    def __init__(self, daemon: Daemon, *, deep: bool = False) -> None:
        answer = ask_health([daemon.socket], deep=deep, timeout_seconds=DEADLINE_SECONDS)
        http = UnixHTTP(daemon.socket)
        try:
            http.request("GET", f"/v1/health{'?deep=1' if deep else ''}")
            response = http.getresponse()
            self.code = response.status
            self.body: dict[str, Any] = json.loads(response.read())
        finally:
            http.close()
        self.status = answer.status
        self.reasons = {reason.code: reason.message for reason in answer.reasons}
        told = {"status": answer.status, "reasons": msgspec.to_builtins(answer.reasons)}
        self.framed: dict[str, Any] = {**told, **answer.report}

    @property
    def alike(self) -> bool:
        """Whether both say the same, but for what goes on between two questions."""
        return (
            self.framed.keys() == self.body.keys()
            and all(self.framed[name] == self.body[name] for name in FIXED)
            and self.codes == [reason["code"] for reason in self.body["reasons"]]
        )

    @property
    def codes(self) -> list[str]:
        return list(self.reasons)


def health(daemon: Daemon, *options: str) -> tuple[int, str]:
    """Exit code and output of the command."""
    done = tallymark("--socket", str(daemon.socket), "health", *options)
    return done.returncode, done.stdout


def wait_for_codes(daemon: Daemon, *codes: str) -> Report:
    """The report once it has these reasons, in both tongues."""

    def look() -> Report | None:
        report = Report(daemon)
        return report if set(codes) <= set(report.codes) and report.alike else None

    return wait_for(f"{codes} in health, in both tongues alike", look)


@contextmanager
def talking(daemon: Daemon) -> Iterator[tuple[socket.socket, ClientConnection]]:
    """A producer of its own, welcomed."""
    talk = ClientConnection()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE_SECONDS)
        sock.connect(str(daemon.socket))
        sock.sendall(talk.start(producer=str(uuid.uuid4()), project="p"))
        while talk.welcome is None:
            talk.receive(sock.recv(65536))
        yield sock, talk


def test_a_daemon_that_is_well(daemon: Daemon) -> None:
    for deep in (False, True):
        report = Report(daemon, deep=deep)
        assert (report.status, report.codes, report.code) == ("ok", [], 200)
        assert report.alike
    assert health(daemon) == (0, "ok\n")
    assert health(daemon, "--deep") == (0, "ok\n")


@pytest.mark.skipif(bool(cannot_mount()), reason=cannot_mount())
def test_a_disk_that_is_low_and_one_that_is_full(tmp_path: Path) -> None:
    small = ("--segment-chunk-bytes", "64KiB", "--segment-bytes-max", "1MiB")
    with (
        tmpfs(tmp_path / "disk", 8 * MIB) as disk,
        running(disk / "state", *small, "--save-interval-seconds", "3600") as daemon,
        Client("p", socket=daemon.socket, spool_dir="/dev/null/none") as client,
    ):
        low = Report(daemon)
        assert (low.status, low.codes, low.code) == ("degraded", ["disk_low"], 200)
        assert health(daemon)[0] == 1
        filler = Filler(disk)
        filler.leave(0)
        for _ in range(200):
            client.emit(RunEnd(agent_name="coding", error_message="x" * 3000))

        full = wait_for_codes(daemon, "disk_full")

        assert (full.status, full.code) == ("degraded", 503)
        assert full.codes == ["disk_full", "disk_low"]
        assert "No space left" in full.reasons["disk_full"]
        code, said = health(daemon)
        assert code == 1
        assert said.startswith("degraded\n  disk_full: ")
        assert "free space" in said
        filler.give_back()
        client.flush(DEADLINE_SECONDS)
        well = wait_for("room", lambda: r if (r := Report(daemon)).code == 200 else None)
        assert well.codes == ["disk_low"]


def test_a_disk_that_was_full_is_well_again_with_nobody_trying(tmp_path: Path) -> None:
    small = ("--segment-chunk-bytes", "64KiB", "--segment-bytes-max", "1MiB")
    with (
        tmpfs(tmp_path / "disk", 8 * MIB) as disk,
        running(disk / "state", *small, "--save-interval-seconds", "3600") as daemon,
    ):
        filler = Filler(disk)
        filler.leave(0)
        with Client("p", socket=daemon.socket, spool_dir=tmp_path / "spool") as client:
            for _ in range(200):
                client.emit(RunEnd(agent_name="coding", error_message="x" * 3000))
            wait_for_codes(daemon, "disk_full")
        filler.give_back()
        wait_for("room", lambda: "disk_full" not in Report(daemon).codes)


@pytest.mark.skipif(bool(cannot_trace()), reason=cannot_trace())
def test_a_disk_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that a watchdog is for: the process lives, answers, and commits nothing."""
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    limit = ("--unacknowledged-total-bytes-max", "2MiB")
    event = msgspec.msgpack.encode([RunEnd(agent_name="c", error_message="x" * 4000)] * 100)
    with (
        NotifySocket(tmp_path / "notify"),
        running(tmp_path / "state", *limit) as daemon,
        talking(daemon) as (sock, _),
    ):
        assert daemon.process is not None
        outbox = Outbox()
        with stuck(daemon.process.pid, "fdatasync") as let_go:
            for _ in range(5):  # the last goes beyond the limit, another would not be read
                sock.sendall(outbox.freeze(event, 100).frame)

            report = wait_for_codes(daemon, "commit_stuck", "watchdog_late", "overloaded")

            assert (report.status, report.code) == ("degraded", 503)
            assert report.codes == ["commit_stuck", "watchdog_late", "overloaded"]
            assert "reading is paused" in report.reasons["overloaded"]
            assert health(daemon)[0] == 1
            code, said = health(daemon, "--deep")
            assert code == 2
            assert said.startswith("failing\n  probe_failed: cannot make a probe durable: nothing")
            let_go()
            wait_for("a daemon that is well", lambda: not Report(daemon).codes)
            assert health(daemon, "--deep") == (0, "ok\n")


def test_connections_that_run_out(tmp_path: Path) -> None:
    with running(tmp_path / "state", "--connections-max", "10") as daemon, ExitStack() as stack:
        for _ in range(7):
            stack.enter_context(talking(daemon))
        assert Report(daemon).codes == []
        last = stack.enter_context(ExitStack())
        last.enter_context(talking(daemon))

        report = wait_for_codes(daemon, "connections_full")

        assert (report.status, report.code) == ("degraded", 200)
        assert report.reasons["connections_full"] == "9 of 10 connections are open"
        assert health(daemon)[0] == 1
        for _ in range(2):
            last.enter_context(talking(daemon))
        code, said = health(daemon)
        assert code == 2
        assert "cannot serve you now: 10 connections are open" in said
        last.close()
        stack.close()
        wait_for("a daemon that is well", lambda: not Report(daemon).codes)


def test_a_limit_on_open_files_never_ends_the_daemon(tmp_path: Path) -> None:
    """However many come: some descriptors are kept for the journal and the state files."""
    limit = ("sh", "-c", 'ulimit -n 96; exec "$@"', "sh")
    options = ("--segment-bytes-max", "64KiB", "--segment-chunk-bytes", "4KiB",
               "--save-interval-seconds", "0.05")  # fmt: skip
    daemon = Daemon(tmp_path / "state", *options, under=limit)
    try:
        daemon.start()
        assert (
            Report(daemon)
            .reasons["connections_limited"]
            .startswith("cannot serve more than 32 connections, and connections_max is 1024")
        )
        client = Client("p", socket=daemon.socket, spool_dir=tmp_path / "spool")
        client.emit(Usage(agent_name="a"))
        client.flush(timeout=DEADLINE_SECONDS)
        with ExitStack() as stack:
            crowd = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(200)]
            for one in crowd:
                one.connect(str(daemon.socket))
            wait_for("somebody who was turned away", lambda: _last_word(crowd))

            for number in range(300):  # several segments
                client.emit(Usage(agent_name="a", event_id=f"{number}", attrs={"x": "y" * 1000}))
            client.flush(timeout=DEADLINE_SECONDS)
            assert client.stats().spooled == 0
        client.close()

        wait_for("room", lambda: _codes(daemon) == ["connections_limited"])
        assert daemon.ledger["stored"] == 301
        assert daemon.stop() == 0
    finally:
        daemon.kill()


def _codes(daemon: Daemon) -> list[str]:
    """The reasons that it tells; none while others that are gone still stand in the queue."""
    try:
        return Report(daemon).codes
    except DeliveryError:
        return []


def _last_word(crowd: list[socket.socket]) -> bytes:
    for one in crowd:
        one.setblocking(False)
        with suppress(BlockingIOError):
            return one.recv(100)
    return b""


def test_a_state_directory_that_is_moved_away(tmp_path: Path) -> None:
    # The socket stands elsewhere, so that the daemon can still be asked.
    daemon = Daemon(tmp_path / "state", socket=tmp_path / "run" / "t.sock")
    try:
        daemon.start()
        away = daemon.state_dir.rename(tmp_path / "away")

        report = Report(daemon)

        assert (report.status, report.codes, report.code) == ("failing", ["state_dir_gone"], 503)
        assert str(daemon.state_dir) in report.reasons["state_dir_gone"]
        assert health(daemon)[0] == 2
        status = tallymark("--socket", str(daemon.socket), "status")
        assert (status.returncode, status.stderr) == (0, "")
        assert "state_dir_gone" in status.stdout
        away.rename(daemon.state_dir)
        assert Report(daemon).codes == []
    finally:
        daemon.kill()


def test_a_journal_in_which_no_file_can_be_made(daemon: Daemon) -> None:
    journal = daemon.state_dir / "journal"
    away = journal.rename(daemon.state_dir / "away")

    report = wait_for_codes(daemon, "state_dir_unwritable")

    assert (report.status, report.code) == ("failing", 503)
    assert report.reasons == {"state_dir_unwritable": f"cannot write to {journal}"}
    assert health(daemon)[0] == 2
    away.rename(journal)
    assert Report(daemon).codes == []


def test_a_spool_that_nobody_can_read(tmp_path: Path) -> None:
    spools = tmp_path / "spools"
    spools.mkdir(mode=0o700)
    with running(tmp_path / "state", "--spool-dir", str(spools)) as daemon:
        damaged = spools / f"{uuid.uuid4()}.damaged"
        damaged.touch()

        report = Report(daemon)

        assert (report.status, report.codes, report.code) == ("degraded", ["spool_damaged"], 200)
        assert damaged.name in report.reasons["spool_damaged"]
        damaged.rename(tmp_path / "kept")
        assert Report(daemon).codes == []


def test_events_that_an_agent_has_dropped(daemon: Daemon) -> None:
    with talking(daemon) as (sock, talk):
        outbox = Outbox()
        event = msgspec.msgpack.encode([Usage(agent_name="coding", input_tokens=1)])
        sock.sendall(outbox.freeze(event, 1).frame + outbox.skip(12, "queue_full").frame)

        report = wait_for_codes(daemon, "events_dropped")

        assert (report.status, report.code) == ("degraded", 200)
        assert "12 events of producer " in report.reasons["events_dropped"]
        assert "(seq 2): queue_full" in report.reasons["events_dropped"]
        assert talk.welcome is not None
    daemon.kill()
    daemon.start()
    # Replayed: what was not told for a day must not be gone with a crash.
    assert "events_dropped" in Report(daemon).codes
    assert daemon.stop() == 0
    daemon.start()
    report = Report(daemon)
    assert report.codes == []
    assert daemon.ledger["skipped"] == 12


def test_a_state_file_that_has_rotted(daemon: Daemon) -> None:
    with Client("p", socket=daemon.socket) as client:
        client.emit(RunEnd(agent_name="coding", input_tokens=10), durable=True)
    assert daemon.stop() == 0
    (path,) = daemon.state_dir.rglob(PROJECT_FILE)
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 0xFF
    path.write_bytes(body)
    daemon.start()

    report = Report(daemon)

    assert (report.status, report.codes, report.code) == ("degraded", ["state_files_damaged"], 200)
    assert PROJECT_FILE in report.reasons["state_files_damaged"]
    with Client("p", socket=daemon.socket) as client:
        assert client.dump().agents["coding"].total_tokens == 10
    assert daemon.stop() == 0
    daemon.start()
    assert Report(daemon).codes == []


def test_a_reload_that_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "tallymarkd.toml"
    config.write_text("log_level = 'info'\n")
    with running(tmp_path / "state", "--config", str(config)) as daemon:
        config.write_text("log_level = 'loud'\n")
        daemon.signal(signal.SIGHUP)

        report = wait_for_codes(daemon, "reload_refused")

        assert (report.status, report.codes, report.code) == ("degraded", ["reload_refused"], 200)
        assert "log_level" in report.reasons["reload_refused"]
        assert health(daemon)[0] == 1
        config.write_text("log_level = 'debug'\n")
        daemon.signal(signal.SIGHUP)
        wait_for("a daemon that is well", lambda: not Report(daemon).codes)
