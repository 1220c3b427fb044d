"""The daemon looks for spools at once, again after a pause, and says what came of it."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallymark.adoption import Adopted, Adopter
from tallymark.fs import OsFileSystem
from tallymarkd.adopting import Adopting, spooled_producers, told
from tests.daemon_parts import until
from tests.fake_daemon import FakeDaemon
from tests.unit.test_adoption import leave


def adopting(daemon: FakeDaemon, directory: Path, pause_seconds: float = 3600.0) -> Adopting:
    return Adopting(OsFileSystem(), directory, daemon.path, pause_seconds=pause_seconds)


async def until_gone(path: Path) -> None:
    await until(lambda: not path.exists(), f"the end of {path}")


def test_at_once_and_again_after_a_pause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tallymarkd")

    async def work(daemon: FakeDaemon) -> None:
        first = leave(daemon, "a")
        found = adopting(daemon, first.path.parent, pause_seconds=0.001)
        found.start()
        await until_gone(first.path)
        await until_gone(leave(daemon, "b").path)
        found.stop()

    with FakeDaemon(tmp_path / "s.sock") as daemon:
        asyncio.run(work(daemon))
        assert len(daemon.events) == 6
    assert "delivered 1 spool that an agent left behind: 3 events" in caplog.messages[0]


def test_what_was_left_by_one_who_died_while_beginning_a_spool_is_removed(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "spool"
    directory.mkdir()
    unfinished = directory / f"{uuid.uuid4()}.tmp"
    unfinished.touch()

    async def work(daemon: FakeDaemon) -> None:
        found = adopting(daemon, directory)
        found.start()
        await until_gone(unfinished)
        found.stop()

    with FakeDaemon(tmp_path / "s.sock") as daemon:
        asyncio.run(work(daemon))


def test_stopped_it_begins_nothing_more(tmp_path: Path) -> None:
    async def work(daemon: FakeDaemon) -> None:
        spool = leave(daemon, "a")
        found = adopting(daemon, spool.path.parent)
        found.start()
        await until_gone(spool.path)
        found.stop()
        leave(daemon, "b")

    with FakeDaemon(tmp_path / "s.sock") as daemon:
        asyncio.run(work(daemon))
        assert [event["event_id"][0] for event in daemon.events] == ["a"] * 3


def test_what_waits_for_another_daemon_is_known(tmp_path: Path) -> None:
    async def work(daemon: FakeDaemon) -> None:
        spool = leave(daemon, "a", server_id="server-9")
        found = adopting(daemon, spool.path.parent)
        assert not found.waiting
        found.start()
        await until(lambda: bool(found.waiting), "a round")
        assert found.waiting == {spool.path: "it belongs to the daemon server-9"}
        found.stop()

    with FakeDaemon(tmp_path / "s.sock") as daemon:
        asyncio.run(work(daemon))


def test_what_was_rejected_of_a_spool_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tallymarkd")

    told(Adopted(spools=2, events=8, rejected=Counter(missing_field=2)))

    assert caplog.messages == [
        "delivered 2 spools that agents left behind: 8 events; rejected: 2 missing_field"
    ]
    assert caplog.records[0].levelname == "WARNING"


def test_a_directory_that_cannot_be_read_is_told_and_no_reason_to_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()

    async def work(daemon: FakeDaemon) -> None:
        found = adopting(daemon, tmp_path / "file")
        found.start()
        await until(lambda: bool(caplog.messages), "a warning")
        found.stop()

    with FakeDaemon(tmp_path / "s.sock") as daemon:
        asyncio.run(work(daemon))
    assert f"cannot look for spools in {tmp_path / 'file'}" in caplog.text


def test_a_producer_is_known_by_its_spool(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s.sock") as daemon:
        path = leave(daemon, "a").path
    (path.parent / "other.damaged").touch()

    assert spooled_producers(OsFileSystem(), path.parent) == {path.stem}
    assert str(uuid.UUID(path.stem)) == path.stem
    assert spooled_producers(OsFileSystem(), tmp_path / "gone") == set()
    assert spooled_producers(OsFileSystem(), path) is None


def test_a_spool_on_which_the_program_fails_is_told_and_no_reason_to_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in that directory is others' to write."""
    run = Adopter.run
    failures = [ValueError("no text at all")]

    def once(adopter: Adopter, is_stopped: Callable[[], bool]) -> Adopted:
        if failures:
            raise failures.pop()
        return run(adopter, is_stopped)

    monkeypatch.setattr(Adopter, "run", once)
    unhandled: list[dict[str, Any]] = []

    async def work(daemon: FakeDaemon) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: unhandled.append(told))
        spool = leave(daemon, "a")
        found = adopting(daemon, spool.path.parent, pause_seconds=0.001)
        found.start()
        await until_gone(spool.path)
        found.stop()

    with FakeDaemon(tmp_path / "s.sock") as daemon:
        asyncio.run(work(daemon))
    assert unhandled == []
    assert "cannot deliver the spools in" in caplog.messages[0]
    assert caplog.records[0].exc_info is not None
    assert "no text at all" in caplog.text
