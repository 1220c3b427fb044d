from __future__ import annotations

from tallymark.errors import ConnectError
from tallymarkd.cli.unreached import START, Unreached, remedy, where


def test_every_socket_that_was_tried_has_its_line() -> None:
    cause = ConnectError(
        "cannot reach tallymarkd at /a: no socket there; it is not running; "
        "nor at /b: permission denied; it belongs to another user"
    )
    lines = [
        "cannot reach tallymarkd at /a: no socket there; it is not running",
        "nor at /b: permission denied; it belongs to another user",
    ]
    assert where(cause) == lines
    error = Unreached("cannot do it", cause, "more")
    assert error.__notes__ == [*lines, "more", START]


def test_one_that_runs_is_not_to_be_started() -> None:
    assert remedy(ConnectError("cannot reach tallymarkd at /a: permission denied")) == []


def test_a_remedy_that_the_error_knows_stands_on_a_line_of_its_own() -> None:
    cause = ConnectError("cannot reach tallymarkd at /a: permission denied", "run it as ada")
    assert where(cause) == ["cannot reach tallymarkd at /a: permission denied"]
    assert remedy(cause) == ["run it as ada"]
    one_absent = ConnectError("cannot reach tallymarkd at /a: it is not running; nor at /b: x", "y")
    assert where(one_absent)[1:] == ["nor at /b: x"]
    assert remedy(one_absent) == ["y", START]
