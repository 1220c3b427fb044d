"""What benchmarks and the demo share: a daemon as a process, and its address."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tallymark.errors import DeliveryError
from tallymark.paths import SPOOL_DIR_VARIABLE, socket_path
from tallymark.questions import ask_health

READY_SECONDS_MAX = 20.0


class Daemon:
    """``tallymarkd`` on a directory of its own, which may be killed and started again."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.socket = socket_path(state_dir)
        # For the agents that are started from here: nothing is left in the user's own.
        os.environ[SPOOL_DIR_VARIABLE] = str(state_dir.parent / "spool")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers. Raises ``RuntimeError`` when it does not."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        ours = [k for k in os.environ if k.startswith("TALLYMARK_") and k != SPOOL_DIR_VARIABLE]
        env = {k: v for k, v in os.environ.items() if k not in ours}
        with (self.state_dir.parent / f"{self.state_dir.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tallymarkd", "--state-dir", str(self.state_dir)],
                stderr=log,
                env=env,
            )
        deadline = time.monotonic() + READY_SECONDS_MAX
        while True:
            try:
                ask_health([self.socket], timeout_seconds=1.0)
                return
            except DeliveryError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"tallymarkd did not come up: {error}") from error
                time.sleep(0.01)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let it drain and end."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None
