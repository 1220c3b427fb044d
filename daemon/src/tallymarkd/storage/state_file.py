"""One file, always whole, with its older generations beside it.

Generations, newest first: ``name``, ``name.bak``, ``name.bak.2``, ``name.bak.3``.
What they hold is opaque here. To save is, in this order:

1. write ``name.tmp`` and sync it;
2. ``.bak.2`` becomes ``.bak.3``, then ``.bak`` becomes ``.bak.2``, by rename;
   where a backup is missing, only those newer than the gap move;
3. ``name`` gets the second name ``.bak``, by hard link, so that the file
   itself never disappears;
4. ``name.tmp`` is renamed over ``name``;
5. the directory is synced.

Who is the only one that may write the file can have it watched: a file that was
put or changed there by somebody else is then moved aside before step 4, and takes
no part in the rotation.

A crash between any two steps, or the loss of any of the renames that were not
synced yet, leaves the former or the new content under ``name``. A save that
was cut off after step 3 leaves two names for one file; the next save sees it
and does not rotate again. So cut-off saves, however many, push out no more
than the one oldest generation.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tallymark.fs import FileSystem, Stamp, read_file, write_file

BACKUPS = 3
"""Older generations kept beside the file."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A file that somebody else had changed, and where it is kept; None when it was gone."""

    path: Path
    kept: Path | None


def first_unused(fs: FileSystem, directory: Path, names: Iterable[str]) -> str:
    """The first of these names that is not there; there must be one."""
    taken = set(fs.names(directory))
    return next(name for name in names if name not in taken)


class StateFile:
    """One file in ``directory``, written atomically. Not safe to use from two
    threads at once; whoever shares it with other processes locks around it.

    The directory must exist, except for reading. What is moved aside has its name there
    behind ``aside_prefix``, which tells apart files of one name from several directories.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        name: str,
        *,
        backups: int = BACKUPS,
        aside_prefix: str = "",
    ) -> None:
        if backups < 1:
            raise ValueError(f"cannot keep {backups} backups of {name}: at least 1 is needed")
        self._fs = fs
        self.directory = directory
        self.path = directory / name
        self.backup_paths = tuple(
            directory / (f"{name}.bak" if number == 1 else f"{name}.bak.{number}")
            for number in range(1, backups + 1)
        )
        self._aside_prefix = aside_prefix
        self.temp_path = directory / f"{name}.tmp"
        self._rotation_whole = False
        """Whether the last save through this object is known to have run to its end."""
        self._known: tuple[Stamp | None, ...] = (None,)
        """The main file as it was left, when it is watched; two while a save may or
        may not have put it there."""
        self._kept: Path | None = None
        """Where a foreign file was moved by a save that then failed."""

    def know(self) -> None:
        """What has the main file's name now is ours; for ``save`` with ``aside``."""
        self._known = (self._fs.stamp(self.path),)

    def save(self, body: bytes, *, aside: Path | None = None) -> Foreign | None:
        """Make ``body`` the newest generation; durable when this returns.

        With ``aside`` the main file is watched: when it is not the one that was
        left there, it is moved into that directory, or was gone; the result says so.

        Raises ``OSError`` with the former content in place. Only when the last
        step fails, the sync of the directory, either content may be there
        after a power cut.
        """
        foreign = aside is not None and (self._kept is not None or self._is_foreign())
        rotate = not foreign and self._rotation_due()
        self._rotation_whole = False
        try:
            write_file(self._fs, self.temp_path, body)
            written = self._fs.stamp(self.temp_path) if aside is not None else None
            if rotate:
                self._rotate()
            if aside is not None and self._is_foreign() and self._fs.exists(self.path):
                self._kept = self._unused(self.path.name, aside)
                self._move(self.path, self._kept)
            self._known = (self._fs.stamp(self.path), written)
            self._fs.replace(self.temp_path, self.path)
            self._fs.sync_dir(self.directory)
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                self._fs.unlink(self.temp_path)
            raise
        self._rotation_whole = True
        self._known = (written,)
        kept, self._kept = self._kept, None
        return Foreign(self.path, kept) if foreign or kept else None

    def _is_foreign(self) -> bool:
        """Whether somebody else has changed the main file, or taken it away."""
        return self._fs.stamp(self.path) not in self._known

    def generations(self, *, raise_denied: bool = False) -> Iterator[tuple[Path, bytes | None]]:
        """What is there, newest first; None for a file that cannot be read.

        With ``raise_denied`` one that this user may not read, and that may well be whole,
        raises ``PermissionError``.
        """
        for path in (self.path, *self.backup_paths):
            try:
                yield path, read_file(self._fs, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if raise_denied and isinstance(error, PermissionError):
                    raise
                yield path, None

    def quarantine(self, path: Path, into: Path) -> Path:
        """Move a damaged generation into a directory, under a name not yet used there.

        Gives the new path. Both directories are synced. Raises ``OSError``.
        """
        kept = self._unused(path.name, into)
        self._move(path, kept)
        return kept

    def _unused(self, name: str, into: Path) -> Path:
        self._fs.mkdir(into)
        names = (f"{self._aside_prefix}{name}.{number}" for number in itertools.count(1))
        return into / first_unused(self._fs, into, names)

    def _move(self, path: Path, kept: Path) -> None:
        self._fs.replace(path, kept)
        self._fs.sync_dir(kept.parent)
        self._fs.sync_dir(path.parent)

    def _rotation_due(self) -> bool:
        """Whether there is a main file that is not the newest backup already."""
        if not self._fs.exists(self.path):
            return False
        if self._rotation_whole:
            return True
        return not self.has_two_names()

    def has_two_names(self) -> bool:
        """Whether the main file is the newest backup as well: a save was cut off there.

        They are one generation, and the next save leaves the backups as they are.
        """
        stamp = self._fs.stamp(self.path)
        return stamp is not None and stamp == self._fs.stamp(self.backup_paths[0])

    def _rotate(self) -> None:
        """Free the newest backup's name, moving only what stands before the first gap."""
        count = len(self.backup_paths)
        gap = next(
            (n for n, path in enumerate(self.backup_paths) if not self._fs.exists(path)), count - 1
        )
        for number in range(gap, 0, -1):
            self._fs.replace(self.backup_paths[number - 1], self.backup_paths[number])
        newest = self.backup_paths[0]
        if self._fs.exists(newest):
            # The oldest of all when one backup is kept; else a second name of the
            # same file, which rename leaves in place.
            self._fs.unlink(newest)
        self._fs.link(self.path, newest)
