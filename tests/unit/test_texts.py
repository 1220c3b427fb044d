"""Text from anywhere: encodable, short enough, never an exception."""

from __future__ import annotations

import enum

import pytest

from tallymark.texts import clean, describe, one_of, plain
from tests.derived import Count, Dollars, Text


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        ("plain", "plain"),
        ("grün", "grün"),
        (5, "5"),
        ("half \ud800 pair", "half ? pair"),
        (Unspeakable(), "Unspeakable"),
    ],
)
def test_clean(value: object, expected: str) -> None:
    assert clean(value) == expected


class Kind(str, enum.Enum):  # noqa: UP042 - its text is another than its value
    CODING = "coding"


class Speaking:
    def __str__(self) -> str:
        return Text("spoken")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Text("plain"), "plain"),
        (Text("grün"), "grün"),
        (Kind.CODING, "coding"),
        (Speaking(), "spoken"),
    ],
)
def test_what_is_cleaned_is_of_no_derived_type(value: object, expected: str) -> None:
    found = clean(value)
    assert (type(found), found) == (str, expected)


class Incomparable:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("do not compare")

    __hash__ = None  # type: ignore[assignment]


def test_one_of() -> None:
    allowed = ("yes", "no")
    assert one_of(Text("no"), allowed) is allowed[1]
    for value in ("maybe", None, 5, ["yes"], Incomparable()):
        assert one_of(value, allowed) is None


@pytest.mark.parametrize(
    ("value", "expected"), [(Text("x"), "x"), (Count(5), 5), (Dollars(0.5), 0.5)]
)
def test_plain(value: object, expected: object) -> None:
    found = plain(value)
    assert (type(found), found) == (type(expected), expected)


def test_what_is_neither_text_nor_number_is_not_made_plain() -> None:
    with pytest.raises(TypeError, match="values of type Incomparable cannot be recorded"):
        plain(Incomparable())


def test_long_text_is_cut_with_a_mark() -> None:
    assert clean("x" * 4096) == "x" * 4096
    assert clean("x" * 4097) == "x" * 4089 + "… [cut]"
    assert clean("abcdefghijk", 10) == "abc… [cut]"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("boom"), "ValueError: boom"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (KeyError("x"), "KeyError: 'x'"),
        (Unspeakable(), "Unspeakable"),
    ],
)
def test_describe(error: BaseException, expected: str) -> None:
    assert describe(error) == expected
