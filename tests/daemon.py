"""The real daemon as a process, for tests: started, killed, stopped, always gone after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tallymark.errors import DeliveryError
from tallymark.paths import socket_path
from tallymark.protocol.messages import HealthReport
from tallymark.questions import ask_health

DEADLINE_SECONDS = 60.0
"""How long a test waits for a thing before it says that it did not come."""

T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T | None], seconds: float = DEADLINE_SECONDS) -> T:
    """Look until there is something true; fails with ``what`` after the deadline."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"this did not come within {seconds:g} s: {what}")
        pause.wait(0.005)


class Daemon:
    """``tallymarkd`` with a state directory and settings of its own."""

    def __init__(
        self,
        state_dir: Path,
        *options: str,
        command: Sequence[str] = ("-m", "tallymarkd"),
        under: Sequence[str] = (),
        socket: Path | None = None,
    ) -> None:
        """``under`` is a program that runs the interpreter; ``socket`` is not the default."""
        self.state_dir = state_dir
        self.socket = socket or socket_path(state_dir)
        self.under = under
        self.log_path = state_dir.with_name(state_dir.name + ".log")
        self.options = options
        self.command = command
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Start it, without waiting."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.under, sys.executable, *self.command,
                    "--state-dir", str(self.state_dir), "--socket", str(self.socket),
                    *self.options,
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def start(self) -> Daemon:
        """Start it and wait until it answers."""
        self.spawn()
        wait_for("an answer of the daemon", self.answers)
        return self

    def answers(self) -> HealthReport | None:
        """Its health; None while it does not answer. Fails when it has ended."""
        try:
            return ask_health([self.socket], timeout_seconds=5.0)
        except DeliveryError:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the daemon ended with {self.process.returncode}:\n{self.log()}"
                ) from None
            return None

    def health(self) -> HealthReport:
        """Its health. Raises ``DeliveryError``."""
        return ask_health([self.socket], timeout_seconds=5.0)

    @property
    def ledger(self) -> dict[str, Any]:
        """Its ledger in all, as health tells it; producers come and go with their Goodbye."""
        found: dict[str, Any] = self.health().report["ledger"]
        return {name: value for name, value in found.items() if name != "producers"}

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once, if it runs; what it was doing is cut short."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """Let it drain; gives its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(DEADLINE_SECONDS)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        """Everything it has printed."""
        return self.log_path.read_text() if self.log_path.exists() else ""


@contextmanager
def running(state_dir: Path, *options: str) -> Iterator[Daemon]:
    """A daemon that answers, and is gone after."""
    daemon = Daemon(state_dir, *options)
    try:
        yield daemon.start()
    finally:
        daemon.kill()


def tallymark(*args: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from tallymarkd.cli import main; main()", *args],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=DEADLINE_SECONDS,
        env={**os.environ, **env},
    )
