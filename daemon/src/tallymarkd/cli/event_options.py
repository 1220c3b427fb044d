"""Events out of options and lines of JSON, checked as the daemon will check them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar, get_args

import click
import msgspec

from tallymark.errors import UsageError
from tallymark.events import (
    EVENT_TYPES,
    TEXT_CHARS_MAX,
    RunStatus,
    SessionStatus,
    SessionType,
)
from tallymarkd.text import json_fault

F = TypeVar("F", bound=Callable[..., object])


def _any(words: Any) -> str:
    *others, last = get_args(words)
    return f"{', '.join(others)} or {last}"


SHORT_NAMES = {
    "agent_name": "agent",
    "artifacts": "artifact",
    "attrs": "attr",
    "error_message": "error",
    "estimated_cost_usd": "cost-usd",
    "model_used": "model",
    "ticket_key": "ticket",
}
"""Fields whose option is not spelled like them."""

HELP = {
    "artifacts": "kind:value, as in commit:abc123. Can be repeated.",
    "at": "When, as in 2026-01-02T03:04:05Z.  [default: now]",
    "attrs": "Anything else. Can be repeated.",
    "cache_read_tokens": "How many of the tokens read came from a cache.",
    "cache_write_tokens": "How many of the tokens read went to a cache.",
    "cost_source": "Where the cost comes from.",
    "cwd": "Working directory.",
    "dedupe_key": "Names the thing counted: a second event with it changes nothing.",
    "error_message": "What went wrong.",
    "estimated_cost_usd": "What it cost.  [default: by the model's price]",
    "event_id": "Names this event.  [default: a new id]",
    "input_tokens": "Tokens read, with those from and to a cache.",
    "output_tokens": "Tokens written, with reasoning.",
    "parent_run_id": "The run that started this one.  [default: TALLYMARK_PARENT_RUN_ID]",
    "run_id": "The run it belongs to.",
    "session_id": "The session it belongs to.  [default: TALLYMARK_SESSION_ID]",
    "source": "The program that observed it.",
    "status": f"Of a run {_any(RunStatus)}; of a session {_any(SessionStatus)}.",
    "session_type": f"{_any(SessionType)}.",
    "total_tokens": "The sum of input and output, if it is not that.",
}

METAVARS = {
    "artifacts": "ARTIFACT",
    "at": "TIME",
    "attrs": "KEY=VALUE",
    "cwd": "PATH",
    "ended_at": "TIME",
    "error_message": "TEXT",
    "model_used": "MODEL",
    "started_at": "TIME",
    "ticket_key": "TICKET",
}
"""Where the field's last word does not say it."""

WORDS = {
    ("run.end", "status"): _any(RunStatus),
    ("session.end", "status"): _any(SessionStatus),
    ("session.start", "session_type"): _any(SessionType),
}
"""Fields that take one of a few words."""

FROM_ENVIRONMENT = {
    "session_id": "TALLYMARK_SESSION_ID",
    "parent_run_id": "TALLYMARK_PARENT_RUN_ID",
}
"""What a run gives to the processes that it starts."""

_fault = re.compile(r"(?P<cause>.*?)(?: - at `\$\.?(?P<field>\w*).*`)?", re.DOTALL)


def field_names() -> list[str]:
    """Every field of any event that has an option of its own."""
    names = {name: None for kind in EVENT_TYPES.values() for name in kind.__struct_fields__}
    return [name for name in names if name != "project"]


def option_name(field: str) -> str:
    """The option of a field."""
    return "--" + SHORT_NAMES.get(field, field).replace("_", "-")


def event_options(function: F) -> F:
    """Add --type and an option for every field of an event."""
    for name in reversed(field_names()):
        several = name in ("artifacts", "attrs")
        function = click.option(
            name,
            option_name(name),
            multiple=several,
            default=() if several else None,
            metavar=METAVARS.get(name, name.rpartition("_")[2].upper()),
            help=HELP.get(name),
        )(function)
    return click.option(
        "kind", "--type", type=click.Choice(list(EVENT_TYPES)), help="What happened."
    )(function)


def event_of(given: Mapping[str, Any], env: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """The event that options describe, as plain values. Raises ``UsageError``."""
    kind = given.get("kind")
    if kind is None:
        raise UsageError(f"cannot record an event without --type: {', '.join(EVENT_TYPES)}")
    fields = {name: value for name, value in given.items() if name != "kind"}
    known = EVENT_TYPES[kind].__struct_fields__
    for name in fields:
        if name not in known:
            raise UsageError(f"cannot use {option_name(name)}: {kind} has no such field")
    if "attrs" in fields:
        fields["attrs"] = _pairs(fields["attrs"])
    for name, variable in FROM_ENVIRONMENT.items():
        if name in known and name not in fields and env.get(variable):
            fields[name] = env[variable]
    try:
        event = check_fields(kind, fields, strict=False)
    except ValueError as error:
        raise UsageError(_explain(kind, fields, str(error))) from None
    return {"at": now, **event}


def event_of_line(line: bytes) -> dict[str, Any]:
    """The event in a line of JSON, as plain values. Raises ``ValueError`` with the fault.

    Fields and types that are not known here pass as they are.
    """
    try:
        fields = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {json_fault(error)}") from None
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")
    kind = fields.pop("type", None)
    if not isinstance(kind, str) or not kind:
        raise ValueError("it has no type, as in " + '"type": "run.end"')
    if kind in EVENT_TYPES:
        try:
            check_fields(kind, fields, strict=True)
        except ValueError as error:
            cause, name = split_fault(str(error))
            raise ValueError(f"{name}: {cause}" if name else cause) from None
    return {**fields, "type": kind}


def check_fields(kind: str, fields: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    """The fields as the types of such an event, with its ``type``. Raises ``ValueError``.

    Text that is too long is not refused here: the daemon cuts and marks it.
    """
    known = EVENT_TYPES[kind].__struct_fields__
    long = {name: value for name, value in fields.items() if _is_long(name, value)}
    shown = {name: value for name, value in fields.items() if name in known}
    shown |= {name: value[:TEXT_CHARS_MAX] for name, value in long.items() if name in known}
    event = msgspec.convert({"type": kind, **shown}, EVENT_TYPES[kind], strict=strict)
    return {"type": kind, **fields, **{name: getattr(event, name) for name in shown}, **long}


def _is_long(name: str, value: object) -> bool:
    return (
        isinstance(value, str)
        and len(value) > TEXT_CHARS_MAX
        and not name.endswith(("_id", "_key", "_name"))
    )


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"cannot use --attr {text!r}: KEY=VALUE is right")
        pairs[key] = value
    return pairs


def _explain(kind: str, fields: Mapping[str, Any], fault: str) -> str:
    """What msgspec says of a field, said of its option."""
    cause, name = split_fault(fault)
    if name not in fields:
        return f"cannot use these options: {cause}"
    words = WORDS.get((kind, name))
    if words:
        cause = f"it must be {words}"
    return f"cannot use {option_name(name)} {fields[name]!r}: {cause}"


def split_fault(fault: str) -> tuple[str, str]:
    """What msgspec says is wrong, and with which field; empty when with none."""
    found = _fault.fullmatch(fault)
    assert found is not None  # it matches anything
    cause = found["cause"]
    return cause[:1].lower() + cause[1:], found["field"] or ""
