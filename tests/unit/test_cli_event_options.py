from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tallymark.errors import UsageError
from tallymark.events import EVENT_TYPES, TEXT_CHARS_MAX
from tallymarkd.cli import event_options
from tallymarkd.cli.event_options import event_of, event_of_line

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


def from_options(env: dict[str, str] | None = None, /, **given: Any) -> dict[str, Any]:
    return event_of(given, env or {}, NOW)


def test_every_field_of_every_event_has_an_option_of_its_own() -> None:
    names = event_options.field_names()
    options = [event_options.option_name(name) for name in names]
    assert len(set(options)) == len(options)
    for kind in EVENT_TYPES.values():
        assert set(kind.__struct_fields__) - {"project"} <= set(names)
    assert event_options.option_name("agent_name") == "--agent"
    assert event_options.option_name("cache_read_tokens") == "--cache-read-tokens"
    tables = (event_options.SHORT_NAMES, event_options.HELP, event_options.METAVARS)
    for name in {name for table in tables for name in table}:
        assert name in names


def test_options_become_values_of_their_types() -> None:
    event = from_options(
        kind="run.end",
        agent_name="coding",
        input_tokens="1000",
        estimated_cost_usd="0.25",
        started_at="2026-05-04T14:00:00+02:00",
        artifacts=("commit:1", "file:a b"),
        attrs=("a=b", "c=d=e"),
        status="blocked",
    )
    assert event == {
        "type": "run.end",
        "at": NOW,
        "agent_name": "coding",
        "input_tokens": 1000,
        "estimated_cost_usd": 0.25,
        "started_at": NOW,
        "artifacts": ["commit:1", "file:a b"],
        "attrs": {"a": "b", "c": "d=e"},
        "status": "blocked",
    }
    msgspec.convert(event, EVENT_TYPES["run.end"])


def test_a_time_that_is_given_is_kept() -> None:
    event = from_options(kind="usage", at="2026-01-01T00:00:00Z")
    assert event["at"] == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_run_tells_the_processes_it_starts_where_they_belong() -> None:
    env = {"TALLYMARK_SESSION_ID": "s-1", "TALLYMARK_PARENT_RUN_ID": "r-1"}
    event = from_options(env, kind="run.end", agent_name="x")
    assert (event["session_id"], event["parent_run_id"]) == ("s-1", "r-1")
    event = from_options(env, kind="run.end", session_id="mine")
    assert event["session_id"] == "mine"
    assert "parent_run_id" not in from_options(env, kind="usage")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "without --type: usage, run.start, run.end, session.start, session.end"),
        ({"kind": "usage", "artifacts": ("x",)}, "--artifact: usage has no such field"),
        ({"kind": "usage", "input_tokens": "many"}, "--input-tokens 'many': expected `int`"),
        ({"kind": "usage", "input_tokens": "-1"}, "--input-tokens '-1': expected `int` >= 0"),
        ({"kind": "usage", "estimated_cost_usd": "1e9"}, "--cost-usd '1e9'"),
        ({"kind": "usage", "at": "noon"}, "--at 'noon'"),
        ({"kind": "usage", "at": "2026-01-01T00:00:00"}, "--at"),
        ({"kind": "usage", "attrs": ("x",)}, "--attr 'x': KEY=VALUE is right"),
        ({"kind": "usage", "session_id": "x" * 513}, "--session-id"),
        (
            {"kind": "run.end", "status": "failed"},
            "--status 'failed': it must be success, error, timeout or blocked",
        ),
        ({"kind": "session.end", "status": "success"}, "continue, error or complete"),
        ({"kind": "session.start", "session_type": "x"}, "initializer or continuation"),
    ],
)
def test_a_wrong_option_is_refused_by_name(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        event_of(given, {}, NOW)
    assert str(caught.value).startswith("cannot ")
    assert told in str(caught.value)


def test_long_text_is_left_to_the_daemon_to_cut() -> None:
    text = "x" * (TEXT_CHARS_MAX + 1)
    assert from_options(kind="run.end", error_message=text)["error_message"] == text
    line = msgspec.json.encode({"type": "run.end", "error_message": text})
    assert event_of_line(line)["error_message"] == text


def test_a_line_keeps_what_is_not_known_here() -> None:
    line = b'{"type":"run.end","agent_name":"x","surprise":[1],"at":"2026-01-01T00:00:00Z"}'
    assert event_of_line(line) == msgspec.json.decode(line)
    assert event_of_line(b'{"type":"made.up","n":1}') == {"type": "made.up", "n": 1}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "it is not JSON"),
        (b"xx", "it is not JSON: invalid character"),
        (b'{"type":"\xff"}', "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[1]", "it is not a JSON object"),
        (b"{}", "it has no type"),
        (b'{"type":3}', "it has no type"),
        (b'{"type":""}', "it has no type"),
        (b'{"type":"usage","input_tokens":"3"}', "input_tokens: expected `int`, got `str`"),
        (b'{"type":"usage","input_tokens":-3}', "input_tokens: expected `int` >= 0"),
        (b'{"type":"run.end","ended_at":"noon"}', "ended_at: invalid"),
    ],
)
def test_a_line_that_is_no_event_is_told_what_is_wrong(line: bytes, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        event_of_line(line)
    assert str(caught.value).startswith(told)
