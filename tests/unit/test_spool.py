"""A spool: durable when it says so, read in order, damage named, locked while it is owned."""

from __future__ import annotations

import errno
import itertools
import random
from pathlib import Path

import msgspec
import pytest

from tallymark.errors import DamagedError, StorageError
from tallymark.fs import OsFileSystem
from tallymark.protocol import messages
from tallymark.protocol.messages import Publish, Skip
from tallymark.protocol.outbox import FrozenBatch, Outbox
from tallymark.spool import Spool, SpoolFull, remove_unfinished, spool_paths
from tallymark.spool_header import RECORDS_OFFSET, SpoolHeader
from tests.faulty_fs import FaultyFs, Killed
from tests.journals import flipped, zeroed
from tests.memory_fs import MemoryFs

PRODUCER = "0194a0b2-0000-7000-8000-000000000001"
DIRECTORY = Path("/home/state/spool")
PATH = DIRECTORY / f"{PRODUCER}.spool"
WIDE = 10**9


def create(fs: MemoryFs | FaultyFs, server_id: str = "", producer: str = PRODUCER) -> Spool:
    header = SpoolHeader(producer, "spotter", server_id, ("/s.sock",))
    return Spool.create(
        fs, DIRECTORY, header, random_bytes=random.Random(1).randbytes, clock_ns=lambda: 7
    )


def batches(count: int, first: int = 1, size: int = 50) -> list[FrozenBatch]:
    outbox = Outbox(next_seq=first)
    array = msgspec.msgpack.encode(["x" * size])
    for _ in range(count):
        outbox.freeze(array, 1)
    return outbox.newer(0)


def read(spool: Spool) -> list[FrozenBatch]:
    found = []
    while spool.unread:
        batch = spool.next_batch()
        if batch is not None:
            found.append(batch)
    return found


def message(batch: FrozenBatch) -> messages.ClientMessage:
    return messages.decode_client(batch.frame[4:])


def adopted(fs: MemoryFs) -> Spool:
    spool = Spool.adopt(fs, PATH)
    assert spool is not None
    return spool


def test_what_was_appended_is_read_back_to_the_byte() -> None:
    fs = MemoryFs()
    spool = create(fs)
    outbox = Outbox()
    sent = [outbox.freeze(msgspec.msgpack.encode(["a", "b"]), 2), outbox.skip(5, "queue_full")]
    spool.append(sent, WIDE)
    more = batches(2, first=3)
    spool.append(more, WIDE)
    assert read(spool) == sent + more
    assert not spool.unread
    spool.append(batches(1, first=5), WIDE)
    assert [batch.seq for batch in read(spool)] == [5]


def test_what_was_appended_survives_a_power_cut_and_its_owner() -> None:
    fs = MemoryFs()
    sent = batches(5)
    create(fs, "server-1").append(sent, WIDE)
    for seed in range(20):
        left = fs.after_power_cut(random.Random(seed))
        spool = adopted(left)
        assert read(spool) == sent
        assert (spool.header.project, spool.header.server_id) == ("spotter", "server-1")


@pytest.mark.parametrize("done", [False, True])
def test_killed_anywhere_all_that_was_promised_is_there(done: bool) -> None:
    """What ``append`` returned for is there whole; nothing comes that was not sent."""
    sent = batches(6, size=700)
    for step in itertools.count():
        disk = MemoryFs()
        fs = FaultyFs(disk)
        fs.kill(step, done=done)
        promised = 0
        try:
            spool = create(fs)
            for end in (2, 3, 6):
                spool.append(sent[promised:end], WIDE)
                promised = end
        except Killed:
            pass
        else:
            break
        for seed in range(6):
            left = disk.after_power_cut(random.Random(seed))
            names = spool_paths(left, DIRECTORY)
            assert names or not promised
            found = read(adopted(left)) if names else []
            assert found[:promised] == sent[:promised]
            # Of what was being written, some may be whole behind what is torn.
            seqs = [batch.seq for batch in found]
            assert seqs == sorted(seqs)
            assert all(batch in sent for batch in found if batch.events)
    assert step > 8


def test_a_binding_is_known_before_anything_is_read() -> None:
    fs = MemoryFs()
    spool = create(fs)
    spool.append(batches(2), WIDE)
    spool.bind("server-1")
    spool.bind("server-1")
    spool.append(batches(1, first=3), WIDE)
    size = spool.size_bytes
    again = adopted(fs.after_kill())
    assert again.header.server_id == "server-1"
    assert [batch.seq for batch in read(again)] == [1, 2, 3]
    spool.bind("server-1")
    assert spool.size_bytes == size


