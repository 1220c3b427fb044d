from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from tallymark.events import RunEnd, SessionEnd, Usage
from tallymarkd.core.entry import (
    Cost,
    Entry,
    OtherEvent,
    Verdict,
    decode_entry,
    decode_event,
    decode_events,
    encode_entry,
    open_entry,
    split_events,
)
from tests.daemon_parts import NOON_NS, array, run_end, usage

UNKNOWN = {"type": "run.pause", "run_id": "r1", "why": ["lunch"]}


def entry_of(*events: object, **fields: object) -> Entry:
    raw = msgspec.Raw(array(*events))
    return Entry(
        **{
            "project": "spotter",
            "received_ns": NOON_NS,
            "uid": 1000,
            "events": raw,
            "count": len(events),
            **fields,  # type: ignore[arg-type]  # each test gives what Entry has
        }
    )


def test_the_numbers_of_the_verdicts_are_part_of_the_format() -> None:
    assert {verdict.code: int(verdict) for verdict in Verdict} == {
        "stored": 0,
        "duplicate": 1,
        "malformed": 2,
        "invalid_field": 3,
        "too_large": 4,
        "id_too_long": 5,
        "cache_exceeds_input": 6,
        "wrong_project": 7,
        "missing_field": 8,
        "bad_batch": 9,
    }


def test_stored_and_duplicate_are_no_refusals() -> None:
    assert [verdict for verdict in Verdict if not verdict.rejected] == [
        Verdict.STORED,
        Verdict.DUPLICATE,
    ]


def test_an_entry_comes_back_as_it_was() -> None:
    entry = entry_of(
        run_end(1),
        run_end(2),
        verdicts=bytes([Verdict.STORED, Verdict.DUPLICATE]),
        ids={0: "assigned"},
        costs={0: Cost(nanos=1_500, source="genai-prices@1")},
        cut=[1],
        keys=b"12345678",
    )

    found = decode_entry(encode_entry(entry))

    assert bytes(found.events) == bytes(entry.events)
    assert msgspec.structs.replace(found, events=entry.events) == entry


def test_the_events_go_into_the_record_as_they_came() -> None:
    odd = b"\x91\x82\xa4type\xd9\x05usage\xa5later\xcc\x01"  # longer forms than needed

    payload = encode_entry(entry_of(events=msgspec.Raw(odd), count=1))

    assert odd in payload
    assert bytes(decode_entry(payload).events) == odd


def test_what_is_no_entry_is_refused() -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_entry(b"\x80")


def test_split_gives_each_event_its_own_bytes() -> None:
    events = [run_end(1), UNKNOWN]

    parts = split_events(array(*events))

    assert [msgspec.msgpack.decode(part) for part in parts] == events
    with pytest.raises(msgspec.MsgspecError):
        split_events(msgspec.msgpack.encode({"type": "usage"}))


def test_decode_events_wants_all_of_them_right() -> None:
    found = decode_events(array(run_end(1), usage()))

    assert [type(event) for event in found] == [RunEnd, Usage]
    with pytest.raises(msgspec.MsgspecError):
        decode_events(array(run_end(1), UNKNOWN))


def test_decode_event_keeps_a_type_it_does_not_know() -> None:
    raw = msgspec.msgpack.encode(UNKNOWN)

    assert decode_event(raw) == (OtherEvent("run.pause", UNKNOWN), {})


def test_decode_event_gives_fields_it_does_not_know_beside_the_event() -> None:
    plain = run_end(1, at=datetime(2026, 1, 2, 12, tzinfo=UTC), attrs={"a": [1, None]})

    event, extra = decode_event(msgspec.msgpack.encode({**plain, "from_tomorrow": {"b": 1}}))

    assert extra == {"from_tomorrow": {"b": 1}}
    assert (event, {}) == decode_event(msgspec.msgpack.encode(plain))
    assert isinstance(event, RunEnd)
    assert event.event_id == "run-1"


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"type": ""},
        {"type": 3},
        {"type": ["usage"]},
        {"type": "usage", "input_tokens": "many"},
        {"type": "usage", "input_tokens": -1},
        ["usage"],
        7,
    ],
)
def test_decode_event_refuses_what_is_no_event(event: object) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_event(msgspec.msgpack.encode(event))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x81\xa4type\xa1\xff", id="type is no UTF-8"),
        pytest.param(b"\x82\xa4type\xa5usage\xaamodel_used\xa1\xff", id="a text is no UTF-8"),
        pytest.param(
            b"\x82\xa4type\xa5usage\xa5attrs\x81\xa1a" + b"\x91" * 20_000 + b"\xc0",
            id="nested without end",
        ),
    ],
)
def test_decode_event_raises_nothing_else(raw: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_event(raw)


def test_an_opened_entry_has_the_events_that_were_stored() -> None:
    entry = entry_of(
        run_end(1),
        run_end(2),
        {"type": "usage", "input_tokens": -1},
        UNKNOWN,
        {"type": "session.end", "session_id": "s1"},
        verdicts=bytes(
            [
                Verdict.STORED,
                Verdict.DUPLICATE,
                Verdict.INVALID_FIELD,
                Verdict.STORED,
                Verdict.STORED,
            ]
        ),
        ids={0: "assigned"},
        costs={0: Cost(nanos=5, source="here")},
    )

    batch = open_entry(entry)

    first, second, third, other, last = batch.events
    assert isinstance(first, RunEnd)
    assert (second, third) == (None, None)
    assert other == OtherEvent("run.pause", UNKNOWN)
    assert isinstance(last, SessionEnd)
    assert batch.received_at == datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert (batch.ids, batch.costs) == ({0: "assigned"}, {0: Cost(nanos=5, source="here")})


def test_an_entry_without_verdicts_is_stored_whole() -> None:
    batch = open_entry(entry_of(run_end(1), UNKNOWN))

    assert [type(event) for event in batch.events] == [RunEnd, OtherEvent]


def test_an_opened_entry_has_the_fields_that_are_not_known() -> None:
    batch = open_entry(entry_of(run_end(1), run_end(2, later=[1]), UNKNOWN))

    assert batch.extras == {1: {"later": [1]}}


def test_a_stored_event_that_does_not_decode_is_none_and_its_neighbours_are_there() -> None:
    batch = open_entry(entry_of(run_end(1), {"type": "usage", "input_tokens": -1}, run_end(3)))

    assert [getattr(event, "event_id", None) for event in batch.events] == ["run-1", None, "run-3"]
