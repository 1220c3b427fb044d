from __future__ import annotations

from pathlib import Path

import pytest

from tallymark.errors import PathError
from tallymark.paths import SYSTEM_SOCKET, SYSTEM_STATE_DIR
from tallymarkd.cli.place import NoStateDir, Place

ENV = {"HOME": "/home/ada"}
USER_DIR = Path("/home/ada/.local/state/tallymark")
USER_SOCKET = USER_DIR / "run/tallymark.sock"


def place(state_dir: str | None = None, socket: str | None = None, **variables: str) -> Place:
    return Place(state_dir, socket, False, ENV | variables)


def test_by_default_the_users_then_the_systems() -> None:
    found = place()
    assert found.sockets() == [USER_SOCKET, SYSTEM_SOCKET]
    assert found.state_dirs() == [USER_DIR, SYSTEM_STATE_DIR]


def test_an_option_goes_before_a_variable_and_a_socket_before_a_state_directory() -> None:
    variables = {"TALLYMARK_SOCKET": "/v/s.sock", "TALLYMARK_STATE_DIR": "/v"}
    assert place("/o", "/o/s.sock", **variables).sockets() == [Path("/o/s.sock")]
    assert place("/o", **variables).sockets() == [Path("/o/run/tallymark.sock")]
    assert place(**variables).sockets() == [Path("/v/s.sock")]
    assert place(TALLYMARK_STATE_DIR="/v").sockets() == [Path("/v/run/tallymark.sock")]


def test_what_is_saved_is_looked_for_where_the_daemon_keeps_it() -> None:
    assert place("/o").state_dirs() == [Path("/o")]
    assert place("/o", "/x/s.sock").state_dirs() == [Path("/o")]
    assert place(TALLYMARK_STATE_DIR="/v").state_dirs() == [Path("/v")]
    assert place(None, "/v/run/tallymark.sock").state_dirs() == [Path("/v")]
    assert place(TALLYMARK_SOCKET="/v/run/tallymark.sock").state_dirs() == [Path("/v")]
    assert place(TALLYMARK_SOCKET="/v/x/../run/tallymark.sock").state_dirs() == [Path("/v")]
    assert place(None, str(SYSTEM_SOCKET)).state_dirs() == [SYSTEM_STATE_DIR]
    assert place(None, str(USER_SOCKET)).state_dirs() == [USER_DIR]


def test_of_socket_and_state_directory_the_options_say_more_than_the_variables() -> None:
    said = {"TALLYMARK_STATE_DIR": "/v"}
    assert place(None, "/o/run/tallymark.sock", **said).state_dirs() == [Path("/o")]
    assert place("/o", TALLYMARK_SOCKET="/x/run/tallymark.sock", **said).state_dirs() == [
        Path("/o")
    ]
    # As the daemon reads the two.
    assert place(TALLYMARK_SOCKET="/x/run/tallymark.sock", **said).state_dirs() == [Path("/v")]
    assert place(None, "/x/s.sock", **said).state_dirs() == [Path("/v")]
    assert place(TALLYMARK_SOCKET="/x/s.sock", **said).state_dirs() == [Path("/v")]


@pytest.mark.parametrize("socket", ["/x/s.sock", "/x/tallymark.sock", "/run/tallymark.sock"])
def test_a_socket_elsewhere_tells_no_state_directory(socket: str) -> None:
    for unclear in (place(None, socket), place(TALLYMARK_SOCKET=socket)):
        with pytest.raises(NoStateDir) as told:
            unclear.state_dirs()
        assert str(told.value) == (
            f"cannot tell which state directory belongs to {socket}; give --state-dir"
        )


def test_relative_and_home_paths_are_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    assert place("a/../b").sockets() == [tmp_path / "b/run/tallymark.sock"]
    assert place("~/s").state_dirs() == [Path("/home/ada/s")]


def test_a_path_that_is_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(PathError, match="bytes"):
        place("/" + "x" * 200).sockets()
