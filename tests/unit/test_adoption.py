"""Spools without owners are delivered under their own producer and seq, once."""

from __future__ import annotations

import logging
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tallymark.adoption import DAMAGED_SUFFIX, Adopted, Adopter
from tallymark.fs import OsFileSystem
from tallymark.protocol.messages import Ack, Refused, Skip
from tallymark.protocol.outbox import FrozenBatch, Outbox
from tallymark.spool import Spool
from tallymark.spool_header import FORMAT, MAGIC, RECORDS_OFFSET, SpoolHeader
from tests.fake_daemon import FakeDaemon, Producer
from tests.journals import flipped

FS = OsFileSystem()
PRODUCERS = [f"0194a0b2-0000-7000-8000-{number:012d}" for number in range(1, 30)]
WIDE = 10**9


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "s.sock") as daemon:
        yield daemon
        assert not daemon.wrong


def batches(name: str, count: int, first: int = 1) -> list[FrozenBatch]:
    outbox = Outbox(next_seq=first)
    for number in range(first, first + count):
        event = {"type": "usage", "event_id": f"{name}-{number}", "attrs": {"x": "y" * 3000}}
        outbox.freeze(msgspec.msgpack.encode([event]), 1)
    return outbox.newer(0)


def leave(
    daemon: FakeDaemon, name: str = "a", count: int = 3, *, first: int = 1, server_id: str = "",
    sockets: tuple[str, ...] | None = None, keep: bool = False,
) -> Spool:  # fmt: skip
    """A spool whose owner is gone."""
    header = SpoolHeader(
        PRODUCERS["abcdefghij".index(name)], "p", server_id,
        (str(daemon.path),) if sockets is None else sockets, first,
    )  # fmt: skip
    spool = Spool.create(FS, daemon.path.parent / "spool", header)
    spool.append(batches(name, count, first), WIDE)
    if not keep:
        spool.close()
    return spool


def adopter(daemon: FakeDaemon) -> Adopter:
    return Adopter(FS, daemon.path.parent / "spool", [daemon.path], client="test")


def adopt(daemon: FakeDaemon) -> Adopted:
    return adopter(daemon).run()


def counts(adopted: Adopted) -> tuple[int, int, int]:
    """Spools and events delivered, spools left."""
    return adopted.spools, adopted.events, len(adopted.left)


def ids(daemon: FakeDaemon, name: str) -> list[str]:
    producer = daemon.producers.get(PRODUCERS["abcdefghij".index(name)])
    return [event["event_id"] for event in producer.events] if producer else []


def test_each_is_delivered_under_its_own_name_and_is_gone(daemon: FakeDaemon) -> None:
    left = [leave(daemon, name) for name in "abc"]
    assert counts(adopt(daemon)) == (3, 9, 0)
    for name in "abc":
        assert ids(daemon, name) == [f"{name}-{n}" for n in (1, 2, 3)]
    assert not any(spool.path.exists() for spool in left)
    daemon.wait(lambda: all(producer.goodbye for producer in daemon.producers.values()))
    assert {hello.project for hello in daemon.hellos} == {"p"}
    assert adopt(daemon) == Adopted()


@pytest.mark.parametrize("durable", [2, 3])
def test_what_the_daemon_has_is_not_sent_again(daemon: FakeDaemon, durable: int) -> None:
    """The owner had delivered some; or an adopter died between the Ack and the unlink."""
    spool = leave(daemon, "a")
    producer = daemon.producers[PRODUCERS[0]] = Producer()
    producer.durable_seq = producer.kept_seq = durable
    assert adopt(daemon).spools == 1
    assert sorted(producer.batches) == list(range(durable + 1, 4))
    daemon.wait(lambda: producer.goodbye)
    assert not spool.path.exists()


def test_a_large_one_goes_through_a_small_window(daemon: FakeDaemon) -> None:
    daemon.limits = msgspec.structs.replace(daemon.limits, unacknowledged_bytes_max=10_000)
    leave(daemon, "a", 200)
    assert adopt(daemon).events == 200
    assert ids(daemon, "a") == [f"a-{n}" for n in range(1, 201)]


