"""The state directory that ``verify`` and ``repair`` are given, or the usual one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from tallymark.fs import OsFileSystem
from tallymarkd.cli.place import Place
from tallymarkd.cli.progress import Progress

F = TypeVar("F", bound=Callable[..., object])

PASSES = 2
"""How often every segment is read: once to judge it, once to count."""


def state_dir_argument(function: F) -> F:
    """Add STATE_DIR, which may be left out."""
    return click.argument(
        "given", metavar="[STATE_DIR]", required=False, type=click.Path(path_type=Path)
    )(function)


def chosen_state_dir(place: Place, given: Path | None) -> Path:
    """The directory given, else the one where the daemon would keep its state."""
    if given is not None:
        return given.expanduser().absolute()
    return place.state_dirs()[0]


class MeteredFileSystem(OsFileSystem):
    """The real one, which shows how much has been read."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def read(self, fd: int, count: int, offset: int) -> bytes:
        data = super().read(fd, count, offset)
        self._progress.advance(len(data))
        return data


def bytes_to_read(root: Path) -> int:
    """About how much will be read, for the progress bar."""
    sizes = [_size(path) for path in (root / "journal").glob("*.seg")]
    others = [_size(path) for path in (root / "projects").glob("*/.agent_metrics.json*")]
    return PASSES * (sum(sizes) + sum(others))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
