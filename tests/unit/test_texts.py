"""Text from anywhere: encodable, short enough, never an exception."""

from __future__ import annotations

import pytest

from tallymark.texts import clean, describe


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
