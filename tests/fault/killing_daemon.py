"""``tallymarkd`` that kills itself with SIGKILL at the n-th call of a file operation.

``python killing_daemon.py KIND NUMBER WHEN SINCE tallymarkd-options…``; WHEN is
``before`` or ``after`` the call. Calls count from the start, or, when SINCE is the
path of a file, from when that is there. It prints how many calls there were when
it drains instead, so that a test knows that it has tried them all.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tallymark.fs import OsFileSystem
from tallymarkd import __main__, app

KINDS = {
    "write": ("write",),
    "fdatasync": ("sync_data",),
    "fsync": ("sync", "sync_dir"),
    "rename": ("replace",),
    "link": ("link",),
    "unlink": ("unlink",),
}


SINCE_START = "start"

NEVER = 1_000_000
"""More calls than any test makes."""


class KillingFileSystem(OsFileSystem):
    """The real one, until the call that ends the process."""

    def __init__(self, kind: str, number: int, when: str, since: str) -> None:
        self.calls = 0
        self._since = since
        for name in KINDS[kind]:
            setattr(self, name, self._wrapped(getattr(self, name), number, when))

    def _wrapped(self, call: Any, number: int, when: str) -> Any:
        def wrapper(*args: Any) -> Any:
            self.calls += self._since == SINCE_START or os.path.exists(self._since)
            hit = self.calls == number
            if hit and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args)
            if hit:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapper


def main() -> None:
    """Run with this file system, then say how many calls there were."""
    kind, number, when, since, *options = sys.argv[1:]
    fs = KillingFileSystem(kind, int(number), when, since)
    command = __main__.make_command(os.environ, lambda settings: app.run(settings, fs))
    code = command.main(options, prog_name="tallymarkd", standalone_mode=False)
    print(f"calls: {fs.calls}", flush=True)
    sys.exit(code)


PATH = Path(__file__)


def command(kind: str, number: int, when: str, since: Path | None = None) -> tuple[str, ...]:
    """What the interpreter is given to run it; as ``Daemon`` takes it."""
    return (str(PATH), kind, str(number), when, str(since or SINCE_START))


if __name__ == "__main__":
    main()
