"""The bytes of every message, frozen: other clients are written against them.

``wire.json`` is not made anew when something changes. What is added gets
entries of its own; the bytes of those that are there stay.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from tallymark.events import EVENT_TYPES, Event
from tallymark.protocol import messages
from tallymark.protocol.connection import ClientConnection, ServerConnection
from tallymark.protocol.framing import PREFACE, FrameDecoder, frame
from tallymark.protocol.messages import ClientMessage, Message, ServerMessage

WIRE: dict[str, Any] = json.loads((Path(__file__).parent / "wire.json").read_text(encoding="utf-8"))
TYPES: dict[str, dict[str, type[Message]]] = {
    side: {str(kind.__struct_config__.tag): kind for kind in get_args(union)}
    for side, union in (("client", ClientMessage), ("daemon", ServerMessage))
}
DECODERS = {"client": messages.decode_client, "daemon": messages.decode_server}
event_decoder = msgspec.msgpack.Decoder(Event)


def name_of(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def expected(vector: dict[str, Any]) -> Message:
    """The message that a vector tells in JSON; raw events stand in it as hex, bytes as base64."""
    fields = dict(vector["message"])
    kind = TYPES[vector["from"]][fields.pop("type")]
    if "events" in fields and kind is messages.Publish:
        fields["events"] = msgspec.Raw(bytes.fromhex(fields["events"]))
    return msgspec.convert(fields, kind)


@pytest.mark.parametrize("vector", WIRE["messages"], ids=name_of)
def test_the_bytes_give_the_message(vector: dict[str, Any]) -> None:
    (payload,) = FrameDecoder().feed(bytes.fromhex(vector["frame"]))
    assert DECODERS[vector["from"]](payload) == expected(vector)


@pytest.mark.parametrize("vector", WIRE["messages"], ids=name_of)
def test_the_message_gives_the_bytes(vector: dict[str, Any]) -> None:
    assert frame(messages.encode(expected(vector))).hex() == vector["frame"]


@pytest.mark.parametrize("vector", WIRE["events"], ids=name_of)
def test_the_bytes_give_the_event_and_back(vector: dict[str, Any]) -> None:
    event = event_decoder.decode(bytes.fromhex(vector["msgpack"]))
    assert event == msgspec.json.decode(json.dumps(vector["event"]), type=Event)
    assert msgspec.msgpack.encode(event).hex() == vector["msgpack"]
    assert json.loads(msgspec.json.encode(event)) == vector["event"]


@pytest.mark.parametrize("conversation", WIRE["conversations"], ids=name_of)
def test_a_conversation_in_its_order(conversation: dict[str, Any]) -> None:
    """Both sides take each frame in the state in which it comes, and give its bytes."""
    server, client = ServerConnection(), ClientConnection()
    assert server.receive(PREFACE) == []
    for step in conversation["steps"]:
        bytes_said, message = bytes.fromhex(step["frame"]), expected(step)
        receive = server.receive if step["from"] == "client" else client.receive
        assert receive(bytes_said) == [message]
        assert frame(messages.encode(message)) == bytes_said


def test_every_message_and_event_has_a_vector() -> None:
    told = {(vector["from"], vector["message"]["type"]) for vector in WIRE["messages"]}
    assert told == {(side, tag) for side, kinds in TYPES.items() for tag in kinds}
    assert {vector["event"]["type"] for vector in WIRE["events"]} == set(EVENT_TYPES)


def test_a_whole_conversation() -> None:
    assert bytes.fromhex(WIRE["preface"]) == PREFACE
    talk = {
        side: [v for v in WIRE["messages"] if v["from"] == side and v["in_conversation"]]
        for side in TYPES
    }
    said = {side: bytes.fromhex("".join(v["frame"] for v in talk[side])) for side in talk}
    server, client = ServerConnection(), ClientConnection()
    assert server.receive(PREFACE + said["client"]) == [expected(v) for v in talk["client"]]
    assert client.receive(said["daemon"]) == [expected(v) for v in talk["daemon"]]
