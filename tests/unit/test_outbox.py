"""The outbox: frozen batches, the window, acknowledgements, going back."""

from __future__ import annotations

import msgspec
import pytest

from tallymark.errors import ProtocolError
from tallymark.protocol import messages
from tallymark.protocol.framing import FRAME_BYTES_MAX
from tallymark.protocol.messages import BATCH_EVENTS_MAX, Ack, Publish, Skip
from tallymark.protocol.outbox import BATCH_BYTES_MAX, FrozenBatch, Outbox

ARRAY = msgspec.msgpack.encode(["an event"])
WIDE = 10**9


def filled(count: int) -> Outbox:
    outbox = Outbox()
    for _ in range(count):
        outbox.freeze(ARRAY, 1)
    return outbox


def seqs(batches: list[FrozenBatch]) -> list[int]:
    return [batch.seq for batch in batches]


def test_batches_are_numbered_from_one_and_framed() -> None:
    outbox = Outbox()
    first, second = outbox.freeze(ARRAY, 1), outbox.skip(5, "queue_full")
    assert messages.decode_client(first.frame[4:]) == Publish(
        seq=1, count=1, events=msgspec.Raw(ARRAY)
    )
    assert messages.decode_client(second.frame[4:]) == Skip(
        from_seq=2, through_seq=2, events=5, reason="queue_full"
    )
    assert (outbox.next_seq, outbox.through_seq, len(outbox)) == (3, 2, 2)
    # Lost events are told of, not pending.
    assert outbox.pending_events == 1
    assert outbox.pending_bytes == len(first.frame) + len(second.frame)


def test_the_largest_batch_fits_a_frame() -> None:
    batch = Outbox().freeze(bytes(BATCH_BYTES_MAX), BATCH_EVENTS_MAX)
    assert len(batch.frame) <= FRAME_BYTES_MAX + 4


@pytest.mark.parametrize(
    ("size", "count"), [(10, 0), (10, BATCH_EVENTS_MAX + 1), (BATCH_BYTES_MAX + 1, 1)]
)
def test_a_batch_beyond_the_limits_is_not_frozen(size: int, count: int) -> None:
    outbox = Outbox()
    with pytest.raises(ProtocolError, match="cannot freeze"):
        outbox.freeze(bytes(size), count)
    assert outbox.next_seq == 1


def test_the_window_bounds_what_is_unacknowledged() -> None:
    outbox = filled(5)
    size = outbox.pending_bytes // 5
    assert seqs(outbox.take(2 * size)) == [1, 2]
    assert outbox.take(2 * size) == []
    outbox.acknowledge(Ack(through_seq=1))
    assert seqs(outbox.take(2 * size)) == [3]
    assert outbox.sent_bytes == 2 * size


def test_one_batch_is_always_allowed() -> None:
    outbox = filled(2)
    assert seqs(outbox.take(1)) == [1]
    assert outbox.take(1) == []


def test_an_ack_forgets_everything_through_it() -> None:
    outbox = filled(3)
    outbox.take(WIDE)
    assert seqs(outbox.acknowledge(Ack(through_seq=2))) == [1, 2]
    assert outbox.acknowledge(Ack(through_seq=2)) == []
    assert (len(outbox), outbox.pending_events) == (1, 1)
    assert seqs(outbox.acknowledge(Ack(through_seq=3))) == [3]
    assert (outbox.pending_bytes, outbox.sent_bytes) == (0, 0)


def test_an_ack_of_what_was_never_sent_is_a_fault_of_the_daemon() -> None:
    outbox = filled(2)
    outbox.take(1)
    with pytest.raises(ProtocolError, match="never sent"):
        outbox.acknowledge(Ack(through_seq=2))
    assert len(outbox) == 2


def test_after_rewind_the_same_bytes_are_sent_again() -> None:
    outbox = filled(2)
    before = outbox.take(WIDE)
    outbox.rewind()
    assert outbox.sent_bytes == 0
    assert outbox.take(WIDE) == before


def test_resume_goes_on_after_what_is_durable() -> None:
    outbox = filled(3)
    outbox.take(WIDE)
    outbox.resume(2)
    assert seqs(outbox.take(WIDE)) == [3]
    outbox.resume(3)
    assert outbox.take(WIDE) == []
    assert outbox.pending_events == 0


def test_a_daemon_cannot_have_more_than_was_frozen() -> None:
    outbox = filled(3)
    with pytest.raises(ProtocolError, match="the daemon has seq 4"):
        outbox.resume(4)
    assert len(outbox) == 3


def test_what_found_no_room_elsewhere_is_held_back_until_that_is_loaded() -> None:
    outbox = filled(4)
    outbox.take(WIDE)
    kept = outbox.newer(1)[:2]
    outbox.put_elsewhere(1, 3)
    assert (seqs(outbox.newer(0)), outbox.holding) == ([1, 4], True)
    assert outbox.pending_bytes == 2 * outbox.ready_bytes == 2 * outbox.sent_bytes
    outbox.rewind()
    assert seqs(outbox.take(WIDE)) == [1]
    for batch in kept:
        outbox.load(batch)
    outbox.release()
    assert seqs(outbox.take(WIDE)) == [2, 3, 4]
    assert seqs(outbox.acknowledge(Ack(through_seq=4))) == [1, 2, 3, 4]
    assert outbox.pending_bytes == 0


def test_what_is_elsewhere_is_loaded_before_what_was_frozen_later() -> None:
    outbox = filled(4)
    outbox.take(WIDE)
    kept = outbox.newer(1)
    outbox.put_elsewhere(1, outbox.through_seq)
    assert (seqs(kept), len(outbox), outbox.holding) == ([2, 3, 4], 1, True)
    assert outbox.sent_bytes == outbox.pending_bytes == len(kept[0].frame)
    behind = outbox.freeze(ARRAY, 1)
    assert outbox.ready_bytes == outbox.pending_bytes - len(behind.frame)
    # It was sent, and may be acknowledged though it is elsewhere.
    assert seqs(outbox.acknowledge(Ack(through_seq=2))) == [1]
    assert outbox.take(WIDE) == []
    for batch in kept[1:]:
        outbox.load(batch)
    assert seqs(outbox.take(WIDE)) == [3, 4]
    outbox.release()
    assert seqs(outbox.take(WIDE)) == [5]
    assert outbox.acknowledge(Ack(through_seq=5))
    assert (len(outbox), outbox.pending_bytes, outbox.sent_bytes) == (0, 0, 0)


def test_after_going_back_only_what_is_sent_again_can_be_acknowledged() -> None:
    outbox = filled(3)
    outbox.take(WIDE)
    assert outbox.in_flight
    outbox.rewind()
    assert not outbox.in_flight
    with pytest.raises(ProtocolError, match="never sent"):
        outbox.acknowledge(Ack(through_seq=1))


def test_the_newest_that_is_here() -> None:
    outbox = Outbox()
    assert outbox.newest_seq == 0
    for _ in range(3):
        outbox.freeze(ARRAY, 1)
    assert outbox.newest_seq == 3
    outbox.put_elsewhere(1, 3)
    assert outbox.newest_seq == 1
    outbox.freeze(ARRAY, 1)
    assert outbox.newest_seq == 4
