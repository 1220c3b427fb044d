"""Nonsense in frames: lengths, messages, their order, and events."""

from __future__ import annotations

import struct
from typing import Any

from tallymark.events import EVENT_BYTES_MAX, EVENT_DEPTH_MAX
from tallymark.protocol.framing import FRAME_BYTES_MAX, PREFACE, frame
from tests.nonsense import (
    NO_VALUE,
    PROJECT,
    UNKNOWN,
    WRONG_PREFACE,
    Nonsense,
    encode,
    mapping,
    nested,
    protocol_error,
    say,
    text,
    wrong_length,
)

PRODUCER = "0190f0e0-0000-7000-8000-000000000000"
"""Stands in the corpus for one that nobody else has; see ``of_producer``."""

ASKER = PREFACE + say(type="hello", protocol_min=1, protocol_max=1)
GOOD = encode({"type": "usage", "agent_name": "good", "input_tokens": 1})
HEALTH = say(type="health", id=1)


def of_producer(sends: bytes, number: int) -> bytes:
    """The same bytes from another producer."""
    return sends.replace(PRODUCER.encode(), f"{PRODUCER[:-12]}{number:012d}".encode())


def hello(**changes: Any) -> bytes:
    """Preface and Hello."""
    fields = {"type": "hello", "protocol_min": 1, "protocol_max": 1,
              "producer": PRODUCER, "project": PROJECT}  # fmt: skip
    return PREFACE + say(**{**fields, **changes})


def publish(events: bytes, count: int = 1, seq: bytes = b"\x01") -> bytes:
    """A Publish with events that need be no array."""
    return frame(
        mapping(
            ("type", encode("publish")), ("seq", seq), ("count", encode(count)), ("events", events)
        )
    )


def u32(number: int) -> bytes:
    """A frame's length."""
    return struct.pack("<I", number)


def float64(number: float) -> bytes:
    """A msgpack float."""
    return b"\xcb" + struct.pack(">d", number)


FRAMES = [
    protocol_error("preface of the future", b"\xc1TM\x02" + hello()[4:], WRONG_PREFACE),
    protocol_error("preface of another", b"\xc1XY\x01" + hello()[4:], WRONG_PREFACE),
    Nonsense("half a preface", PREFACE[:2], silent=True),
    Nonsense("a preface and no more", PREFACE, silent=True),
    Nonsense("half a length", PREFACE + b"\x10\0", silent=True),
    Nonsense("half a frame", hello()[:-5], silent=True),
    Nonsense("half of the largest frame", PREFACE + u32(FRAME_BYTES_MAX) + bytes(500), silent=True),
    protocol_error("length zero", PREFACE + u32(0), wrong_length(0)),
    protocol_error("length of one too many", PREFACE + u32(2**20 + 1), wrong_length(2**20 + 1)),
    protocol_error("length of 4 GiB", PREFACE + u32(2**32 - 1), wrong_length(2**32 - 1)),
    protocol_error("big-endian length", PREFACE + b"\0\0\0\x28", wrong_length(0x28000000)),
]

