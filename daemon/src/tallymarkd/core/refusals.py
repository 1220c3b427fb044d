"""What keeps a command from a state directory: none is there, another works on it, or
it is another user's."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Callable
from pathlib import Path

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


def _owner(path: Path) -> str:
    """Whose it is; for what cannot even be looked at, whose the directory around it is."""
    for each in (path, *path.parents):
        with contextlib.suppress(OSError):
            uid = os.stat(each).st_uid
            break
    else:
        return "nobody knows who"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
