"""Streams that are closed or full, as a shell makes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.fake_daemon import FakeDaemon

EMIT = "emit --type usage --event-id e-1"
NEEDS_FULL = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="not on this platform: there is no /dev/full"
)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "d.sock"


def shell(socket: Path, command: str) -> tuple[int, str, str]:
    """What ``tallymark`` with these arguments and redirections gives."""
    program = "import sys; from tallymarkd.cli import main; main()"
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$0" -c "$1" {command}', sys.executable, program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HOME": str(socket.parent),
            "PATH": os.defpath,
            "TALLYMARK_SOCKET": str(socket),
        },
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "command",
    [f"{EMIT} >&-", f"{EMIT} 2>&- >&-", f"{EMIT} <&- >&- 2>&-", "--version >&-", "--json >&-"],
)
def test_a_closed_stream_is_none_of_our_business(socket: Path, command: str) -> None:
    with FakeDaemon(socket) as daemon:
        daemon.replies = {"projects": [b"[]"]}
        assert shell(socket, command) == (0, "", "")
        assert len(daemon.events) == command.startswith("emit")


def test_nothing_comes_from_a_closed_stdin(socket: Path) -> None:
    with FakeDaemon(socket):
        assert shell(socket, "emit - <&-") == (0, "0 stored, 0 known already\n", "")


def test_a_number_that_is_free_goes_to_no_file_and_no_socket_of_ours(socket: Path) -> None:
    program = (
        "import os\nfrom tallymarkd.streams import provide_streams\n"
        "provide_streams()\nopened = os.open('/', os.O_RDONLY)\n"
        "os.write(opened and 1, b'')\nos._exit(opened)"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -c "$1" <&- >&-', sys.executable, program],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
    )
    assert done.stderr == b""
    assert done.returncode >= 3


@NEEDS_FULL
@pytest.mark.parametrize("command", [EMIT, f"{EMIT} --json", "emit -"])
def test_what_is_stored_and_cannot_be_printed_is_not_said_to_have_failed(
    socket: Path, command: str
) -> None:
    with FakeDaemon(socket):
        code, _, err = shell(socket, f"{command} >/dev/full")
    assert (code, err) == (
        0,
        "cannot print the result: No space left on device; the exit code tells what became of it\n",
    )


@NEEDS_FULL
def test_what_is_spooled_and_can_be_told_nowhere_is_75(socket: Path) -> None:
    assert shell(socket, f"{EMIT} >/dev/full 2>/dev/full")[0] == 75


@NEEDS_FULL
@pytest.mark.parametrize("command", ["--version", "--json"])
def test_what_only_prints_and_cannot_is_1(socket: Path, command: str) -> None:
    with FakeDaemon(socket) as daemon:
        daemon.replies = {"projects": [b"[]"]}
        code, _, err = shell(socket, f"{command} >/dev/full")
    assert (code, err) == (1, "tallymark: cannot print: No space left on device\n")


def test_a_daemon_lives_without_streams_and_gives_their_numbers_to_nothing(tmp_path: Path) -> None:
    script = 'exec "$0" "$@" <&- >&- 2>&-'
    daemon = Daemon(tmp_path / "state", under=("/bin/sh", "-c", script))
    try:
        daemon.start()
        assert daemon.process is not None
        held = [os.readlink(f"/proc/{daemon.process.pid}/fd/{number}") for number in (0, 1, 2)]
        assert held == [os.devnull] * 3
        assert daemon.stop() == 0
    finally:
        daemon.kill()