def test_the_living_keep_theirs(daemon: FakeDaemon) -> None:
    spool = leave(daemon, "a", keep=True)
    assert adopt(daemon) == Adopted()
    assert not daemon.hellos
    spool.close()
    assert adopt(daemon).spools == 1


def test_another_daemons_is_left(daemon: FakeDaemon) -> None:
    """By its server_id where it spoke to one, else by where it looked for one."""
    others = [
        leave(daemon, "a", server_id="server-9"),
        leave(daemon, "b", sockets=("/elsewhere.sock",)),
    ]
    mine = leave(daemon, "c", server_id="server-1", sockets=("/elsewhere.sock",))
    before = [spool.path.read_bytes() for spool in others]
    assert counts(adopt(daemon)) == (1, 3, 2)
    assert [spool.path.read_bytes() for spool in others] == before
    assert not mine.path.exists()
    assert ids(daemon, "a") == ids(daemon, "b") == []


def test_once_it_was_spoken_of_to_a_daemon_it_is_for_no_other(daemon: FakeDaemon) -> None:
    spool = leave(daemon, "a")
    daemon.nacks = [("disk_full", 1.0)]
    assert len(adopt(daemon).left) == 1
    daemon.server_id = "server-2"
    assert counts(adopt(daemon)) == (0, 0, 1)
    daemon.server_id = "server-1"
    assert adopt(daemon).spools == 1
    assert not spool.path.exists()


@pytest.mark.parametrize("trouble", ["refused", "not ready", "silent", "cut", "away"])
def test_what_cannot_be_delivered_now_is_kept(daemon: FakeDaemon, trouble: str) -> None:
    spool = leave(daemon, "a")
    match trouble:
        case "refused":
            daemon.refusal = "wrong_user"
        case "not ready":
            daemon.greeting_nack = ("overloaded", 1.0)
        case "silent":
            daemon.welcomes = False
        case "cut":
            daemon.cuts_before_ack = 1
        case "away":
            daemon.stop()
    clock = iter(range(0, 10_000, 4))
    found = Adopter(
        FS, spool.path.parent, [daemon.path], client="test", clock=lambda: float(next(clock))
    )
    assert counts(found.run()) == (0, 0, 1)
    daemon.refusal, daemon.greeting_nack, daemon.welcomes = None, None, True
    if trouble == "away":
        daemon.start()
    assert adopt(daemon).spools == 1
    assert ids(daemon, "a") == ["a-1", "a-2", "a-3"]


def test_why_one_is_left_is_logged_once(
    daemon: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tallymark")
    spool = leave(daemon, "a", server_id="server-9")
    found = adopter(daemon)

    for _ in range(3):
        assert found.run().left == {spool.path: "it belongs to the daemon server-9"}
    assert len(caplog.messages) == 1
    assert str(spool.path) in caplog.messages[0]

    daemon.refusal = "wrong_user"
    found.run()
    found.run()
    assert len(caplog.messages) == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (b"cannot serve uid 5: this daemon serves uid 0\n", "turned the connection away: cannot"),
        (None, r"refused it: another goes on \(fenced\)"),
    ],
)
def test_the_daemons_last_word_says_why(daemon: FakeDaemon, words: bytes | None, why: str) -> None:
    daemon.first_words = words
    daemon.last_word = Refused(code="fenced", message="another goes on")
    leave(daemon, count=2000)
    (told,) = adopt(daemon).left.values()
    assert re.search(why, told)


