"""``repair``: what the daemon's start would do, and then a stop in good order.

The journal is recovered with every segment read, every state file is saved, and
a clean-stop record is written. So what was lost is in the ledger, told once,
and the directory is whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tallymark.errors import PathError, StorageError
from tallymark.fs import FileSystem
from tallymark.record import Kind
from tallymarkd.core.checkpoint import Checkpointer, CheckpointSettings
from tallymarkd.core.layout import Layout
from tallymarkd.core.recovery_report import RecoveryReport
from tallymarkd.core.refusals import (
    is_state_dir,
    refuse_anothers,
    refuse_running,
    refuse_unreadable,
)
from tallymarkd.core.restore import Restored, restore
from tallymarkd.storage.journal import JournalFull, JournalSettings

NEVER = CheckpointSettings(0.0, 2**62, 2**31)
"""Nothing is retired by a repair."""


def repair(fs: FileSystem, root: Path, settings: JournalSettings) -> RecoveryReport:
    """Settle the directory; gives the account.

    Raises ``PathError`` for what is no state directory; ``StorageError`` when a
    daemon runs on it, when it is another user's, or when it could not be settled;
    ``NewerFormatError`` with everything untouched; ``OSError``.
    """
    layout = Layout(root)
    refuse_unreadable(fs, root, "repair")
    if not is_state_dir(fs, layout):
        raise PathError(f"cannot repair {root}: it is no state directory of tallymarkd")
    refuse_anothers(root, "repair")
    try:
        lock = fs.lock(layout.lock)
    except BlockingIOError:
        refuse_running(layout, "repair", lambda _: True)
        raise
    try:
        restored = restore(fs, root, settings, thorough=True)
        try:
            settle(fs, layout, restored)
        finally:
            restored.journal.close()
            restored.keys.close()
        return restored.report
    finally:
        fs.close(lock)


def settle(fs: FileSystem, layout: Layout, restored: Restored) -> None:
    """Save everything and write a clean-stop record. Raises ``StorageError``, ``OSError``."""
    try:
        restored.journal.append(Kind.STOP, b"")
        restored.journal.sync()
    except JournalFull as error:
        raise StorageError(
            f"cannot finish the repair: {error}; free space and run it again: what was "
            "recovered so far stays"
        ) from error
    books = restored.books
    checkpointer = Checkpointer(
        fs, layout, books, restored.journal, restored.keys, NEVER,
        run_job=_run_here, call_later=lambda seconds, call: None,
    )  # fmt: skip
    checkpointer.adopt(restored.reaches, restored.server_reaches)
    wanted = len(books.touched) + 1
    checkpointer.note()
    checkpointer.save_all(math.inf)
    if checkpointer.saves < wanted:
        failure = checkpointer.failure
        why = f": {failure.what}: {failure.error}" if failure else ""
        raise StorageError(
            f"cannot save {wanted - checkpointer.saves} of {wanted} state files{why}; "
            "the journal is whole, and the next start saves them"
        )


def _run_here(job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
    done(job(), None)
