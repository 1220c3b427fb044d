"""Runs the ``tallymark`` command in this process, as a person's shell would."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallymark.paths import socket_path
from tallymark.state import DashboardState
from tallymarkd.cli.root import run
from tallymarkd.core import project_file
from tallymarkd.core.layout import PROJECT_FILE, Layout
from tallymarkd.core.project_state import ProjectState

DEADLINE_SECONDS = 60.0
SERVER_ID = "4c8f8f0e-7f6d-4f0e-9a55-2b8f5f6f0c11"


@dataclass
class Done:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return msgspec.json.decode(self.out)


class Tallymark:
    """Call it with arguments. It looks for the daemon below ``home``."""

    def __init__(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self.state_dir = home / "tallymark"
        self.socket = socket_path(self.state_dir)
        self._monkeypatch = monkeypatch
        self._capture = capture
        # Nothing is cut to the width of whoever runs the tests.
        monkeypatch.delenv("COLUMNS", raising=False)
        # How long the system takes to run a thread is no matter of the commands.
        for name in ("HEALTH_TIMEOUT_SECONDS", "GOODBYE_TIMEOUT_SECONDS"):
            monkeypatch.setattr(f"tallymarkd.cli.recording.{name}", DEADLINE_SECONDS)

    def __call__(self, *args: str, stdin: bytes = b"") -> Done:
        self._capture.readouterr()
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = run(args)
        out, err = self._capture.readouterr()
        return Done(code, out, err)

    def save(self, state: DashboardState) -> Path:
        """Put a project's state where a daemon would have saved it."""
        directory = Layout(self.state_dir).project(state.project_name)
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / PROJECT_FILE
        path.write_bytes(project_file.encode(ProjectState(state), server_id=SERVER_ID))
        return path
