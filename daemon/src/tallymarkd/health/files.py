"""Reasons about the disk, and the files on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tallymark.adoption import DAMAGED_SUFFIX
from tallymark.protocol.messages import Reason
from tallymarkd.core.layout import Layout
from tallymarkd.health.troubles import reason
from tallymarkd.health.vitals import Vitals

UNSAVED_SECONDS_MAX = 60.0
"""State that is not saved for longer than this is worth telling: twelve times the goal."""

MIB = 1024 * 1024

DISK_FREE_BYTES_MIN = 256 * MIB
"""Less free space than this is worth telling: it is four segments of the journal."""

DISK_FREE_BYTES_WELL = 320 * MIB
"""What is told ends here, so that a segment that comes and goes does not tell it anew."""

SPOOLS_SHOWN_MAX = 5


def file_reasons(vitals: Vitals, free: int | None) -> Iterator[Reason]:
    """What is wrong with the disk and with the files on it."""
    yield from _disk(vitals, free)
    yield from _saving(vitals)
    yield from _foreign(vitals)
    yield from _spools(vitals)


def _disk(vitals: Vitals, free: int | None) -> Iterator[Reason]:
    directory = vitals.settings.state_dir
    if free is None:
        yield reason("state_dir_gone", f"cannot reach the state directory {directory}")
        return
    unwritable = _unwritable(Layout(directory))
    if unwritable:
        yield reason("state_dir_unwritable", f"cannot write to {unwritable}")
    if vitals.pulse.disk.look(bad=free < DISK_FREE_BYTES_MIN, well=free >= DISK_FREE_BYTES_WELL):
        yield reason("disk_low", f"only {free // MIB} MiB are free at {directory}")


def _unwritable(layout: Layout) -> Path | None:
    """A directory in which no file can be made any more."""
    wanted = os.W_OK | os.X_OK
    places = (layout.root, layout.journal)
    return next((place for place in places if not os.access(place, wanted)), None)


def _saving(vitals: Vitals) -> Iterator[Reason]:
    failure = vitals.checkpointer.failure
    seconds = vitals.checkpointer.oldest_dirty_seconds
    if failure is not None:
        yield reason("save_failed", f"cannot save {failure.what}: {failure.error}")
    elif seconds > UNSAVED_SECONDS_MAX:
        yield reason("save_late", f"a state file is {seconds:.0f} s behind")


def _foreign(vitals: Vitals) -> Iterator[Reason]:
    foreign = vitals.checkpointer.foreign
    if foreign is not None:
        what = "removed" if foreign.kept is None else "changed"
        kept = "" if foreign.kept is None else f", and what was there is kept as {foreign.kept}"
        yield reason(
            "state_file_changed",
            f"another program has {what} {foreign.path}; "
            f"the daemon has saved its own state again{kept}",
        )


def _spools(vitals: Vitals) -> Iterator[Reason]:
    directory = vitals.settings.spool_dir
    try:
        names = [name for name in vitals.fs.names(directory) if name.endswith(DAMAGED_SUFFIX)]
    except OSError:
        return  # nobody's spools can be seen; whoever looks for them says so
    if names:
        spools = "1 spool" if len(names) == 1 else f"{len(names)} spools"
        yield reason(
            "spool_damaged",
            f"cannot read {spools} in {directory}, and what was in there is lost: "
            f"{', '.join(names[:SPOOLS_SHOWN_MAX])}",
        )