def test_a_torn_end_is_cut_and_what_follows_is_whole() -> None:
    fs = MemoryFs()
    sent = batches(3)
    create(fs).append(sent, WIDE)
    data = fs.content(PATH)
    for end in range(len(data) - 1, len(data) - 120, -7):
        disk = fs.after_kill()
        disk.overwrite(PATH, data[:end])
        spool = adopted(disk)
        spool.bind("server-1")
        spool.append(batches(1, first=3), WIDE)
        again = adopted(disk.after_kill())
        assert [batch.seq for batch in read(again)] == [1, 2, 3]
        assert again.header.server_id == "server-1"


def test_a_damaged_record_is_skipped_and_named() -> None:
    """With its header whole its events are counted; without, its seqs are known by the next."""
    fs = MemoryFs()
    sent = batches(4)
    create(fs).append(sent, WIDE)
    data = fs.content(PATH)
    size = (len(data) - RECORDS_OFFSET) // 4
    for at, events in ((RECORDS_OFFSET + size + 90, 1), (RECORDS_OFFSET + size + 30, 0)):
        disk = fs.after_kill()
        disk.overwrite(PATH, flipped(data, at))
        found = read(adopted(disk))
        assert [batch.seq for batch in found] == [1, 2, 3, 4]
        assert message(found[1]) == Skip(
            from_seq=2, through_seq=2, events=events, reason="spool_damaged"
        )
        assert isinstance(message(found[2]), Publish)


def test_several_damaged_records_are_one_skip() -> None:
    fs = MemoryFs()
    create(fs).append(batches(5), WIDE)
    data = fs.content(PATH)
    size = (len(data) - RECORDS_OFFSET) // 5
    fs.overwrite(PATH, zeroed(data, RECORDS_OFFSET + size, 2 * size))
    found = read(adopted(fs.after_kill()))
    assert [batch.seq for batch in found] == [1, 3, 4, 5]
    assert message(found[1]) == Skip(
        from_seq=2, through_seq=3, events=0, reason="spool_damaged"
    )  # fmt: skip


def test_any_byte_that_changes_loses_one_batch_at_most_and_names_it() -> None:
    fs = MemoryFs()
    sent = batches(4, size=10)
    create(fs).append(sent, WIDE)
    data = fs.content(PATH)
    for at in range(RECORDS_OFFSET, len(data)):
        disk = fs.after_kill()
        disk.overwrite(PATH, flipped(data, at))
        found = read(adopted(disk))
        whole = [batch for batch in found if batch in sent]
        assert len(whole) >= 3
        # Of the last record, with its header gone, nothing tells that it was there.
        named = [batch.seq for batch in found]
        assert named in ([1, 2, 3, 4], [1, 2, 3])
        assert named == [1, 2, 3, 4] or at >= len(data) - len(data[RECORDS_OFFSET:]) // 4


def test_after_an_orderly_end_the_last_batch_is_missed_as_well() -> None:
    fs = MemoryFs()
    sent = batches(4, size=10)
    spool = create(fs)
    spool.append(sent, WIDE)
    length = len(fs.content(PATH))
    spool.seal()
    spool.close()
    assert read(adopted(fs.after_kill())) == sent
    data = fs.content(PATH)
    for at in range(RECORDS_OFFSET, length):
        disk = fs.after_kill()
        disk.overwrite(PATH, flipped(data, at))
        found = read(adopted(disk))
        assert [batch.seq for batch in found] == [1, 2, 3, 4]
        assert sum(batch in sent for batch in found) >= 3


def test_a_seal_that_cannot_be_written_changes_nothing() -> None:
    disk = MemoryFs()
    fs = FaultyFs(disk)
    sent = batches(2)
    spool = create(fs)
    spool.append(sent, WIDE)
    fs.fail("write", errno.ENOSPC)
    spool.seal()
    assert read(adopted(disk.after_kill())) == sent


def test_without_room_it_is_as_it_was() -> None:
    disk = MemoryFs()
    fs = FaultyFs(disk)
    spool = create(fs)
    spool.append(batches(1), WIDE)
    size = spool.size_bytes
    with pytest.raises(SpoolFull, match="cannot spool more"):
        spool.append(batches(1, first=2), size + 10)
    for written in (0, 60):
        fs.fail("write", errno.ENOSPC, written=written)
        with pytest.raises(SpoolFull, match="No space left"):
            spool.append(batches(3, first=2), WIDE)
    fs.heal()
    spool.append(batches(1, first=2), WIDE)
    assert [batch.seq for batch in read(spool)] == [1, 2]
    assert [batch.seq for batch in read(adopted(disk.after_kill()))] == [1, 2]


