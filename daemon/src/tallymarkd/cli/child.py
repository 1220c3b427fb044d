"""A child process that takes this one's place: its streams, its signals, its exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

EXIT_CANNOT_EXECUTE = 126
EXIT_NOT_FOUND = 127
EXIT_SIGNAL_BASE = 128
"""As shells have it; a signal's number is added."""

PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What somebody sends to this process and means for its child."""

TYPED = (signal.SIGINT, signal.SIGQUIT)
"""What a terminal sends to every process in its foreground, so to the child as well."""


class Child:
    """Runs a command; use it in a ``with`` block, in the main thread.

    Inside the block this process does not end by the signals above: they are
    the child's, and when it has ended there is nobody to pass them on to.
    Those that were ignored stay so, here and in the child (``nohup``).

    Threads that begin inside the block, before ``run``, never get them: the kernel
    gives a signal to any thread that takes it, and in another one it would not end the
    wait for the child, after which alone Python looks at it.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._before: dict[signal.Signals, Any] = {}
        self._mask: Iterable[int] = ()

    def __enter__(self) -> Child:
        for number in (*PASSED_ON, *TYPED):
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._take)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._before)
        return self

    def __exit__(self, *_: object) -> None:
        # What came meanwhile goes to _take.
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, before in self._before.items():
            signal.signal(number, before)

    def run(self, command: Sequence[str], env: Mapping[str, str]) -> int:
        """Run to the end; gives the exit code, negative for a signal. Raises ``OSError``.

        The child has this process's stdin, stdout and stderr.
        """
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        # To run what the user says is what this is for.
        self._process = subprocess.Popen(list(command), env=dict(env))  # noqa: S603
        for number in self._early:
            self._pass_on(number)
        return self._process.wait()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number in TYPED and is_in_foreground():
            return
        if self._process is None:
            self._early.append(number)
        else:
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        assert self._process is not None
        # It may have ended just now, or be another user's by now (sudo).
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self._process.send_signal(number)


def exit_code_of(returncode: int) -> int:
    """What a shell gives for it: 128 and the number for a signal."""
    return EXIT_SIGNAL_BASE - returncode if returncode < 0 else returncode


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; real-time signals have no names of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def is_in_foreground() -> bool:
    """Whether what is typed at the terminal reaches this process and its child alike."""
    for stream in (0, 1, 2):
        try:
            return os.tcgetpgrp(stream) == os.getpgrp()
        except OSError:
            # No terminal, or not the one that controls this process.
            continue
    return False
