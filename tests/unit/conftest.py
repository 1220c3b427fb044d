"""What tests of many modules are given."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.claude_files import Files
from tests.tallymark_command import Tallymark


@pytest.fixture
def tallymark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Tallymark:
    """The ``tallymark`` command, run in this process."""
    return Tallymark(tmp_path, monkeypatch, capsys)


@pytest.fixture
def sock(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket that listens, as a service manager hands it over."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "t.sock"))
        made.listen()
        yield made


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A directory for transcripts of Claude Code."""
    return Files(tmp_path / "projects")
