"""Batches: sizes, and that one bad event harms none of its neighbours."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tallymark.batching import BATCH_BYTES_TARGET, Batcher, join_array
from tallymark.events import EVENT_BYTES_MAX, Usage
from tallymark.protocol.outbox import BATCH_BYTES_MAX
from tests.derived import Text


def decoded(arrays: list[tuple[bytes, int]]) -> list[Any]:
    found = []
    for array, count in arrays:
        events = msgspec.msgpack.decode(array)
        assert len(events) == count
        found += events
    return found


def test_good_events_are_one_array() -> None:
    events = [Usage(event_id=str(n), input_tokens=n) for n in range(100)]
    arrays, lost = Batcher(1024).encode(events)
    assert len(arrays) == 1
    assert not lost
    assert [event["input_tokens"] for event in decoded(arrays) if "input_tokens" in event] == list(
        range(1, 100)
    )


@pytest.mark.parametrize(
    "bad", [object(), "\ud800", 2**64, {1j: 2}], ids=["type", "surrogate", "integer", "key"]
)
def test_what_cannot_be_encoded_is_lost_alone(bad: Any) -> None:
    events = [Usage(event_id="a"), Usage(event_id="b", attrs={"x": bad}), Usage(event_id="c")]
    arrays, lost = Batcher(1024).encode(events)
    assert [event["event_id"] for event in decoded(arrays)] == ["a", "c"]
    assert [reason for reason, _ in lost] == ["unencodable"]


def test_values_of_derived_types_are_encoded() -> None:
    event = Usage(event_id=Text("a"), attrs={"x": [Text("y")]})
    arrays, lost = Batcher(1024).encode([event])
    assert lost == []
    assert decoded(arrays) == [{"type": "usage", "event_id": "a", "attrs": {"x": ["y"]}}]


def test_what_holds_itself_is_lost_alone() -> None:
    ring: dict[str, Any] = {}
    ring["ring"] = ring
    arrays, lost = Batcher(1024).encode([Usage(event_id="a"), Usage(attrs=ring)])
    assert [event["event_id"] for event in decoded(arrays)] == ["a"]
    assert [reason for reason, _ in lost] == ["unencodable"]


def test_a_too_large_event_is_lost_alone() -> None:
    large = Usage(event_id="large", attrs={"x": "y" * EVENT_BYTES_MAX})
    arrays, lost = Batcher(1024).encode([Usage(event_id="a"), large, Usage(event_id="c")])
    assert [event["event_id"] for event in decoded(arrays)] == ["a", "c"]
    assert [reason for reason, _ in lost] == ["too_large"]


def test_events_at_the_limit_pass() -> None:
    overhead = len(msgspec.msgpack.encode(Usage(attrs={"x": "y" * 60_000}))) - 60_000
    fits = Usage(attrs={"x": "y" * (EVENT_BYTES_MAX - overhead)})
    assert len(msgspec.msgpack.encode(fits)) == EVENT_BYTES_MAX
    arrays, lost = Batcher(1024).encode([fits])
    assert (len(decoded(arrays)), lost) == (1, [])


def test_many_large_events_are_several_batches_that_all_fit() -> None:
    events = [Usage(event_id=str(n), attrs={"x": "y" * 60_000}) for n in range(40)]
    arrays, lost = Batcher(1024).encode(events)
    assert not lost
    assert [event["event_id"] for event in decoded(arrays)] == [str(n) for n in range(40)]
    assert all(len(array) <= BATCH_BYTES_MAX for array, _ in arrays)
    assert len(arrays) > 5


def test_nothing_good_gives_no_array() -> None:
    arrays, lost = Batcher(1024).encode([object(), object()])
    assert arrays == []
    assert len(lost) == 2


def test_batches_take_fewer_of_larger_events() -> None:
    batcher = Batcher(1024)
    assert batcher.batch_events == BATCH_BYTES_TARGET // 400
    for _ in range(30):
        batcher.encode([Usage(attrs={"x": "y" * 10_000})] * 10)
    assert 5 <= batcher.batch_events <= 6
    for _ in range(60):
        batcher.encode([Usage()] * 10)
    assert batcher.batch_events == 1024
    assert Batcher(7).batch_events == 7


@pytest.mark.parametrize("count", [0, 1, 15, 16, 255, 256, 4096])
def test_join_array_is_msgpack(count: int) -> None:
    joined = join_array([msgspec.msgpack.encode(n) for n in range(count)])
    assert msgspec.msgpack.decode(joined) == list(range(count))
