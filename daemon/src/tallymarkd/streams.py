"""Standard streams that are closed, full, or read by nobody."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TextIO

STANDARD = (0, 1, 2)


class _Nowhere(io.RawIOBase):
    """Takes everything and keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        return len(memoryview(data))  # type: ignore[arg-type]


def provide_streams() -> None:
    """In place of each standard stream that is closed, one as of ``/dev/null``.

    Its number is taken, so that no file and no socket of ours gets it.
    """
    if not any(stream is None for stream in (sys.stdin, sys.stdout, sys.stderr)):
        return
    from tallymark.fs import OsFileSystem

    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            OsFileSystem().open_write(Path(os.devnull))  # it gets the lowest number that is free
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BytesIO())
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()


def _nowhere() -> TextIO:
    return io.TextIOWrapper(io.BufferedWriter(_Nowhere()), encoding="utf-8")


def give_up(stream: TextIO) -> None:
    """The interpreter flushes a stream once more at its end, and must not fail again.

    What is left fits into a pipe, from which nobody reads.
    """
    with contextlib.suppress(OSError, ValueError):
        _, nowhere = os.pipe()
        os.dup2(nowhere, stream.fileno())


def print_failed() -> bool:
    """Whether what was printed cannot be written; then it is given up."""
    try:
        sys.stdout.flush()
    except OSError:
        give_up(sys.stdout)
        return True
    return False
