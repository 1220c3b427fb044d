"""Programs that speak to the daemon, as processes inside a guest."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.daemon import DEADLINE_SECONDS, wait_for
from tests.systemd.installed import CODE
from tests.systemd.machine import USER, Machine

PYTHON = Path("/opt/tallymark/bin/python")
"""The interpreter of the environment that the machine's fixture makes."""


class Program:
    """A module of ``tests`` that tells JSON objects, one a line, and goes on until its
    standard input ends. What it tells last is what came of it."""

    def __init__(self, machine: Machine, module: str, *arguments: str, user: str = USER) -> None:
        self.module = module
        environment = {**machine.environment(user), "PYTHONPATH": str(CODE)}
        command = machine.command(str(PYTHON), "-m", module, *arguments, user=user, env=environment)
        self._told: dict[str, Any] = {}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._errors = b""
        self._readers = [threading.Thread(target=read) for read in (self._listen, self._complain)]
        for reader in self._readers:
            reader.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._told = msgspec.json.decode(line)

    def _complain(self) -> None:
        assert self._process.stderr is not None
        self._errors = self._process.stderr.read()

    def told(self) -> dict[str, Any]:
        """The last that it has told. Fails when it has ended in error."""
        code = self._process.poll()
        if code:
            self._readers[1].join(DEADLINE_SECONDS)
            raise AssertionError(f"{self.module} ended with {code}:\n{self._errors.decode()}")
        return self._told

    def until(self, what: str, key: str, least: int) -> int:
        """Wait until a number that it tells is at least so much; gives it."""
        wait_for(f"{what} of {self.module}", lambda: self.told().get(key, 0) >= least)
        return int(self.told()[key])

    def finish(self) -> dict[str, Any]:
        """Have it come to its end; gives what it tells last."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        wait_for(f"the end of {self.module}", lambda: self.told() and self._ended(), 120)
        self._readers[0].join(DEADLINE_SECONDS)
        return self.told()

    def _ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        """It is gone after this."""
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(DEADLINE_SECONDS)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def running(machine: Machine, module: str, *arguments: str, user: str = USER) -> Iterator[Program]:
    """One that is gone after."""
    program = Program(machine, module, *arguments, user=user)
    try:
        yield program
    finally:
        program.end()


__all__ = ["PYTHON", "Program", "running"]
