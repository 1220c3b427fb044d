from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallymarkd.core.plain import DEPTH_MAX, plain_dict


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\x00\xff", "AP8="),
        (msgspec.msgpack.Ext(7, b"\x01"), "ext 7: AQ=="),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
        (2**64, str(2**64)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (2**64 - 1, 2**64 - 1),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00+00:00"),
        ((1, 2), [1, 2]),
        ({1: True, b"k": None}, {"1": True, "aw==": None}),
        ([None, True, 0, 0.5, "é"], [None, True, 0, 0.5, "é"]),
    ],
)
def test_what_json_cannot_hold_becomes_text(value: Any, expected: Any) -> None:
    assert plain_dict({"k": value}) == {"k": expected}


def test_what_is_nested_too_deeply_becomes_text() -> None:
    value: Any = "end"
    for _ in range(DEPTH_MAX + 5):
        value = {"k": value}
    found: Any = plain_dict(value)
    depth = 0
    while isinstance(found, dict):
        found, depth = found["k"], depth + 1

    assert (found, depth) == ("(nested too deeply)", DEPTH_MAX)


def test_the_given_is_not_changed() -> None:
    inner = [b"x"]
    plain_dict({"k": inner})

    assert inner == [b"x"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), anything))
def test_the_result_survives_json_and_is_its_own_result(values: dict[str, Any]) -> None:
    found = plain_dict(values)

    assert plain_dict(found) == found
    assert msgspec.json.decode(msgspec.json.encode(found)) == found
