"""The bytes of the journal, frozen: written so for ever, and read for ever.

``journal/*.hex`` are segments as lines of offset and 16 bytes, lines of zeros
left out, the file's length at the end. The first is of a fresh journal; the
second is what recovery makes of it after an unclean stop with a damaged record.
"""

from __future__ import annotations

from pathlib import Path

from tallymark.record import Kind, Record
from tallymarkd.storage.segment import SegmentHeader, decode_header, walk
from tests.golden.hexdump import dump, undump
from tests.journals import JOURNAL, Machine, commit, segment
from tests.memory_fs import MemoryFs

FOLDER = Path(__file__).parent / "journal"
FRESH = FOLDER / "fresh.hex"
RECOVERED = FOLDER / "recovered.hex"

SERVER_ID = bytes(range(16))
PRODUCER = bytes.fromhex("018bcfe568007000800000000000abcd")
DAMAGED_AT = 8360
LOSS = (
    b'{"segment":1,"start":8280,"end":8376,"from_lsn":3,"through_lsn":3,"torn":false,'
    b'"reason":"the payload of the record at offset 8280 does not verify",'
    b'"producer":"AYvP5WgAcACAAAAAAACrzQ==","from_seq":2,"through_seq":2,"events":1}'
)


def load(path: Path) -> bytes:
    """The file's bytes."""
    return undump(path.read_text())


def fresh() -> Machine:
    """A journal with a record of every kind but LOSS."""
    machine = Machine(MemoryFs())
    journal = machine.start().journal
    journal.append(Kind.BATCH, b"one", count=2, producer=PRODUCER, seq=1)
    journal.append(Kind.BATCH, b"second, 15bytes", producer=PRODUCER, seq=2)
    journal.sync()
    journal.append(Kind.TOMBSTONE, b"", count=7, producer=PRODUCER, seq=3)
    journal.append(Kind.SKIP, b"gone", producer=PRODUCER, seq=9, from_seq=4)
    journal.append(Kind.FORGET, b"", producer=PRODUCER)
    journal.sync()
    journal.append(Kind.MARK, b"")
    journal.sync()
    journal.append(Kind.STOP, b"")
    journal.sync()
    return machine


def recovered() -> Machine:
    """The same with one payload damaged, opened again."""
    machine = fresh()
    damaged = bytearray(load(FRESH))
    damaged[DAMAGED_AT] ^= 0xFF
    disk = machine.fs
    assert isinstance(disk, MemoryFs)
    disk.overwrite(segment(1), bytes(damaged))
    commit(machine.start().journal, b"after")
    return machine


def header(data: bytes) -> SegmentHeader:
    found = decode_header(data)
    assert found.whole
    return found.header


def records(data: bytes) -> list[Record]:
    items = list(walk(data, header(data).salt))
    assert all(isinstance(item, Record) for item in items)
    return [item for item in items if isinstance(item, Record)]


def told(record: Record) -> tuple[int, int, int, int, int, int, bytes]:
    return (
        record.kind,
        record.lsn,
        record.count,
        record.durable_lsn,
        record.from_seq,
        record.seq,
        record.payload,
    )


def test_a_fresh_segment_is_written_byte_for_byte() -> None:
    assert dump(fresh().file(1)) == FRESH.read_text()


def test_a_recovered_segment_is_written_byte_for_byte() -> None:
    assert dump(recovered().file(1)) == RECOVERED.read_text()


def test_a_fresh_segment_is_read() -> None:
    data = load(FRESH)
    assert header(data) == SegmentHeader(
        salt=bytes.fromhex("f5b165224a58b791"),
        server_id=SERVER_ID,
        number=1,
        first_lsn=1,
        prev_last_lsn=0,
        next_lsn=1,
        created_ns=1_700_000_000_000_000_000,
    )
    found = records(data)
    assert [told(record) for record in found] == [
        (1, 1, 2, 0, 1, 1, b"one"),
        (1, 3, 1, 0, 2, 2, b"second, 15bytes"),
        (2, 4, 7, 3, 3, 3, b""),
        (3, 11, 1, 3, 4, 9, b"gone"),
        (6, 12, 1, 3, 0, 0, b""),
        (4, 13, 1, 12, 0, 0, b""),
        (5, 14, 1, 13, 0, 0, b""),
    ]
    assert [record.producer for record in found] == [PRODUCER] * 5 + [bytes(16)] * 2


def test_a_recovered_segment_is_read() -> None:
    data = load(RECOVERED)
    before, after = header(load(FRESH)), header(data)
    assert after == before.copied(bytes.fromhex("df6af1d8303e61cd"), 15 + 2**20)
    assert [told(record) for record in records(data)] == [
        *(told(record) for record in records(load(FRESH))[:1]),
        (7, 3, 1, 2, 2, 2, LOSS),
        *(told(record) for record in records(load(FRESH))[2:]),
        (1, 15 + 2**20, 1, 14, 0, 0, b"after"),
    ]


def test_the_frozen_segments_open_as_a_journal() -> None:
    for path, clean, end in ((FRESH, True, 14), (RECOVERED, False, 15 + 2**20)):
        disk = MemoryFs()
        disk.mkdir(JOURNAL)
        disk.create(segment(1))
        disk.overwrite(segment(1), load(path))
        report = Machine(disk).look().report
        assert (report.clean, report.end_lsn, report.damage) == (clean, end, [])
