"""What would leave a state directory in pieces, seen before anything of it is touched."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

import psutil

from tallymark.errors import StorageError


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


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


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
