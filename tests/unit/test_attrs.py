"""``attrs``: what the daemon takes passes, as a copy; the rest is none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tallymark.attrs import ATTRS_BYTES_MAX, clean_attrs
from tallymark.checking import check_event
from tallymark.errors import UsageError
from tallymark.events import EVENT_DEPTH_MAX, Usage
from tests.derived import Dollars, Text


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        ({Text("a"): (Text("x"), Dollars(0.5))}, {"a": ["x", 0.5]}),
        ([("a", 1)], {"a": 1}),
        (nested(EVENT_DEPTH_MAX - 1), nested(EVENT_DEPTH_MAX - 1)),
    ],
)
def test_what_the_daemon_takes(given: Any, expected: dict[str, Any]) -> None:
    found = clean_attrs(given)
    assert found == expected
    check_event(msgspec.msgpack.encode(Usage(attrs=found)), "p")


@pytest.mark.parametrize(
    "given",
    [
        {1: 2},
        {None: 2},
        {"m": {None: 2}},
        {"m": {(1, 2): 2}},
        nested(EVENT_DEPTH_MAX),
    ],
)
def test_what_the_daemon_refuses(given: Any) -> None:
    assert clean_attrs(given) is None
    with pytest.raises(UsageError):
        check_event(msgspec.msgpack.encode(Usage(attrs=given)), "p")


@pytest.mark.parametrize(
    "given", [None, 5, "text", {"x": object()}, nested(10_000), {"x": "y" * ATTRS_BYTES_MAX}]
)
def test_what_cannot_travel(given: Any) -> None:
    assert clean_attrs(given) is None
