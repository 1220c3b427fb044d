"""Messages: what is encoded, what is refused, what is ignored."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tallymark.errors import ProtocolError
from tallymark.protocol import messages
from tallymark.protocol.messages import (
    BATCH_EVENTS_MAX,
    SEQ_MAX,
    Ack,
    Hello,
    Nack,
    Publish,
    Query,
    Skip,
)


def pack(**fields: Any) -> bytes:
    return msgspec.msgpack.encode(fields)


def test_a_message_is_a_map_with_its_type_and_without_defaults() -> None:
    payload = messages.encode(Ack(through_seq=7, stored=3))
    assert msgspec.msgpack.decode(payload) == {"type": "ack", "through_seq": 7, "stored": 3}


def test_events_travel_as_they_were_encoded() -> None:
    events = msgspec.msgpack.encode([{"type": "usage", "input_tokens": 5}])
    message = messages.decode_client(
        messages.encode(Publish(seq=1, count=1, events=msgspec.Raw(events)))
    )
    assert isinstance(message, Publish)
    assert bytes(message.events) == events


def test_unknown_fields_are_ignored() -> None:
    payload = pack(type="hello", protocol_min=1, protocol_max=9, colour="blue")
    assert messages.decode_client(payload) == Hello(protocol_min=1, protocol_max=9)


def test_mutable_defaults_are_not_shared() -> None:
    first = messages.decode_server(pack(type="ack", through_seq=1))
    second = messages.decode_server(pack(type="ack", through_seq=1))
    assert isinstance(first, Ack)
    assert isinstance(second, Ack)
    assert first.reasons is not second.reasons


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"type": "nonsense"},
        {"type": 1},
        {"type": "ack", "through_seq": 1},
        {"type": "hello"},
        {"type": "hello", "protocol_min": "1", "protocol_max": 1},
        {"type": "hello", "protocol_min": 1, "protocol_max": 1, "producer": "x" * 513},
        {"type": "publish", "seq": 0, "count": 1, "events": []},
        {"type": "publish", "seq": SEQ_MAX + 1, "count": 1, "events": []},
        {"type": "publish", "seq": 1, "count": 0, "events": []},
        {"type": "publish", "seq": 1, "count": BATCH_EVENTS_MAX + 1, "events": []},
        {"type": "publish", "seq": 1, "count": 1},
        {"type": "skip", "from_seq": 1, "through_seq": 1, "events": -1, "reason": "x"},
        {"type": "query", "id": 1, "what": "everything"},
        {"type": "query", "id": -1, "what": "state"},
        {"type": "health", "id": 1, "deep": "yes"},
    ],
)
def test_what_no_client_may_say_is_a_protocol_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="cannot understand a message of the client"):
        messages.decode_client(pack(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "publish", "seq": 1, "count": 1, "events": []},
        {"type": "ack", "through_seq": -1},
        {"type": "ack", "through_seq": 1, "reasons": {"code": "many"}},
        {"type": "nack", "code": 5, "seq": 1, "message": ""},
        {"type": "nack", "code": "gap", "seq": 1, "message": "", "retry_after_seconds": 3601.0},
        {"type": "nack", "code": "gap", "seq": 1, "message": "", "retry_after_seconds": -1.0},
        {"type": "refused", "code": 5, "message": ""},
        {"type": "welcome", "protocol": 1, "server_id": "s", "durable_seq": 0},
        {"type": "reply", "id": 1, "body": 5},
        {"type": "health_report", "id": 1, "status": "splendid"},
    ],
)
def test_what_no_daemon_may_say_is_a_protocol_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="cannot understand a message of the daemon"):
        messages.decode_server(pack(**fields))


@pytest.mark.parametrize("kind", ["nack", "refused"])
def test_a_code_of_a_newer_daemon_is_understood(kind: str) -> None:
    said = messages.decode_server(pack(type=kind, code="bored", seq=1, message="so it is"))
    assert isinstance(said, messages.Nack | messages.Refused)
    assert (said.code, said.message) == ("bored", "so it is")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x81\xa4type",
        b"\x80trailing",
        b"\xa4text",
        b"\x81\xa4type\xa3\xff\xfe\xfd",
        b"\x91" * 5000 + b"\x01",
        pack(type="health_report", id=1, status="ok", report={})[:-1] + b"\x81\xa1a\x81\x80\x01",
    ],
)
def test_what_is_no_message_at_all_is_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.decode_client(payload)
    with pytest.raises(ProtocolError):
        messages.decode_server(payload)


def test_limits_themselves_are_allowed() -> None:
    empty = msgspec.Raw(b"\x90")
    for message in (
        Publish(seq=SEQ_MAX, count=BATCH_EVENTS_MAX, events=empty),
        Skip(from_seq=1, through_seq=SEQ_MAX, events=2**53, reason="x" * 512),
        Query(id=0, what="state", project="x" * 512),
    ):
        assert messages.decode_client(messages.encode(message)) == message
    nack = Nack(code="gap", seq=1, message="", retry_after_seconds=3600.0)
    assert messages.decode_server(messages.encode(nack)) == nack
