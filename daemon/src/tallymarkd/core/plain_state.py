"""A ``DashboardState`` from plain dicts, those of older programs included.

Older files lack the newer fields, write times without a zone (they meant UTC)
or as an empty string (there is none), and null where there is no text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from tallymark.state import DashboardState, FinishedRun

REQUIRED = frozenset(
    "version project_name created_at updated_at total_sessions total_tokens total_cost_usd"
    " total_duration_seconds agents events sessions".split()
)
"""Fields without which it is no state; the others are newer."""

_TIMES = frozenset({"created_at", "updated_at", "started_at", "ended_at", "last_active"})
_RUN_FIELDS = frozenset(FinishedRun.__struct_fields__)
_ZONE = re.compile(r"(?:[zZ]|[+-]\d\d:?\d\d)$")


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
        return msgspec.convert(_mended(plain), DashboardState)
    except msgspec.ValidationError as error:
        raise ValueError(f"cannot use the state: {error}") from None


def _mended(plain: Mapping[str, Any]) -> dict[str, Any]:
    state = _fields(plain)
    if isinstance(state.get("agents"), dict):
        state["agents"] = {name: _object(each) for name, each in state["agents"].items()}
    if isinstance(state.get("sessions"), list):
        state["sessions"] = [_object(each) for each in state["sessions"]]
    if isinstance(state.get("events"), list):
        state["events"] = [_with_extra(_object(each)) for each in state["events"]]
    return state


def _object(value: Any) -> Any:
    return _fields(value) if isinstance(value, dict) else value


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """An object's fields with its times mended, without those that are null."""
    found = {}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"cannot use the state: {name} is {value}, which no file can hold")
        if value is None or (name in _TIMES and value == ""):
            continue
        found[name] = _time(value) if name in _TIMES else value
    return found


def _time(value: Any) -> Any:
    """The time in UTC; what is no time is left for the validation to name."""
    if isinstance(value, str):
        try:
            value = msgspec.convert(value if _ZONE.search(value) else value + "Z", datetime)
        except msgspec.ValidationError:
            return value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        try:
            return value.astimezone(UTC)
        except OverflowError:
            return None
    return value


def _with_extra(run: Any) -> Any:
    """Fields of a run that this version does not know are kept in ``extra``."""
    if not isinstance(run, dict):
        return run
    unknown = {name: value for name, value in run.items() if name not in _RUN_FIELDS}
    if not unknown:
        return run
    known = {name: value for name, value in run.items() if name in _RUN_FIELDS}
    extra = known.get("extra")
    known["extra"] = {**unknown, **(extra if isinstance(extra, dict) else {})}
    return known
