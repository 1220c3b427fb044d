from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tallymark.errors import ConnectError, DeliveryError, RefusedError, StorageError
from tallymarkd.cli.asking import QuestionRefused
from tallymarkd.cli.holding import holding
from tallymarkd.cli.place import Place
from tallymarkd.core.holds import Held
from tests.fake_daemon import FakeDaemon, until

HELD = Held(durable_lsn=41, state_dir="/var/lib/tallymark", server_id="id", version="0.2")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "sock") as found:
        found.replies = {"hold": [msgspec.json.encode(HELD)]}
        yield found


def place(daemon: FakeDaemon) -> Place:
    return Place(None, str(daemon.path), False, os.environ)


def test_it_is_held_for_as_long_as_the_block_lasts(daemon: FakeDaemon) -> None:
    with holding(place(daemon)) as hold:
        assert hold.held == HELD
        hold.check()
        assert daemon._connections
    until(lambda: not daemon._connections)


def test_a_daemon_that_goes_away_is_noticed(daemon: FakeDaemon) -> None:
    with holding(place(daemon)) as hold:
        daemon.cut()
        until(lambda: not daemon._connections)
        with pytest.raises(StorageError, match=f"tallymarkd at {daemon.path} stopped while"):
            hold.check()


def test_an_older_daemon_is_told_from_one_that_refuses(daemon: FakeDaemon) -> None:
    daemon.knows_all_questions = False
    with (
        pytest.raises(StorageError, match=r"its version 0\.0\.9 is older .*; restart it with this"),
        holding(place(daemon)),
    ):
        pass
    daemon.refusal = "wrong_user"
    with pytest.raises(RefusedError, match="not you"), holding(place(daemon)):
        pass


def test_what_it_does_not_want_is_told(daemon: FakeDaemon) -> None:
    daemon.reply_error = "cannot hold history: only root may"
    with pytest.raises(QuestionRefused, match="only root may"), holding(place(daemon)):
        pass


def test_an_answer_that_says_nothing_is_not_understood(daemon: FakeDaemon) -> None:
    daemon.replies = {"hold": [b"[]"]}
    with pytest.raises(DeliveryError, match="cannot understand"), holding(place(daemon)):
        pass
    until(lambda: not daemon._connections)


def test_no_daemon_is_no_connection(tmp_path: Path) -> None:
    nobody = Place(None, str(tmp_path / "none"), False, os.environ)
    with pytest.raises(ConnectError), holding(nobody):
        pass
