from __future__ import annotations

import os
import socket

import pytest

from tallymarkd.server.peer import peer_uid


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
