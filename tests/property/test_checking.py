"""What the library refuses to wait for is exactly what the daemon would refuse for good."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tallymark.checking import check_event
from tallymark.errors import UsageError
from tallymark.events import EVENT_BYTES_MAX, EVENT_DEPTH_MAX, TEXT_CHARS_MAX
from tallymarkd.core.admission import Admission
from tests.daemon_parts import NOON_NS, UID, fleeting_keys
from tests.property.test_admission import likely, twisted

PROJECT = "demo"
LONG = "x" * (TEXT_CHARS_MAX + 1)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def stored(raw: bytes) -> bool:
    admission = Admission(fleeting_keys(), lambda _: None, lambda: "new")
    decision = admission.decide(b"\x91" + raw, 1, project=PROJECT, uid=UID, received_ns=NOON_NS)
    return decision.counts == (1, 0, 0)


@given(event=st.one_of(likely, twisted))
@example(event={"type": "run.start", "agent_name": "x"})
@example(event={"type": "run.start", "agent_name": "x", "event_id": "e"})
@example(event={"type": "usage", "input_tokens": -5})
@example(event={"type": "usage", "session_id": "i" * 513, "source": LONG})
@example(event={"type": "usage", "source": LONG, "surprise": LONG})
@example(event={"type": "usage", "attrs": {"x": nested(EVENT_DEPTH_MAX - 2)}})
@example(event={"type": "usage", "attrs": {"x": nested(EVENT_DEPTH_MAX - 1)}})
@example(event={"type": "usage", "surprise": nested(EVENT_DEPTH_MAX - 1)})
@example(event={"type": "usage", "surprise": nested(EVENT_DEPTH_MAX)})
@example(event={"type": "tomorrow", "n": nested(EVENT_DEPTH_MAX - 1)})
@example(event={"type": "tomorrow", "n": nested(EVENT_DEPTH_MAX)})
@example(event={"type": "usage", "attrs": {1: 2}})
@example(event={"type": "usage", "attrs": {"x": {None: 2}}})
@example(event={"type": "usage", "attrs": {"x": "y" * EVENT_BYTES_MAX}})
@example(event={"type": "session.end", "session_id": "s", "project": "other"})
@example(event={"type": "session.end"})
@example(event={"type": ""})
@example(event={"agent_name": "x"})
def test_an_event_passes_exactly_when_the_daemon_would_store_it(event: dict[str, Any]) -> None:
    try:
        raw = msgspec.msgpack.encode(event)
    except (TypeError, ValueError, OverflowError):
        assume(False)
    try:
        check_event(raw, PROJECT)
    except UsageError:
        assert not stored(raw)
    else:
        assert stored(raw)
