from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tallymark.errors import UsageError
from tallymarkd.server.activation import adopt, inherited_socket, path_of

PID = 4711


def environment(**changes: str) -> dict[str, str]:
    return {"LISTEN_PID": str(PID), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "tallymarkd", **changes}


def test_nothing_is_handed_over_without_the_variables() -> None:
    assert inherited_socket({}, PID) is None


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"LISTEN_PID": "4712"}, id="for another process"),
        pytest.param({"LISTEN_PID": ""}, id="for nobody"),
        pytest.param({"LISTEN_FDS": "0"}, id="none"),
    ],
)
def test_what_is_not_for_us_is_left_alone(changes: dict[str, str]) -> None:
    env = environment(**changes) | {"PATH": "/bin"}

    assert inherited_socket(env, PID) is None
    assert env == {"PATH": "/bin"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LISTEN_FDS": "2"}, "cannot use 2 sockets of the service manager: one is right"),
        ({"LISTEN_FDS": "one"}, "cannot read LISTEN_FDS='one'"),
        ({"LISTEN_FDS": "-1"}, "cannot read LISTEN_FDS='-1'"),
        ({"LISTEN_FDS": "²"}, "cannot read LISTEN_FDS"),
        ({"LISTEN_FDNAMES": "http"}, "cannot use the socket 'http' of the service manager"),
        ({"LISTEN_FDNAMES": "tallymarkd:http"}, "cannot use the socket 'tallymarkd:http'"),
    ],
)
def test_what_cannot_be_right_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        inherited_socket(environment(**changes), PID)


@pytest.mark.parametrize("names", ["tallymarkd", "tallymarkd.socket", "unknown", None])
def test_the_third_descriptor_is_taken_by_its_process(tmp_path: Path, names: str | None) -> None:
    """In a process of its own, since file descriptor 3 here is somebody else's."""
    program = """
        import os, socket, sys
        from tallymarkd.server.activation import inherited_socket, path_of
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(sys.argv[1])
        sock.listen()
        os.dup2(sock.fileno(), 3, inheritable=True)
        env = dict(os.environ, LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
        if len(sys.argv) > 2:
            env["LISTEN_FDNAMES"] = sys.argv[2]
        found = inherited_socket(env, os.getpid())
        assert found is not None and found.fileno() == 3
        assert not found.getblocking() and not found.get_inheritable()
        print(path_of(found), [name for name in env if name.startswith("LISTEN_")])
    """
    path = str(tmp_path / "t.sock")
    arguments = [path] if names is None else [path, names]

    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
    )

    assert (ended.stderr, ended.stdout) == ("", f"{path} []\n")


def test_a_listening_socket_is_adopted(sock: socket.socket, tmp_path: Path) -> None:
    with adopt(os.dup(sock.fileno())) as found:
        assert path_of(found) == tmp_path / "t.sock"
        assert not found.getblocking()
        assert not found.get_inheritable()


def test_what_is_no_listening_unix_socket_is_refused(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_INET) as inet,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as deaf,
        socket.socket(socket.AF_UNIX) as nameless,
        (tmp_path / "file").open("w") as file,
    ):
        deaf.bind(str(tmp_path / "deaf"))
        nameless.bind("\0tallymark-test-" + str(os.getpid()))
        nameless.listen()
        for fd, why in {
            inet.fileno(): "it is of the family AF_INET",
            datagrams.fileno(): "it is of the type SOCK_DGRAM",
            deaf.fileno(): "it does not listen",
            nameless.fileno(): "it has no path",
            file.fileno(): "a listening Unix",
        }.items():
            with pytest.raises(UsageError, match=why):
                adopt(fd)
            os.fstat(fd)  # it was not closed under its owner


def test_a_descriptor_that_is_not_open_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot use file descriptor 987654"):
        adopt(987654)
