from __future__ import annotations

import pytest

from tallymarkd.text import one_line, quoted, short_quotes, span


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain text, tab\tand é", "plain text, tab\tand é"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("line\u2028separator", "line\\u2028separator"),
        ("right\u202eto left", "right\\u202eto left"),
        ("half \ud800 a pair", "half \\ud800 a pair"),
    ],
)
def test_one_line_escapes_what_could_forge_a_line_or_drive_a_terminal(
    given: str, shown: str
) -> None:
    assert one_line(given) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("abc", "'abc'"),
        ("a'b\n", '"a\'b\\n"'),
        ("x" * 60, f"'{'x' * 60}'"),
        ("x" * 61, f"'{'x' * 60}'…"),
        (12, "12"),
        ([1] * 50, f"{str([1] * 50)[:60]}…"),
    ],
)
def test_what_was_given_is_told_back_only_so_far(value: object, shown: str) -> None:
    assert quoted(value) == shown


def test_in_a_message_of_somebody_else_as_well() -> None:
    assert short_quotes(f"'{'x' * 60}' is no 'number'") == f"'{'x' * 60}' is no 'number'"
    assert short_quotes(f"'{'x' * 61}' is no 'number'") == f"'{'x' * 60}'… is no 'number'"


def test_a_span_of_one_has_one_end() -> None:
    assert span("number", "numbers", 5, 5) == "number 5"
    assert span("number", "numbers", 5, 7) == "numbers 5 to 7"