def test_one_that_went_and_is_left_again_is_named_again(
    daemon: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    """What is gone is forgotten: else a daemon would remember every spool that it ever saw."""
    caplog.set_level(logging.INFO, "tallymark")
    found = adopter(daemon)
    for _ in range(2):
        spool = leave(daemon, "a", server_id="server-9")
        found.run()
        spool.path.unlink()
        found.run()
    assert len(caplog.messages) == 2


def test_one_whose_project_no_daemon_can_be_told_is_left(daemon: FakeDaemon) -> None:
    """A writer in another language may have made it; it must not end who looks."""
    header = SpoolHeader(PRODUCERS[0], "lone \udcff", "", (str(daemon.path),), 1)
    Spool.create(FS, daemon.path.parent / "spool", header).close()
    leave(daemon, "b")
    assert counts(adopt(daemon)) == (1, 3, 1)


def test_what_the_daemon_rejected_of_it_is_counted(daemon: FakeDaemon) -> None:
    leave(daemon, "a")
    daemon.answer = lambda publish: Ack(
        through_seq=publish.seq, rejected=1, reasons={"missing_field": 1}
    )
    adopted = adopt(daemon)
    assert adopted.events == 3
    assert adopted.rejected == {"missing_field": 3}


def test_what_is_damaged_is_named(daemon: FakeDaemon) -> None:
    spool = leave(daemon, "a")
    data = spool.path.read_bytes()
    size = (len(data) - RECORDS_OFFSET) // 3
    spool.path.write_bytes(flipped(data, RECORDS_OFFSET + size + 100))
    assert adopt(daemon).spools == 1
    assert ids(daemon, "a") == ["a-1", "a-3"]
    assert daemon.producer.skips == [
        Skip(from_seq=2, through_seq=2, events=1, reason="spool_damaged")
    ]


def test_a_header_that_nobody_can_read_is_put_aside(
    daemon: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    spool = leave(daemon, "a")
    other = leave(daemon, "b")
    data = flipped(spool.path.read_bytes(), 30)
    spool.path.write_bytes(data)
    for _ in range(2):
        adopt(daemon)
    assert spool.path.with_suffix(DAMAGED_SUFFIX).read_bytes() == data
    assert not other.path.exists()
    assert sum("what it held is lost" in message for message in caplog.messages) == 1


def test_a_newer_format_is_left_untouched(
    daemon: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tallymark")
    version = struct.pack("<8sHH", MAGIC, FORMAT + 1, FORMAT + 1)
    data = (version + struct.pack("<I", zlib.crc32(version))).ljust(RECORDS_OFFSET, b"\0")
    path = daemon.path.parent / "spool" / "newer.spool"
    path.parent.mkdir()
    path.write_bytes(data)
    assert counts(adopt(daemon)) == (0, 0, 1)
    assert path.read_bytes() == data
    assert f"needs a reader of {FORMAT + 1}" in caplog.text


def test_other_things_in_the_directory_are_left_alone(daemon: FakeDaemon) -> None:
    spool = leave(daemon, "a")
    directory = spool.path.parent
    (directory / "folder.spool").mkdir()
    (directory / "link.spool").symlink_to(spool.path)
    (directory / "notes.txt").write_text("mine")
    assert counts(adopt(daemon)) == (1, 3, 2)
    assert sorted(path.name for path in directory.iterdir()) == [
        "folder.spool", "link.spool", "notes.txt",
    ]  # fmt: skip


def test_it_stops_when_told_to(daemon: FakeDaemon) -> None:
    for name in "abc":
        leave(daemon, name)
    daemon.acks = False
    stop = threading.Event()
    done: list[Adopted] = []
    adopter = Adopter(FS, daemon.path.parent / "spool", [daemon.path], client="test")
    thread = threading.Thread(target=lambda: done.append(adopter.run(stop.is_set)))
    thread.start()
    daemon.wait(lambda: daemon.events)
    stop.set()
    thread.join(30)
    assert [counts(each) for each in done] == [(0, 0, 1)]


def test_two_at_once_share_the_work(daemon: FakeDaemon) -> None:
    for name in "abcdefghij":
        leave(daemon, name, 20)
    found: list[Adopted] = []
    threads = [threading.Thread(target=lambda: found.append(adopt(daemon))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(each.spools for each in found) == 10
    assert len(daemon.events) == 200
