"""The daemon as a process: one per directory, well-behaved at start and at its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path

import msgspec
import pytest

from tallymark import Client
from tallymark.events import RunEnd, Usage
from tallymark.protocol.connection import ClientConnection
from tallymark.protocol.outbox import Outbox
from tests.daemon import DEADLINE_SECONDS, Daemon, running, tallymark, wait_for
from tests.fault.mounts import Filler, cannot_mount, tmpfs
from tests.speed import Times, quick
from tests.unix_http import UnixHTTP

HEALTH_SECONDS_MAX = 0.8
"""More than ``tallymark --version`` takes, which is 0.1 to 0.2 s on an idle machine. How
long Python takes to start is no matter of ours, and on a busy machine most of a second."""


@pytest.mark.skipif(bool(cannot_mount()), reason=cannot_mount() or "it can")
@pytest.mark.parametrize("bytes_free", [0, 16384, 32768])
def test_a_first_start_on_a_full_disk_names_the_place(tmp_path: Path, bytes_free: int) -> None:
    with tmpfs(tmp_path / "disk", 1024 * 1024) as disk:
        (disk / "state").mkdir()
        Filler(disk).leave(bytes_free)
        line = start_refused(
            "--state-dir", str(disk / "state"), "--socket", str(tmp_path / "t.sock")
        )

    assert line.startswith("1 ")
    assert str(disk / "state") in line
    assert "No space left on device" in line or "the disk is full" in line


def start_refused(*args: str, **env: str) -> str:
    """The one line that a start gives which cannot succeed; asserts that it is one."""
    found = subprocess.run(
        [sys.executable, "-m", "tallymarkd", *args],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
    )
    assert found.returncode in (1, 2), found
    assert "Traceback" not in found.stderr
    lines = [line for line in found.stderr.splitlines() if line.startswith("tallymarkd: ")]
    assert len(lines) == 1, found.stderr
    assert lines[0].startswith("tallymarkd: cannot ")
    return f"{found.returncode} {lines[0]}"


def test_events_survive_a_drain_and_a_restart(daemon: Daemon) -> None:
    with Client("p", socket=daemon.socket) as client:
        client.emit(RunEnd(agent_name="coding", input_tokens=10, output_tokens=5), durable=True)
    before = tallymark("--socket", str(daemon.socket), "dump", "--project", "p").stdout
    assert daemon.stop() == 0
    assert "unclean" not in daemon.log()
    daemon.start()
    after = tallymark("--socket", str(daemon.socket), "dump", "--project", "p").stdout
    assert json.loads(after) == json.loads(before)
    assert json.loads(after)["agents"]["coding"]["total_tokens"] == 15
    recovery = daemon.health().report["recovery"]
    assert recovery["clean"] is True
    assert recovery["events_replayed"] == 0


def test_events_survive_sigkill_right_after_the_acknowledgement(daemon: Daemon) -> None:
    with Client("p", socket=daemon.socket) as client:
        client.emit(RunEnd(agent_name="coding", input_tokens=10), durable=True)
        daemon.kill()
        daemon.start()
        assert client.dump().agents["coding"].total_tokens == 10
        client.emit(
            RunEnd(agent_name="coding", input_tokens=1), durable=True, timeout=DEADLINE_SECONDS
        )
    recovery = daemon.health().report["recovery"]
    assert recovery["clean"] is False
    assert recovery["events_replayed"] == 1
    assert recovery["damage"] == []
    assert daemon.ledger["stored"] == 2


def test_a_drain_keeps_what_has_arrived_and_takes_its_socket_away(daemon: Daemon) -> None:
    with Client("p", socket=daemon.socket) as client:
        for _ in range(500):
            client.emit(Usage(agent_name="coding", input_tokens=1))
        client.flush(DEADLINE_SECONDS)
        daemon.signal(signal.SIGTERM)
        assert daemon.process is not None
        assert daemon.process.wait(DEADLINE_SECONDS) == 0
    assert not daemon.socket.exists()
    daemon.start()
    assert daemon.ledger["stored"] == 500


def test_a_conversation_ends_with_its_acknowledgement_and_a_goodbye(daemon: Daemon) -> None:
    talk, outbox = ClientConnection(), Outbox()
    event = msgspec.msgpack.encode([Usage(agent_name="coding", input_tokens=1)])
    said: list[str] = []
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE_SECONDS)
        sock.connect(str(daemon.socket))
        sock.sendall(talk.start(producer=str(uuid.uuid4()), project="p"))
        while talk.welcome is None:
            talk.receive(sock.recv(65536))
        sock.sendall(outbox.freeze(event, 1).frame)
        while "Ack" not in said:
            said += [type(message).__name__ for message in talk.receive(sock.recv(65536))]
        daemon.signal(signal.SIGTERM)
        while data := sock.recv(65536):
            said += [type(message).__name__ for message in talk.receive(data)]
    assert said == ["Ack", "Goodbye"]


def test_files_are_private(daemon: Daemon) -> None:
    with Client("p", socket=daemon.socket) as client:
        client.emit(RunEnd(agent_name="coding"), durable=True)
    assert daemon.stop() == 0
    for path in [daemon.state_dir, *daemon.state_dir.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        else:
            assert mode == 0o600, path


def test_a_second_daemon_leaves_the_first_its_socket(daemon: Daemon) -> None:
    assert "another tallymarkd runs on it" in start_refused("--state-dir", str(daemon.state_dir))
    other = daemon.state_dir.with_name("other")
    message = start_refused("--state-dir", str(other), "--socket", str(daemon.socket))
    assert "another tallymarkd" in message
    with Client("p", socket=daemon.socket) as client:
        client.emit(RunEnd(agent_name="coding"), durable=True, timeout=DEADLINE_SECONDS)


def test_a_stale_socket_is_taken_over(daemon: Daemon) -> None:
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.health().status == "ok"


def test_a_wrong_option_is_named() -> None:
    assert "--no-such-option" in start_refused("--no-such-option")
    assert start_refused("--log-level", "loud").startswith("2 ")


def test_a_broken_toml_names_the_file(tmp_path: Path) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text("state_dir = [\n")
    message = start_refused("--config", str(config))
    assert str(config) in message
    assert message.startswith("2 ")


def test_an_unwritable_state_directory_is_named(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    # Root may write anywhere but into the kernel's own file system.
    place = Path("/sys/tallymark") if os.geteuid() == 0 else locked / "state"
    message = start_refused("--state-dir", str(place))
    assert message.startswith(f"1 tallymarkd: cannot use {place}")
    assert not place.exists()


def test_a_state_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    for given in (path, path / "below"):
        message = start_refused("--state-dir", str(given))
        assert message.startswith(
            f"2 tallymarkd: cannot use {given} as the state directory: Not a "
        )
    assert path.read_text() == "mine"
    socket = path / "run" / "tallymark.sock"
    message = start_refused("--state-dir", str(tmp_path / "state"), "--socket", str(socket))
    assert message.startswith(f"2 tallymarkd: cannot listen on {socket}: Not a directory")


def test_a_socket_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120) / "s"
    message = start_refused("--state-dir", str(tmp_path / "state"), "--socket", str(path))
    assert message.startswith("2 ")
    assert "107" in message or "103" in message


def test_a_file_in_the_way_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    message = start_refused("--state-dir", str(tmp_path / "state"), "--socket", str(path))
    assert str(path) in message
    assert path.read_text() == "mine"


def test_another_programs_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        message = start_refused("--state-dir", str(tmp_path / "state"), "--socket", str(path))
        assert "another program is listening" in message
        assert path.is_socket()


def test_http_posts_an_event_and_reads_health_and_state(daemon: Daemon) -> None:
    http = UnixHTTP(daemon.socket)
    event = {"type": "usage", "event_id": "e1", "agent_name": "sh", "input_tokens": 3, "new": 1}
    for expected in ((1, 0), (0, 1)):
        http.request("POST", "/v1/events?project=p", json.dumps(event))
        answer = http.getresponse()
        body = json.loads(answer.read())
        assert answer.status == 200, body
        assert (body["stored"], body["duplicate"]) == expected
        assert body["event_ids"] == ["e1"]
    http.request("GET", "/v1/health")
    answer = http.getresponse()
    assert answer.status == 200
    assert json.loads(answer.read())["status"] == "ok"
    http.request("GET", "/v1/state?project=p")
    state = json.loads(http.getresponse().read())
    assert state["total_tokens"] == 3
    http.close()


def test_curl_posts_an_event(daemon: Daemon) -> None:
    curl = ["curl", "--silent", "--show-error", "--unix-socket", str(daemon.socket)]
    event = json.dumps({"type": "run.end", "event_id": "r1", "agent_name": "sh"})
    try:
        found = subprocess.run(
            [*curl, "http://localhost/v1/events?project=p", "-d", event],
            capture_output=True, text=True, timeout=DEADLINE_SECONDS,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    assert json.loads(found.stdout)["stored"] == 1
    health = subprocess.run(
        [*curl, "http://localhost/v1/health"], capture_output=True, timeout=DEADLINE_SECONDS
    )
    assert json.loads(health.stdout)["status"] == "ok"


def test_health_tells_what_is_wrong_in_under_a_second(tmp_path: Path) -> None:
    path = tmp_path / "state" / "run" / "tallymark.sock"
    place = ("--socket", str(path))

    def attempt() -> tuple[Times, subprocess.CompletedProcess[str]]:
        began = time.monotonic()
        tallymark("--version")
        started = time.monotonic()
        found = tallymark(*place, "health")
        return {"health": (time.monotonic() - started) - (started - began)}, found

    def health(expected: int) -> str:
        found = quick({"health": HEALTH_SECONDS_MAX}, attempt)
        assert found.returncode == expected, found
        assert "Traceback" not in found.stderr
        return found.stdout + found.stderr

    with running(tmp_path / "state") as daemon:
        assert "ok" in health(0)
        wait_for("a probe", lambda: "ok" in tallymark(*place, "health", "--deep").stdout)
        daemon.signal(signal.SIGSTOP)
        stopped = health(2)
        daemon.signal(signal.SIGCONT)
        assert "ok" in health(0)
        daemon.kill()
        refused = health(2)
    path.unlink()
    absent = health(2)
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        foreign.listen()
        silent = health(2)
    assert len({stopped, refused, absent}) == 3
    for message in (stopped, refused, absent, silent):
        assert message.startswith(("tallymark: cannot", "failing", "cannot")), message
        assert str(path) in message


def test_reading_works_with_the_daemon_down(daemon: Daemon) -> None:
    with Client("p", socket=daemon.socket) as client:
        client.emit(RunEnd(agent_name="coding", input_tokens=10), durable=True)
    assert daemon.stop() == 0
    place = ("--state-dir", str(daemon.state_dir))
    found = tallymark(*place, "dump", "--project", "p")
    assert found.returncode == 0
    assert json.loads(found.stdout)["total_tokens"] == 10
    assert "not running" in found.stderr
    assert "coding" in tallymark(*place).stdout
    assert tallymark(*place, "status").returncode == 1


def test_a_directory_on_a_kept_lock_is_free_after_sigkill(daemon: Daemon) -> None:
    daemon.kill()
    daemon.start()
    wait_for("a daemon that is well", lambda: daemon.health().status == "ok")
