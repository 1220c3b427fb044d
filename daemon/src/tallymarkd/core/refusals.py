"""What keeps a command from a state directory: none is there, another works on it, or
it is another user's, or something in it cannot be moved."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from tallymark.errors import StorageError
from tallymark.fs import FileSystem, is_locked
from tallymarkd.core.layout import Layout

HOW_TO_STOP = (
    "where it is a service: `systemctl --user stop tallymarkd.socket` (or without --user "
    "for the system's)"
)
"""Where nobody could find out."""


class RunningError(StorageError):
    """A daemon, or another command, has the directory. ``refused`` is what cannot be done."""

    def __init__(self, verb: str, root: Path) -> None:
        self.refused = f"cannot {verb} {root}"
        self.root = root
        super().__init__(
            f"{self.refused}: tallymarkd runs on it, or a backup, restore or repair is at work "
            f"on it; stop it first; {HOW_TO_STOP}"
        )


def is_state_dir(fs: FileSystem, layout: Layout) -> bool:
    """Whether a daemon has ever kept anything there. False also for what cannot be read."""
    return any(
        fs.exists(path) for path in (layout.lock, layout.journal, layout.projects, layout.index)
    )


def refuse_running(layout: Layout, verb: str, locked: Callable[[Path], bool] = is_locked) -> None:
    """Raises ``RunningError`` when a daemon runs on the directory."""
    if locked(layout.lock):
        raise RunningError(verb, layout.root)


def refuse_unreadable(fs: FileSystem, root: Path, verb: str) -> None:
    """Raises ``StorageError`` for a directory that is another user's to read."""
    layout = Layout(root)
    for path in (root, layout.journal, layout.projects):
        try:
            fs.names(path)
        except PermissionError:
            raise StorageError(
                f"cannot {verb} {root}: cannot read {path}: permission denied; run this as the "
                f"user whose daemon it is ({_owner(path)})"
            ) from None
        except OSError:
            continue  # what reads it tells


def refuse_anothers(root: Path, verb: str) -> None:
    """Raises ``StorageError`` for a directory of another user.

    What is written there would be ours, and the daemon could not read or replace it.
    A directory that is not there is nobody's.
    """
    try:
        owner = root.stat().st_uid
    except FileNotFoundError:
        return
    if owner == os.geteuid():
        return
    name = _user_name(owner)
    how = f"`sudo runuser -u {name} -- tallymark {verb} …`" if name else f"as uid {owner}"
    raise StorageError(
        f"cannot {verb} {root}: it belongs to {name or f'uid {owner}'}, who could not use the "
        f"files that {_user_name(os.geteuid()) or f'uid {os.geteuid()}'} would write there; "
        f"run it as that user: {how}"
    )


def refuse_unmovable(root: Path, names: Iterable[str]) -> None:
    """Raises ``StorageError`` where one of these names in ``root`` is a mount point, which
    cannot be moved aside, or a symlink, in whose place a directory would come."""
    points = {part.mountpoint for part in psutil.disk_partitions(all=True)}
    found = [what for name in names if (what := _unmovable(root / name, points))]
    if found:
        raise StorageError(
            f"cannot restore {root}: {'; '.join(found)}, and a restore puts a directory of its "
            "own there. Make it a plain directory (unmount it, or remove the symlink) and run "
            "the restore again, or restore into another directory with --state-dir; then move "
            "what is restored to the other disk, and mount or link it again"
        )


def _unmovable(path: Path, points: set[str]) -> str:
    if path.is_symlink():
        return f"{path} is a symlink to {os.readlink(path)}"
    # The table has bind mounts, too; the other way serves where there is no such table.
    if os.path.realpath(path) in points or os.path.ismount(path):
        return f"{path} is a mount point"
    return ""


def _owner(path: Path) -> str:
    """Whose it is; for what cannot even be looked at, whose the directory around it is."""
    for each in (path, *path.parents):
        with contextlib.suppress(OSError):
            uid = os.stat(each).st_uid
            break
    else:
        return "nobody knows who"
    return _user_name(uid) or f"uid {uid}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
