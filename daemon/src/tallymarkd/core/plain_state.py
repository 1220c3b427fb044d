"""A ``DashboardState`` from plain dicts, those of older programs included.

Older files lack the newer fields, write times without a zone (they meant UTC)
or as an empty string (there is none), and null where there is no text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from tallymark.state import (
    STATE_VERSION,
    TIME_FIELDS,
    DashboardState,
    FinishedRun,
    time_from,
)

REQUIRED = frozenset(
    "version project_name created_at updated_at total_sessions total_tokens total_cost_usd"
    " total_duration_seconds agents events sessions".split()
)
"""Fields without which it is no state; the others are newer."""

_RUN_FIELDS = frozenset(FinishedRun.__struct_fields__)


def state_from(state: object) -> DashboardState:
    """A valid state of its own, sharing nothing with what was given.

    Raises ``ValueError`` saying what is wrong.
    """
    try:
        plain = msgspec.to_builtins(state, builtin_types=(datetime,))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"cannot use the state: {error}") from None
    if not isinstance(plain, Mapping):
        raise ValueError(f"cannot use the state: a mapping is needed, not {type(state).__name__}")
    missing = sorted(name for name in REQUIRED if plain.get(name) is None)
    if missing:
        raise ValueError(f"cannot use the state: it lacks {', '.join(missing)}")
    try:
        found = msgspec.convert(_mended(plain), DashboardState)
        msgspec.json.encode(found)  # fails on text that is no Unicode, which no file can hold
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise ValueError(f"cannot use the state: {error}") from None
    if found.version > STATE_VERSION:
        raise ValueError(
            f"cannot use the state: it has version {found.version}, and this is for {STATE_VERSION}"
        )
    return found


def _mended(plain: Mapping[str, Any]) -> dict[str, Any]:
    state = _fields(plain)
    if isinstance(state.get("agents"), dict):
        state["agents"] = {name: _named(name, each) for name, each in state["agents"].items()}
    if isinstance(state.get("sessions"), list):
        state["sessions"] = [_object(each) for each in state["sessions"]]
    if isinstance(state.get("events"), list):
        state["events"] = [_with_extra(_object(each)) for each in state["events"]]
    return state


def _named(name: Any, profile: Any) -> Any:
    """A profile; its name also stands before it."""
    return {"agent_name": name, **_fields(profile)} if isinstance(profile, dict) else profile


def _object(value: Any) -> Any:
    return _fields(value) if isinstance(value, dict) else value


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """An object's fields with its times mended, without those that are null."""
    found = {}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"cannot use the state: {name} is {value}, which no file can hold")
        if value is None or (name in TIME_FIELDS and value == ""):
            continue
        found[name] = time_from(value) if name in TIME_FIELDS else value
    return found


def _with_extra(run: Any) -> Any:
    """Fields of a run that this version does not know are kept in ``extra``."""
    if not isinstance(run, dict):
        return run
    run.setdefault("agent_name", "")
    unknown = {name: value for name, value in run.items() if name not in _RUN_FIELDS}
    if not unknown:
        return run
    known = {name: value for name, value in run.items() if name in _RUN_FIELDS}
    extra = known.get("extra")
    known["extra"] = {**unknown, **(extra if isinstance(extra, dict) else {})}
    return known
