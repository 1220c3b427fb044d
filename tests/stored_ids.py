"""What a journal holds, read from its files without the daemon's own books."""

from __future__ import annotations

from pathlib import Path

from tallymark.events import RunEnd
from tallymark.fs import OsFileSystem
from tallymark.record import Kind
from tallymarkd.core.entry import decode_entry, open_entry
from tallymarkd.storage.survey import survey


def ids_in_journal(state_dir: Path) -> list[str]:
    """The id of every run that was stored, once for every time it stands there."""
    found: list[str] = []
    for record in survey(OsFileSystem(), state_dir / "journal").records(0):
        if record.kind == Kind.BATCH:
            events = open_entry(decode_entry(record.payload)).events
            found += [event.event_id for event in events if isinstance(event, RunEnd)]
    return found