MESSAGES = [
    protocol_error("message cut off", PREFACE + frame(b"\x82\xa4ty"),
                   UNKNOWN + "Input data was truncated"),
    protocol_error("message and more", PREFACE + frame(encode({"type": "health", "id": 1}) + b"\0"),
                   UNKNOWN + "MessagePack data is malformed: trailing characters (byte 17)"),
    protocol_error("a byte that msgpack lacks", PREFACE + frame(b"\xc1"), NO_VALUE),
    protocol_error("message is an array", PREFACE + frame(encode([1, 2])),
                   UNKNOWN + "Expected `object`, got `array`"),
    protocol_error("message without type", PREFACE + say(id=1),
                   UNKNOWN + "Object missing required field `type`"),
    protocol_error("unknown type", ASKER + say(type="nonsense"),
                   UNKNOWN + "Invalid value 'nonsense' - at `$.type`"),
    protocol_error("a message of the daemon's", ASKER + say(type="ack", through_seq=1),
                   UNKNOWN + "Invalid value 'ack' - at `$.type`"),
    protocol_error("type is a number", ASKER + say(type=5),
                   UNKNOWN + "Expected `str`, got `int` - at `$.type`"),
    protocol_error("type is no UTF-8", ASKER + frame(mapping(("type", text(b"\xff\xfe")))),
                   UNKNOWN + "'utf-8' codec can't decode byte 0xff in position 0: "
                   "invalid start byte"),
    protocol_error("protocol is a text", PREFACE + say(type="hello", protocol_min="1",
                                                       protocol_max=1),
                   UNKNOWN + "Expected `int`, got `str` - at `$.protocol_min`"),
    protocol_error("client is a surrogate", PREFACE + frame(mapping(
        ("type", encode("hello")), ("protocol_min", b"\1"), ("protocol_max", b"\1"),
        ("client", text(b"\xed\xa0\x80")))),
        UNKNOWN + "'utf-8' codec can't decode byte 0xed in position 0: "
        "invalid continuation byte"),
    protocol_error("project too long", hello(project="x" * 513),
                   UNKNOWN + "Expected `str` of length <= 512 - at `$.project`"),
    protocol_error("producer is no UUID", hello(producer="me"),
                   "cannot use 'me' as a producer: it is no UUID"),
    Nonsense("no project", hello(project=""),
             refused=("wrong_project", "cannot take events without a project")),
    Nonsense("protocol of the future", hello(protocol_min=9, protocol_max=10),
             refused=("unsupported_protocol",
                      "cannot speak protocol 9 to 10: this daemon speaks 1 to 1")),
    protocol_error("deep array", PREFACE + frame(nested(100_000)),
                   UNKNOWN + "Expected `object`, got `array`"),
    protocol_error("deep array in a message that is cut off",
                   PREFACE + frame(b"\x81\xa1x" + b"\x91" * 100_000), UNKNOWN + "it is truncated"),
    protocol_error("a batch of four billion", hello() + publish(b"\xdd\xff\xff\xff\xff"),
                   UNKNOWN + "Input data was truncated"),
    protocol_error("seq 0", hello() + publish(b"\x91" + GOOD, seq=b"\0"),
                   UNKNOWN + "Expected `int` >= 1 - at `$.seq`"),
    protocol_error("seq -1", hello() + publish(b"\x91" + GOOD, seq=b"\xff"),
                   UNKNOWN + "Expected `int` >= 1 - at `$.seq`"),
    protocol_error("seq 2^63", hello() + publish(b"\x91" + GOOD, seq=encode(2**63)),
                   UNKNOWN + "Expected `int` <= 9223372036854775807 - at `$.seq`"),
    protocol_error("seq is a fraction", hello() + publish(b"\x91" + GOOD, seq=float64(1.5)),
                   UNKNOWN + "Expected `int`, got `float` - at `$.seq`"),
    protocol_error("seq is NaN", hello() + publish(b"\x91" + GOOD, seq=float64(float("nan"))),
                   UNKNOWN + "Expected `int`, got `float` - at `$.seq`"),
    protocol_error("4097 events", hello() + publish(b"\x91" + GOOD, count=4097),
                   UNKNOWN + "Expected `int` <= 4096 - at `$.count`"),
    protocol_error("no events", hello() + publish(b"\x90", count=0),
                   UNKNOWN + "Expected `int` >= 1 - at `$.count`"),
    protocol_error("skip backwards", hello() + say(type="skip", from_seq=5, through_seq=1,
                                                   events=1, reason="x"), "cannot skip backwards"),
    protocol_error("question about something else", ASKER + say(type="query", id=1, what="x"),
                   UNKNOWN + "Invalid enum value 'x' - at `$.what`"),
]  # fmt: skip

STATES = [
    protocol_error("publish before hello", PREFACE + publish(b"\x91" + GOOD),
                   "cannot begin without a Hello"),
    protocol_error("question before hello", PREFACE + HEALTH, "cannot begin without a Hello"),
    protocol_error("second hello", hello() + hello()[4:], "cannot take a second Hello"),
    protocol_error("second preface", hello() + PREFACE + bytes(8), wrong_length(0x014D54C1)),
    protocol_error("events of one who only asks", ASKER + publish(b"\x91" + GOOD),
                   "cannot take events: the Hello named no producer"),
    protocol_error("skip of one who only asks",
                   ASKER + say(type="skip", from_seq=1, through_seq=1, events=1, reason="x"),
                   "cannot take events: the Hello named no producer"),
    protocol_error("question after goodbye", ASKER + say(type="goodbye") + HEALTH,
                   "cannot take a message after the conversation's end"),
]  # fmt: skip


def event(**fields: Any) -> bytes:
    """A usage."""
    return encode({"type": "usage", "agent_name": "bad", **fields})


def raw_event(name: bytes | str, value: bytes) -> bytes:
    """A usage with a member that no library would encode."""
    return mapping(("type", encode("usage")), (name, value))