def test_what_has_no_room_is_not_even_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = create(MemoryFs())
    sent = batches(4)
    spool.append(sent[:1], WIDE)
    each = spool.size_bytes - RECORDS_OFFSET
    bytes_max = RECORDS_OFFSET + 3 * each
    assert spool.room_for(sent[1:], bytes_max) == 2
    assert spool.room_for(sent[1:], bytes_max - 1) == 1
    assert spool.room_for([], 0) == 0
    monkeypatch.setattr("tallymark.spool.append_record", None)
    with pytest.raises(SpoolFull):
        spool.append(sent[1:], bytes_max)
    monkeypatch.undo()
    spool.append(sent[1:3], bytes_max)
    assert spool.size_bytes == bytes_max


def test_a_spool_that_cannot_begin_leaves_nothing() -> None:
    disk = MemoryFs()
    fs = FaultyFs(disk)
    fs.fail("write", errno.ENOSPC)
    with pytest.raises(SpoolFull, match="cannot begin a spool"):
        create(fs)
    fs.fail("sync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        create(fs)
    assert disk.names(DIRECTORY) == []
    create(fs)


def test_one_that_no_reader_would_take_is_not_begun() -> None:
    fs = MemoryFs()
    header = SpoolHeader(PRODUCER, "p", sockets=("/" + "x" * 5000,))
    with pytest.raises(StorageError, match="too long for its header"):
        Spool.create(fs, DIRECTORY, header)
    assert fs.names(DIRECTORY) == []


OTHER = PRODUCER.replace("1", "2")


def test_what_was_left_by_one_who_died_while_beginning_is_removed_by_the_next() -> None:
    disk = MemoryFs()
    fs = FaultyFs(disk)
    fs.kill(0, kind="replace")
    with pytest.raises(Killed):
        create(fs, producer=OTHER)
    disk = disk.after_kill()
    assert disk.names(DIRECTORY) == [f"{OTHER}.tmp"]
    create(disk)
    assert disk.names(DIRECTORY) == [PATH.name]


def test_only_what_nobody_is_beginning_and_can_be_nothing_else_is_removed() -> None:
    fs = MemoryFs()
    fs.mkdir(DIRECTORY)
    beginning = DIRECTORY / f"{OTHER}.tmp"
    fd = fs.lock(beginning)
    for name in ("notes.tmp", PRODUCER.upper() + ".tmp", PRODUCER):
        fs.close(fs.create(DIRECTORY / name))
    before = fs.names(DIRECTORY)
    remove_unfinished(fs, DIRECTORY)
    assert fs.names(DIRECTORY) == before
    fs.close(fd)
    remove_unfinished(fs, DIRECTORY)
    assert fs.names(DIRECTORY) == sorted(set(before) - {beginning.name})
    remove_unfinished(fs, DIRECTORY / "nowhere")


def test_removed_it_is_gone_for_good() -> None:
    fs = MemoryFs()
    spool = create(fs)
    spool.append(batches(1), WIDE)
    spool.remove()
    for seed in range(5):
        assert spool_paths(fs.after_power_cut(random.Random(seed)), DIRECTORY) == []


def test_while_it_has_an_owner_nobody_else_gets_it() -> None:
    fs = MemoryFs()
    spool = create(fs)
    assert Spool.adopt(fs, PATH) is None
    spool.close()
    adopted(fs)


def test_what_is_gone_or_no_spool(tmp_path: Path) -> None:
    fs = MemoryFs()
    assert spool_paths(fs, DIRECTORY) == []
    create(fs).close()
    fs.unlink(PATH)
    assert Spool.adopt(fs, PATH) is None
    # Descriptors are closed when it fails.
    real = tmp_path / "x.spool"
    real.write_bytes(b"something else")
    with pytest.raises(DamagedError):
        Spool.adopt(OsFileSystem(), real)
    with pytest.raises(DamagedError):
        Spool.adopt(OsFileSystem(), real)


def test_only_finished_spools_are_listed() -> None:
    fs = MemoryFs()
    create(fs)
    fs.close(fs.create(DIRECTORY / "half.tmp"))
    fs.close(fs.create(DIRECTORY / "other.damaged"))
    assert spool_paths(fs, DIRECTORY) == [PATH]
