"""What ``tallymark emit -`` takes from a line of JSON is what the daemon stores."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tallymark.events import EVENT_BYTES_MAX, TEXT_CHARS_MAX
from tallymarkd.cli.event_checks import event_of_line
from tallymarkd.core.admission import Admission
from tests.daemon_parts import NOON_NS, UID, fleeting_keys
from tests.property.test_admission import likely, twisted

PROJECT = "demo"


def verdict_of(event: object) -> tuple[int, int, int]:
    """How many of this one are stored, duplicate, rejected."""
    admission = Admission(fleeting_keys(), lambda _: None, lambda: "new")
    batch = msgspec.msgpack.encode([event])
    return admission.decide(batch, 1, project=PROJECT, uid=UID, received_ns=NOON_NS).counts


@given(event=st.one_of(likely, twisted))
@example(event={"type": "run.start", "agent_name": "x"})
@example(event={"type": "run.start", "agent_name": "x", "event_id": "e"})
@example(event={"type": "usage", "session_id": None})
@example(event={"type": "usage", "input_tokens": 3.0})
@example(event={"type": "usage", "attrs": {"text": "x" * EVENT_BYTES_MAX}})
@example(event={"type": "session.end", "session_id": "s", "source": "x" * (TEXT_CHARS_MAX + 1)})
@example(event={"type": "session.end", "session_id": "s", "project": "other"})
def test_a_line_is_taken_exactly_when_the_daemon_would_store_it(event: dict[str, Any]) -> None:
    try:
        line = msgspec.json.encode(event)
        raw = msgspec.msgpack.encode([msgspec.json.decode(line)])
    except (TypeError, ValueError, OverflowError):
        assume(False)
    assume(len(raw) <= EVENT_BYTES_MAX or event.get("attrs"))
    try:
        taken = event_of_line(line, PROJECT)
    except ValueError:
        assert verdict_of(msgspec.json.decode(line)) == (0, 0, 1)
    else:
        assert verdict_of(taken) == (1, 0, 0)
