"""What the daemon refuses and cuts, for whoever asks before sending."""

from __future__ import annotations

from typing import Any

import pytest

from tallymark.events import (
    TEXT_CHARS_MAX,
    Event,
    RunEnd,
    RunStart,
    SessionEnd,
    SessionStart,
    Usage,
)
from tallymark.faults import ID_FIELDS, cut_texts, find_fault, missing_fields
from tallymark.texts import clean

LONG = "x" * (TEXT_CHARS_MAX + 1)


@pytest.mark.parametrize(
    ("event", "missing"),
    [
        (Usage(), ()),
        (RunEnd(agent_name="a"), ()),
        (RunEnd(), ("agent_name",)),
        (RunStart(), ("agent_name", "run_id")),
        (RunStart(agent_name="a"), ("run_id",)),
        (RunStart(agent_name="a", event_id="e"), ()),
        (RunStart(run_id="r"), ("agent_name",)),
        (SessionStart(), ("session_id",)),
        (SessionEnd(session_id="s"), ()),
    ],
)
def test_what_an_event_cannot_do_without(event: Event, missing: tuple[str, ...]) -> None:
    assert missing_fields(event) == missing
    fault = find_fault(event, "demo")
    assert fault == (("missing_field", f"`{missing[0]}` is missing") if missing else None)


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (Usage(project="demo", attrs={"a": [1]}, input_tokens=3, cache_read_tokens=3), ""),
        (Usage(project="other"), "wrong_project"),
        (Usage(input_tokens=3, cache_read_tokens=2, cache_write_tokens=2), "cache_exceeds_input"),
        (Usage(attrs={"a": object()}), "invalid_field"),
    ],
)
def test_what_is_refused_has_a_code(event: Event, code: str) -> None:
    fault = find_fault(event, "demo")
    assert (fault[0] if fault else "") == code


def test_free_text_is_cut_and_ids_and_what_is_not_known_are_not() -> None:
    ids = dict.fromkeys(ID_FIELDS, LONG)
    given: dict[str, Any] = {"type": "run.end", **ids, "surprise": LONG, "status": "error"}
    event = {**given, "error_message": LONG, "ticket_key": LONG, "artifacts": [LONG, "a", 3]}
    assert cut_texts(event)
    assert event == {
        **given,
        "error_message": clean(LONG),
        "ticket_key": clean(LONG),
        "artifacts": [clean(LONG), "a", 3],
    }
    assert len(event["error_message"]) == TEXT_CHARS_MAX
    assert not cut_texts(event)
    assert not cut_texts({"type": ["run.end"], "error_message": LONG})
