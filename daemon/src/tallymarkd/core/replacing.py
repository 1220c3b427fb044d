"""Another state in a state directory, in one step that is done or not.

The directory itself stays: it may be a mount point, its ``lock`` is held, and ``spool/``
and ``run/`` in it belong to others. What is new is made in ``restore.partial/``:

1. ``plan.json`` there says which names are new and where the old ones go; all is synced.
2. ``restore.partial`` is renamed to ``restore.ready``, the directory is synced. Before
   this the state is the old one, after it the new one:
3. what was there is moved to ``replaced-<time>/``,
4. what is new is moved into its place, ``restore.ready`` removed.

Whoever holds the lock finishes 3 and 4 when they were cut off (``finish``); who only
reads is refused meanwhile (``refuse_unfinished``).
"""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import msgspec

from tallymark.errors import StorageError
from tallymark.fs import FileSystem, read_file, write_file
from tallymarkd.core.copying import remove_tree
from tallymarkd.core.layout import SERVER_FILE, Layout
from tallymarkd.core.refusals import refuse_unmovable
from tallymarkd.storage.state_file import BACKUPS, first_unused

PLAN_NAME = "plan.json"


class DecidedError(StorageError):
    """A restore failed after step 2: only what is left of 3 and 4 is to be done."""


class _Plan(msgspec.Struct, kw_only=True):
    """New names, and the directory for the old ones."""

    new: list[str]
    aside: str


def state_names() -> list[str]:
    """Every name in a state directory that is the daemon's state."""
    backups = [f"{SERVER_FILE}.bak"] + [
        f"{SERVER_FILE}.bak.{number}" for number in range(2, BACKUPS + 1)
    ]
    accounts = ["recovery.json", "recovery-history.json"]
    written = [SERVER_FILE, *accounts]
    return [
        "journal",
        "projects",
        "quarantine",
        *(f"index.sqlite{suffix}" for suffix in ("", "-wal", "-shm", "-journal")),
        *written,
        *backups,
        *(f"{name}.tmp" for name in written),
    ]


def state_in(fs: FileSystem, layout: Layout) -> list[str]:
    """Those that are there."""
    return [name for name in state_names() if fs.exists(layout.root / name)]


def begin(fs: FileSystem, layout: Layout) -> Layout:
    """An empty directory for the new state.

    The caller holds the lock, and has called ``finish``. Raises ``StorageError`` where
    what is there could not be moved aside, and ``OSError``.
    """
    refuse_unmovable(layout.root, state_in(fs, layout))
    fs.mkdir(layout.restore_partial)
    return Layout(layout.restore_partial)


def commit(fs: FileSystem, layout: Layout, when: str) -> Path | None:
    """What is in ``restore.partial`` is the state from now on; its files are synced.

    Gives the directory that has the old state, None when there was none. Raises
    ``OSError`` when it did not happen, or ``finish`` says that it did; ``DecidedError``,
    with the ``OSError`` as its cause, when it did and is not known to be done.
    """
    old = state_in(fs, layout)
    new = [name for name in state_names() if fs.exists(layout.restore_partial / name)]
    name = f"replaced-{when}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    aside = layout.root / first_unused(fs, layout.root, names)
    plan = msgspec.json.encode(_Plan(new=new, aside=aside.name))
    write_file(fs, layout.restore_partial / PLAN_NAME, plan)
    fs.sync_dir(layout.restore_partial)
    fs.replace(layout.restore_partial, layout.restore_ready)
    try:
        fs.sync_dir(layout.root)
        finish(fs, layout)
    except OSError as error:
        raise DecidedError(str(error)) from error
    return aside if old else None


def finish(fs: FileSystem, layout: Layout) -> bool:
    """Do what is left of a restore that was cut off; whether there was one.

    One that was cut off before step 2 is undone.

    The caller holds the lock. Safe to be cut off anywhere itself. Raises ``OSError``.
    """
    ready = layout.restore_ready
    if fs.exists(layout.restore_partial):
        remove_tree(fs, layout.restore_partial)
    if not fs.exists(ready):
        return False
    # Without its plan all of it is done, but for the directory.
    with contextlib.suppress(FileNotFoundError):
        plan = msgspec.json.decode(read_file(fs, ready / PLAN_NAME), type=_Plan)
        _move_old(fs, layout, plan)
        _move_new(fs, layout, plan)
        fs.unlink(ready / PLAN_NAME)
    fs.rmdir(ready)
    fs.sync_dir(layout.root)
    return True


def _move_old(fs: FileSystem, layout: Layout, plan: _Plan) -> None:
    """A name that is not in ``restore.ready`` any more and was new is in its place."""
    ready, aside = layout.restore_ready, layout.root / plan.aside
    old = [name for name in state_in(fs, layout) if name not in plan.new or fs.exists(ready / name)]
    if not old:
        return
    fs.mkdir(aside)
    for name in old:
        fs.replace(layout.root / name, aside / name)
    fs.sync_dir(aside)
    fs.sync_dir(layout.root)


def _move_new(fs: FileSystem, layout: Layout, plan: _Plan) -> None:
    for name in plan.new:
        if fs.exists(layout.restore_ready / name):
            fs.replace(layout.restore_ready / name, layout.root / name)
    fs.sync_dir(layout.root)
    fs.sync_dir(layout.restore_ready)


def refuse_unfinished(fs: FileSystem, layout: Layout, verb: str) -> None:
    """Raises ``StorageError`` between steps 2 and 4."""
    if fs.exists(layout.restore_ready):
        raise StorageError(
            f"cannot {verb} {layout.root}: a restore of it was cut off in its last steps; start "
            "tallymarkd, or run `tallymark repair`: either finishes it"
        )
