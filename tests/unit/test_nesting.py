"""What is nested too deeply, told from the bytes and from the values alike."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallymark.errors import ProtocolError
from tallymark.events import EVENT_DEPTH_MAX
from tallymark.protocol import messages
from tallymark.protocol.messages import Publish
from tallymark.protocol.nesting import NIL, is_deep, is_too_deep, without_deep_values

encode = msgspec.msgpack.encode


def nested(levels: int) -> bytes:
    """Arrays within one another, deeper than any recursion can follow."""
    return b"\x91" * (levels - 1) + b"\x90"


def event(levels: int) -> bytes:
    """An event of so many levels, itself included."""
    return b"\x82" + encode("type") + encode("usage") + encode("x") + nested(levels - 1)


def publish(*events: bytes, name: bytes = b"\xa6events") -> bytes:
    array = b"\xdc" + len(events).to_bytes(2, "big") + b"".join(events)
    head = encode({"type": "publish", "seq": 1, "count": len(events)})
    return b"\x84" + head[1:] + name + array


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False),
    st.text(max_size=300), st.binary(max_size=300), st.datetimes(timezones=st.just(UTC)),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=40), inner),
    max_leaves=60,
)


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list)):
        return 0
    return 1 + max(map(depth_of, inner), default=0)


@given(values)
def test_every_value_of_msgpack_is_walked_to_its_end(value: Any) -> None:
    message = encode({"type": "x", "events": [value], "other": value})
    assert without_deep_values(message) == message
    assert is_too_deep(message) == (depth_of(value) + 2 > EVENT_DEPTH_MAX)


@pytest.mark.parametrize(
    "raw",
    [b"\xc7\x03\x05abc", b"\xc8\0\x03\x05abc", b"\xc9\0\0\0\x03\x05abc", b"\xd4\x05a",
     b"\xd5\x05ab", b"\xd6\x05abcd", b"\xd7\x05" + b"a" * 8, b"\xd8\x05" + b"a" * 16,
     b"\xda\0\x01a", b"\xdb\0\0\0\x01a", b"\xc5\0\x01a", b"\xc6\0\0\0\x01a",
     b"\xdd\0\0\0\x01\x05", b"\xde\0\x01\xa1a\x05", b"\xdf\0\0\0\x01\xa1a\x05"],
)  # fmt: skip
def test_the_longer_forms_are_walked_too(raw: bytes) -> None:
    message = b"\x82" + encode("events") + b"\x92" + raw + raw + encode("x") + raw
    msgspec.msgpack.decode(message)
    assert without_deep_values(message) == message


@pytest.mark.parametrize(
    ("levels", "deep"), [(EVENT_DEPTH_MAX, False), (EVENT_DEPTH_MAX + 1, True)]
)
def test_the_limit_is_the_same_for_bytes_and_for_values(levels: int, deep: bool) -> None:
    raw = event(levels)
    assert is_too_deep(raw) is deep
    fields = msgspec.msgpack.decode(raw)
    assert is_deep(fields, 1) is deep
    assert is_deep({"x": fields["x"]}, 1) is deep
    assert is_deep({"a": fields}, 1) is is_too_deep(encode({"a": fields}))
    assert is_deep(fields, 2) is is_too_deep(encode({"attrs": fields}))


@pytest.mark.parametrize(
    "name", [b"\xa6events", b"\xd9\x06events", b"\xda\0\x06events", b"\xdb\0\0\0\x06events"]
)
def test_one_event_that_is_too_deep_does_not_harm_its_neighbours(name: bytes) -> None:
    good = encode({"type": "usage", "input_tokens": 1})
    payload = publish(good, event(50_000), good, name=name)
    with pytest.raises(RecursionError):
        msgspec.msgpack.Decoder(Publish).decode(payload)
    found = messages.decode_client(payload)
    assert isinstance(found, Publish)
    assert (found.seq, found.count) == (1, 3)
    assert bytes(found.events) == b"\xdc\0\x03" + good + NIL + good


def test_what_is_too_deep_elsewhere_is_nil() -> None:
    hello = encode({"type": "hello", "protocol_min": 1, "protocol_max": 1})
    deep = b"\x84" + hello[1:] + encode("new") + nested(50_000)
    assert messages.decode_client(deep) == messages.decode_client(hello)


@pytest.mark.parametrize(
    "payload",
    [b"", nested(50_000), b"\x81", b"\x82\xa1a" + nested(50_000), b"\x81\xa1a\xc1", b"\x05",
     b"\x81\xa1a\x91", b"\x81\xa6events\xdd\xff\xff\xff\xff"],
)  # fmt: skip
def test_what_is_no_message_is_told_and_nothing_is_allocated_for_it(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="cannot understand a message of the client"):
        without_deep_values(payload)
    with pytest.raises(ProtocolError):
        messages.decode_client(payload)
