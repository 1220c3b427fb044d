"""The state directory that a command works on, and what it needs to read and settle it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from tallymark.errors import TallymarkError
from tallymark.fs import OsFileSystem
from tallymarkd.cli.output import print_json, say
from tallymarkd.cli.place import Place
from tallymarkd.cli.progress import Progress

if TYPE_CHECKING:
    from tallymarkd.storage.journal import JournalSettings

F = TypeVar("F", bound=Callable[..., object])

PRIVATE_UMASK = 0o077

EXIT_NO_ANSWER = 2

DIRECTORY = click.Path(path_type=Path, readable=False)
"""An argument. That it cannot be read is told by who reads it, with whose it is."""

PASSES = 2
"""How often every segment is read: once to judge it, once to count."""


def state_dir_argument(function: F) -> F:
    """Add STATE_DIR, which may be left out."""
    return click.argument("given", metavar="[STATE_DIR]", required=False, type=DIRECTORY)(function)


def chosen_state_dir(place: Place, given: Path | None) -> Path:
    """The directory given, else the one where the daemon would keep its state."""
    if given is not None:
        return given.expanduser().absolute()
    return place.state_dirs()[0]


def journal_settings(place: Place, root: Path) -> JournalSettings:
    """As the daemon would be started here."""
    from tallymarkd.config import load_settings
    from tallymarkd.storage.journal import JournalSettings

    settings = load_settings({"state_dir": str(root)}, place.env)
    return JournalSettings(
        segment_bytes_max=settings.segment_bytes_max,
        segment_chunk_bytes=settings.segment_chunk_bytes,
        random_bytes=os.urandom,
        clock_ns=time.time_ns,
    )


def no_answer(place: Place, verb: str, root: Path, error: TallymarkError | OSError) -> int:
    """Tell why a question about the directory has no answer; gives the exit code, which is
    another than that of a bad answer."""
    text = str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        text = f"cannot {verb} {root}: {where}{error.strerror or error}"
    if place.as_json:
        print_json({"state_dir": str(root), "error": text})
    say(f"tallymark: {text}")
    return EXIT_NO_ANSWER


def prepare_recovery() -> None:
    """What is found is in the account and not to be logged; the index's files are others'
    to create."""
    logging.getLogger("tallymarkd").addHandler(logging.NullHandler())
    os.umask(PRIVATE_UMASK)


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
    try:
        sizes = [_size(path) for path in (root / "journal").glob("*.seg")]
        sizes += [_size(path) for path in (root / "projects").glob("*/.agent_metrics.json*")]
    except OSError:
        return 0  # what cannot be read is told by who reads it
    return PASSES * sum(sizes)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
