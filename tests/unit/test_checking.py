"""What could never be recorded is told by name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest

from tallymark.checking import check_event
from tallymark.errors import UsageError
from tallymark.events import EVENT_DEPTH_MAX, TEXT_CHARS_MAX, RunEnd, Usage


def check(event: object) -> None:
    check_event(msgspec.msgpack.encode(event), "p")


@pytest.mark.parametrize(
    "event",
    [
        Usage(agent_name="a", project="p", attrs={"x": [1]}),
        RunEnd(agent_name="a", error_message="x" * (TEXT_CHARS_MAX + 1)),
        {"type": "usage", "agent_name": "a", "surprise": {"x": 1}},
        {"type": "tomorrow", "session_id": 5},
    ],
)
def test_what_can_be_recorded_passes(event: object) -> None:
    check(event)


DEEP: Any = []
for _ in range(EVENT_DEPTH_MAX):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Usage(input_tokens=-5), r">= 0 - at `\$.input_tokens`"),
        (Usage(at=datetime(2026, 1, 2)), r"timezone component - at `\$.at`"),  # noqa: DTZ001
        (Usage(project="other"), "`project` is 'other', the sender's is 'p'"),
        (Usage(cache_read_tokens=1), "exceed `input_tokens`"),
        (RunEnd(), "`agent_name` is missing"),
        (Usage(attrs={"x": DEEP}), "nested deeper than the 100 levels"),
        (Usage(attrs={"x": {None: 1}}), "`attrs` cannot be written as JSON"),
        (Usage(attrs={"x": "y" * 70_000}), "the limit is 65536"),
        (Usage(session_id="i" * 600), "`session_id` has 600 characters and the limit is 512"),
        ({"type": "usage", "input_tokens": "x"}, r"`int`, got `str` - at `\$.input_tokens`"),
        ({"type": "tomorrow", "x": DEEP}, "nested deeper"),
        ({"type": ""}, "it has no `type`"),
        (["usage"], "Expected `object`, got `array`"),
    ],
)
def test_what_cannot_be_recorded_is_told(event: object, said: str) -> None:
    with pytest.raises(UsageError, match=f"^cannot record the event: .*{said}"):
        check(event)
