"""Events out of options and lines of JSON, refused here by what the daemon refuses by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from tallymark.errors import UsageError
from tallymark.events import (
    ARTIFACTS_MAX,
    COST_USD_MAX,
    DURATION_SECONDS_MAX,
    EVENT_BYTES_MAX,
    EVENT_DEPTH_MAX,
    EVENT_TYPES,
    ID_CHARS_MAX,
    TOKENS_MAX,
    RunStatus,
    SessionStatus,
    SessionType,
)
from tallymark.faults import ID_FIELDS, cut_texts, find_fault, missing_fields
from tallymark.protocol.nesting import is_deep
from tallymark.texts import clean
from tallymarkd.cli.event_options import any_of, option_name
from tallymarkd.text import json_fault, quoted

WORDS = {
    ("run.end", "status"): any_of(RunStatus),
    ("session.end", "status"): any_of(SessionStatus),
    ("session.start", "session_type"): any_of(SessionType),
}
"""Fields that take one of a few words."""

RIGHT = {
    "artifacts": f"a list of at most {ARTIFACTS_MAX} texts",
    "at": "a time with its zone, as in 2026-01-02T03:04:05Z",
    "attrs": "an object",
    "pid": "a whole number from 0 to 2147483647",
    "seconds": f"a number from 0 to {DURATION_SECONDS_MAX:.0f}",
    "tokens": f"a whole number from 0 to {TOKENS_MAX}",
    "usd": f"a number from 0 to {COST_USD_MAX:.0f}",
}
"""What a field must be, by the last word of its name; any other is text."""

FROM_ENVIRONMENT = {
    "session_id": "TALLYMARK_SESSION_ID",
    "parent_run_id": "TALLYMARK_PARENT_RUN_ID",
}
"""What a run gives to the processes that it starts."""

NAMED_LATER = "?"
"""Stands for the id that an event gets when it is recorded."""

_fault = re.compile(r"(?P<cause>.*?)(?: - at `\$\.?(?P<field>\w*).*`)?", re.DOTALL)
_encoder = msgspec.msgpack.Encoder()


class FieldFault(ValueError):
    """A field that cannot be what it is."""

    def __init__(self, name: str, right: str) -> None:
        super().__init__(f"{name}: it must be {right}")
        self.name = name
        self.right = right


class FieldsMissing(ValueError):
    """Fields without which the event means nothing."""

    def __init__(self, kind: str, names: tuple[str, ...]) -> None:
        super().__init__(f"{kind} needs {', '.join(names)}")
        self.names = names


def event_of(
    given: Mapping[str, Any], env: Mapping[str, str], now: datetime, project: str
) -> dict[str, Any]:
    """The event that options describe, as plain values, to be recorded for the project.

    It may still lack an ``event_id``. Raises ``UsageError``.
    """
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
    fields.setdefault("at", now)
    try:
        return _checked(kind, fields, project)
    except FieldFault as fault:
        value = quoted(fields.get(fault.name))
        raise UsageError(
            f"cannot use {option_name(fault.name)} {value}: it must be {fault.right}"
        ) from None
    except FieldsMissing as missing:
        options = " and ".join(map(option_name, missing.names))
        raise UsageError(f"cannot record it: {missing}; give {options}") from None
    except ValueError as error:
        raise UsageError(f"cannot record it: {error}") from None


def _checked(kind: str, fields: dict[str, Any], project: str) -> dict[str, Any]:
    """The fields of options, as the types of such an event, with its ``type``."""
    texts = {name: _text(value) for name, value in fields.items() if name not in ID_FIELDS}
    given = {"event_id": NAMED_LATER, **fields, **texts, "type": kind}
    event = _check(kind, given, project, strict=False)
    found = {"type": kind, **{name: getattr(event, name) for name in fields}}
    _check_size(found)
    return found


def _text(value: Any) -> Any:
    """A text, or several, as the library would record it; anything else as it is."""
    if isinstance(value, tuple):
        return [clean(item) for item in value]
    return clean(value) if isinstance(value, str) else value


def event_of_line(line: bytes, project: str) -> dict[str, Any]:
    """The event in a line of JSON, as plain values, to be recorded for the project.

    Fields and types that are not known here pass as they are; text that is too long is
    cut. Raises ``ValueError`` with the fault.
    """
    try:
        event = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {json_fault(error)}") from None
    if not isinstance(event, dict):
        raise ValueError("it is not a JSON object")
    kind = event.get("type")
    if not isinstance(kind, str) or not kind:
        raise ValueError("it has no type, as in " + '"type": "run.end"')
    if is_deep(event, 1):
        raise ValueError(f"it is nested deeper than the {EVENT_DEPTH_MAX} levels allowed")
    if kind in EVENT_TYPES:
        cut_texts(event)
        _check(kind, event, project, strict=True)
    _check_size(event)
    return event


def _check(kind: str, fields: Mapping[str, Any], project: str, *, strict: bool) -> Any:
    """The event of these fields. Raises ``ValueError`` where the daemon would refuse it."""
    known = ("type", *EVENT_TYPES[kind].__struct_fields__)
    shown = {name: value for name, value in fields.items() if name in known}
    try:
        event = msgspec.convert(shown, EVENT_TYPES[kind], strict=strict)
    except msgspec.ValidationError as error:
        cause, name = split_fault(str(error))
        raise FieldFault(name, what_is_right(kind, name)) if name else ValueError(cause) from None
    missing = missing_fields(event)
    if missing:
        raise FieldsMissing(kind, missing)
    fault = find_fault(event, project)
    if fault is not None:
        raise ValueError(fault[1])
    return event


def _check_size(event: dict[str, Any]) -> None:
    try:
        size = len(_encoder.encode(event))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"it cannot be encoded: {error}") from None
    if size > EVENT_BYTES_MAX:
        raise ValueError(f"it has {size} bytes, and at most {EVENT_BYTES_MAX} are allowed")


def what_is_right(kind: str, name: str) -> str:
    """What such a field of such an event must be."""
    if name in ID_FIELDS:
        return f"text of at most {ID_CHARS_MAX} characters"
    words = WORDS.get((kind, name))
    return words or RIGHT.get(name.rpartition("_")[2], "text")


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"cannot use --attr {quoted(text)}: KEY=VALUE is right")
        pairs[key] = value
    return pairs


def split_fault(fault: str) -> tuple[str, str]:
    """What msgspec says is wrong, and with which field; empty when with none."""
    found = _fault.fullmatch(fault)
    assert found is not None  # it matches anything
    cause = found["cause"]
    return cause[:1].lower() + cause[1:], found["field"] or ""
