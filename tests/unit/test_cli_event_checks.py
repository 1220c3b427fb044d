from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tallymark.errors import UsageError
from tallymark.events import EVENT_TYPES
from tallymark.texts import clean
from tallymarkd.cli.event_checks import event_of, event_of_line

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
PROJECT = "demo"


def from_options(env: dict[str, str] | None = None, /, **given: Any) -> dict[str, Any]:
    return event_of(given, env or {}, NOW, PROJECT)


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
    event = from_options(env, kind="run.end", agent_name="x", session_id="mine")
    assert event["session_id"] == "mine"
    assert "parent_run_id" not in from_options(env, kind="usage")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "without --type: usage, run.start, run.end, session.start, session.end"),
        ({"kind": "usage", "artifacts": ("x",)}, "--artifact: usage has no such field"),
        (
            {"kind": "usage", "input_tokens": "many"},
            "--input-tokens 'many': it must be a whole number from 0 to",
        ),
        ({"kind": "usage", "input_tokens": "-1"}, "--input-tokens '-1': it must be a whole number"),
        ({"kind": "usage", "estimated_cost_usd": "1e9"}, "--cost-usd '1e9'"),
        ({"kind": "usage", "estimated_cost_usd": "abc"}, "'abc': it must be a number from 0 to"),
        ({"kind": "usage", "at": "noon"}, "--at 'noon'"),
        (
            {"kind": "usage", "at": "2026-01-01T00:00:00"},
            "with its zone, as in 2026-01-02T03:04:05Z",
        ),
        ({"kind": "usage", "attrs": ("x",)}, "--attr 'x': KEY=VALUE is right"),
        (
            {"kind": "usage", "session_id": "x" * 513},
            f"--session-id '{'x' * 60}'…: it must be text of at most 512 characters",
        ),
        ({"kind": "usage", "attrs": ("x" * 100,)}, f"--attr '{'x' * 60}'…: KEY=VALUE"),
        ({"kind": "usage", "attrs": ("x=" + "y" * 70_000,)}, "at most 65536 are allowed"),
        ({"kind": "usage", "session_id": "\udcff"}, "cannot be encoded"),
        ({"kind": "usage", "cache_read_tokens": "1"}, "exceed `input_tokens`"),
        ({"kind": "run.end"}, "record it: run.end needs agent_name; give --agent"),
        ({"kind": "run.start"}, "record it: run.start needs agent_name; give --agent"),
        ({"kind": "session.end"}, "record it: session.end needs session_id; give --session-id"),
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
        event_of(given, {}, NOW, PROJECT)
    assert str(caught.value).startswith("cannot ")
    assert told in str(caught.value)


def test_text_is_cut_as_the_library_cuts_it() -> None:
    text = "x" * 70_000
    event = from_options(kind="run.end", agent_name="x", error_message=text, artifacts=(text,))
    assert event["error_message"] == event["artifacts"][0] == clean(text)
    given = {"type": "run.end", "agent_name": "x", "ticket_key": text, "artifacts": [text, "a"]}
    event = event_of_line(msgspec.json.encode(given), PROJECT)
    assert event == {**given, "ticket_key": clean(text), "artifacts": [clean(text), "a"]}


def test_text_that_has_no_encoding_is_recorded_as_the_library_would() -> None:
    event = from_options(kind="run.end", agent_name="x", cwd="/tmp/\udcff")
    assert event["cwd"] == "/tmp/?"


def test_a_line_keeps_what_is_not_known_here() -> None:
    line = b'{"type":"run.end","agent_name":"x","surprise":[1],"at":"2026-01-01T00:00:00Z"}'
    assert event_of_line(line, PROJECT) == msgspec.json.decode(line)
    assert event_of_line(b'{"type":"made.up","n":1}', PROJECT) == {"type": "made.up", "n": 1}


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
        (
            b'{"type":"usage","input_tokens":"3"}',
            "input_tokens: it must be a whole number from 0 to ",
        ),
        (b'{"type":"usage","input_tokens":-3}', "input_tokens: it must be a whole number"),
        (b'{"type":"run.end","ended_at":"noon"}', "ended_at: it must be a time with its zone"),
        (b'{"type":"run.start"}', "run.start needs agent_name, run_id"),
        (b'{"type":"run.start","agent_name":"x"}', "run.start needs run_id"),
        (b'{"type":"usage","project":"other"}', "`project` is 'other'"),
        (b'{"type":"x","n":' + b"[" * 100 + b"]" * 100 + b"}", "it is nested deeper than the 100"),
        (b'{"type":"x","n":' + b"9" * 30 + b"}", "it cannot be encoded"),
        (b'{"type":"x","n":"' + b"9" * 65_536 + b'"}', "it has 65"),
    ],
)
def test_a_line_that_is_no_event_is_told_what_is_wrong(line: bytes, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        event_of_line(line, PROJECT)
    assert str(caught.value).startswith(told)
