from __future__ import annotations

import io

import pytest

from tallymarkd.cli.place import Place
from tallymarkd.cli.progress import Progress

PLACE = Place(None, None, False, {})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_it_draws_on_stderr_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with Progress(PLACE, "recording", 10) as progress:
        progress.advance(4)
        progress.advance(6)
    drawn = stream.getvalue()
    assert "recording" in drawn
    assert "10/10" in drawn
    assert drawn.endswith("\x1b[2K"), "the line is not cleared at the end"


def test_bytes_are_shown_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    with Progress(PLACE, "reading", 2_000_000, in_bytes=True) as progress:
        progress.advance(2_000_000)
    assert "2.0 MB" in stream.getvalue()


def test_without_a_terminal_it_draws_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(PLACE, "recording", 10) as progress:
        progress.advance(10)
    assert capsys.readouterr() == ("", "")
