from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tallymarkd.server.peer import OVERFLOW_UID, is_root, peer_uid


def test_the_user_at_the_other_end() -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        assert peer_uid(here) == os.geteuid()
        assert peer_uid(there) == os.geteuid()


def test_a_socket_without_a_user_at_its_end_raises() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.close()
        with pytest.raises(OSError, match="descriptor"):
            peer_uid(sock)


OURS = "      1000       1000          1\n"
ALL = "         0          0 4294967295\n"


@pytest.mark.parametrize(
    ("uid", "mode", "known", "expected"),
    [
        pytest.param(0, 0o666, ALL, True, id="root"),
        pytest.param(1001, 0o600, OURS, False, id="somebody"),
        pytest.param(OVERFLOW_UID, 0o600, OURS, True, id="a stranger who came past 0600"),
        pytest.param(OVERFLOW_UID, 0o660, OURS, False, id="a stranger of the group"),
        pytest.param(OVERFLOW_UID, 0o602, OURS, False, id="a stranger of all"),
        pytest.param(OVERFLOW_UID, 0o600, ALL, False, id="nobody, where root is known"),
        pytest.param(OVERFLOW_UID, 0o600, "0 1000 1\n", False, id="root is known by itself"),
        pytest.param(OVERFLOW_UID, 0o600, "", False, id="no map"),
    ],
)
def test_who_is_root(tmp_path: Path, uid: int, mode: int, known: str, expected: bool) -> None:
    path = tmp_path / "t.sock"
    (tmp_path / "uid_map").write_text(known)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        path.chmod(mode)

        assert is_root(uid, path, tmp_path / "uid_map") is expected


def test_without_the_socket_nobody_but_root_is_root(tmp_path: Path) -> None:
    (tmp_path / "uid_map").write_text(OURS)

    assert is_root(0, tmp_path / "gone", tmp_path / "uid_map")
    assert not is_root(OVERFLOW_UID, tmp_path / "gone", tmp_path / "uid_map")