BAD_EVENTS: dict[str, tuple[bytes, str]] = {
    "cost NaN": (event(estimated_cost_usd=float("nan")), "invalid_field"),
    "cost infinite": (event(estimated_cost_usd=float("inf")), "invalid_field"),
    "cost below 0": (event(estimated_cost_usd=-0.01), "invalid_field"),
    "cost too high": (event(estimated_cost_usd=1e300), "invalid_field"),
    "duration -infinite": (
        encode({"type": "run.end", "agent_name": "bad", "duration_seconds": float("-inf")}),
        "invalid_field",
    ),
    "tokens below 0": (event(input_tokens=-1), "invalid_field"),
    "tokens of 2^64-1": (event(input_tokens=2**64 - 1), "invalid_field"),
    "tokens a fraction": (event(input_tokens=1.5), "invalid_field"),
    "tokens a text": (event(input_tokens="5"), "invalid_field"),
    "tokens true": (event(input_tokens=True), "invalid_field"),
    "name nil": (event(agent_name=None), "invalid_field"),
    "name a lone surrogate": (raw_event("agent_name", text(b"\xed\xa0\x80")), "malformed"),
    "name half a character": (raw_event("agent_name", text(b"\xe2\x82")), "malformed"),
    "member's name no UTF-8": (raw_event(b"\xff", b"\x01"), "malformed"),
    "attrs no UTF-8": (raw_event("attrs", mapping(("k", text(b"\xff")))), "malformed"),
    "attrs an array": (raw_event("attrs", b"\x90"), "invalid_field"),
    "attrs with an extension": (raw_event("attrs", mapping(("k", b"\xd4\5\0"))), "invalid_field"),
    "attrs with a map as a key": (
        raw_event("attrs", mapping(("k", b"\x81\x80\x01"))),
        "malformed",
    ),
    "attrs just too deep": (
        raw_event("attrs", mapping(("k", nested(EVENT_DEPTH_MAX - 1)))),
        "malformed",
    ),
    "attrs far too deep": (raw_event("attrs", mapping(("k", nested(60_000)))), "malformed"),
    "unknown member far too deep": (raw_event("zzz", nested(60_000)), "malformed"),
    "unknown type far too deep": (
        mapping(("type", encode("zzz")), ("q", nested(60_000))),
        "malformed",
    ),
    "a number": (encode(5), "malformed"),
    "nil": (b"\xc0", "malformed"),
    "an array": (encode([1]), "malformed"),
    "type a number": (encode({"type": 5}), "invalid_field"),
    "type empty": (encode({"type": ""}), "invalid_field"),
    "type missing": (encode({"agent_name": "bad"}), "invalid_field"),
    "time without a zone": (event(at="2026-01-01T00:00:00"), "invalid_field"),
    "time of the year 33658": (
        raw_event("at", b"\xc7\x0c\xff\0\0\0\0" + struct.pack(">q", 10**12)),
        "malformed",
    ),
    "time with too many nanoseconds": (
        raw_event("at", b"\xc7\x0c\xff\xff\xff\xff\xff" + struct.pack(">q", 1)),
        "malformed",
    ),
    "status unknown": (
        encode({"type": "run.end", "agent_name": "bad", "status": "splendid"}),
        "invalid_field",
    ),
    "more cached than read": (event(input_tokens=1, cache_read_tokens=2), "cache_exceeds_input"),
    "of another project": (event(project="other"), "wrong_project"),
    "run without agent": (encode({"type": "run.end", "event_id": "r"}), "missing_field"),
    "id too long": (event(event_id="x" * 513), "id_too_long"),
    "too large": (event(source="x" * EVENT_BYTES_MAX), "too_large"),
}


def among_good(bad: bytes) -> bytes:
    """A conversation of one batch, in which good ones stand before and after."""
    return hello() + publish(b"\x93" + GOOD + bad + GOOD, count=3)


EVENTS = [
    *(
        Nonsense(f"event: {name}", among_good(bad), ack={"stored": 2, code: 1})
        for name, (bad, code) in BAD_EVENTS.items()
    ),
    Nonsense("batch is a map", hello() + publish(encode({"a": 1}), 3), ack={"bad_batch": 3}),
    Nonsense("batch is nil", hello() + publish(b"\xc0", 3), ack={"bad_batch": 3}),
    Nonsense("fewer than told", hello() + publish(b"\x91" + GOOD, 3), ack={"bad_batch": 3}),
    Nonsense("more than told", hello() + publish(b"\x92" + GOOD * 2, 1), ack={"bad_batch": 1}),
]
