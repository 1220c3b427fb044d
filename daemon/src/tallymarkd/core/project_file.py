"""The bytes of a project's state file.

Plain JSON of a ``DashboardState``, readable by anything that reads JSON, plus
one key ``tallymark`` with what the daemon adds::

    {"version":1,"project_name":…,…,"agents":{…},"events":[…],"sessions":[…],
     "tallymark":{"format":1,"server_id":"…","applied_lsn":…,"apply_failures":…,
     "open_runs":{…},"known_sessions":[…],"checksum":"crc32:0123abcd"}}

(without the line breaks shown). The file ends in the checksum, which covers
every byte before ``,"checksum"``; so it is verified over the bytes as they
are, and nothing is believed before.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from tallymark.errors import DamagedError, NewerFormatError
from tallymark.state import STATE_VERSION, DashboardState
from tallymarkd.core.project_state import (
    OpenRun,
    ProjectState,
    View,
    finished_profile,
    freeze,
)
from tallymarkd.core.runs import finished_run
from tallymarkd.storage.sealed import seal, verify_seal

FORMAT = 1
"""Raised when an older program could no longer read the file rightly."""

SLICE_ITEMS = 250
"""Profiles or runs encoded between two slices: about a millisecond."""

CLOSING = b"}}"
"""What follows the checksum: the end of ``tallymark``, and of the state."""

_encoder = msgspec.json.Encoder()


class _Added(msgspec.Struct, kw_only=True):
    """What stands under ``tallymark``."""

    format: int
    server_id: str
    applied_lsn: int
    apply_failures: int
    open_runs: dict[str, OpenRun]
    known_sessions: list[str]


class _File(DashboardState, kw_only=True):
    tallymark: _Added


class _AddedVersions(msgspec.Struct):
    format: int | None = None
    server_id: str | None = None


class Versions(msgspec.Struct):
    """What has to be known of a file before anything else in it is believed."""

    version: int = 0
    tallymark: _AddedVersions | None = None

    @property
    def newer(self) -> bool:
        added = self.tallymark.format if self.tallymark is not None else None
        return self.version > STATE_VERSION or (added or 0) > FORMAT

    @property
    def server_id(self) -> str:
        """The daemon that owns the file, or empty."""
        return (self.tallymark.server_id or "") if self.tallymark is not None else ""


_file_decoder = msgspec.json.Decoder(_File)
_versions_decoder = msgspec.json.Decoder(Versions)


def encode(state: ProjectState, *, server_id: str) -> bytes:
    """The state as a file's bytes. ``encode_view`` does the same in slices."""
    return b"".join(encode_view(freeze(state), server_id=server_id))


def encode_view(view: View, *, server_id: str) -> Iterator[bytes]:
    """The file in pieces, each about a millisecond's work; for any thread."""
    return seal(_pieces(view, server_id), CLOSING)


def decode(body: bytes) -> ProjectState:
    """The state in a file written by ``encode``.

    ``decode(encode(state))`` goes on exactly as ``state`` does. Raises
    ``DamagedError``, and ``NewerFormatError`` for a whole file of a newer
    format.
    """
    state, _ = decode_owned(body)
    return state


def decode_owned(body: bytes) -> tuple[ProjectState, str]:
    """Like ``decode``, and the ``server_id`` of the daemon that wrote the file."""
    verify_seal(body, CLOSING)
    refuse_newer(body)
    try:
        found = _file_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise DamagedError(f"its checksum holds, but it is no state: {error}") from None
    added = found.tallymark
    state = ProjectState(
        DashboardState(**{name: getattr(found, name) for name in DashboardState.__struct_fields__}),
        open_runs=added.open_runs,
        known_sessions=added.known_sessions,
        applied_lsn=added.applied_lsn,
        apply_failures=added.apply_failures,
    )
    return state, added.server_id


def versions_of(body: bytes) -> Versions | None:
    """Version, format and owner, read leniently; None for what is not such a file."""
    try:
        return _versions_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None


def refuse_newer(body: bytes) -> None:
    """Raises ``NewerFormatError`` for a file of a newer version."""
    found = versions_of(body)
    if found is not None and found.newer:
        raise NewerFormatError(
            "it was written by a newer version of tallymark; use that version to read it"
        )


def _pieces(view: View, server_id: str) -> Iterator[bytes]:
    head: dict[str, Any] = {
        name: value
        for name, value in msgspec.structs.asdict(view.board).items()
        if name not in ("agents", "events", "sessions")
    }
    yield _encoder.encode(head)[:-1] + b',"agents":{'
    agents = ((name, finished_profile(profile)) for name, profile in view.agents.items())
    yield from _members(agents)
    yield b'},"events":['
    yield from _items(finished_run(run) for run in view.runs)
    yield b'],"sessions":['
    yield from _items(iter(view.sessions))
    added = {
        "format": FORMAT,
        "server_id": server_id,
        "applied_lsn": view.applied_lsn,
        "apply_failures": view.apply_failures,
    }
    yield b'],"tallymark":' + _encoder.encode(added)[:-1] + b',"open_runs":{'
    yield from _members(iter(view.open_runs.items()))
    yield b'},"known_sessions":' + _encoder.encode(view.known_sessions)


def _members(entries: Iterator[tuple[str, Any]]) -> Iterator[bytes]:
    """The members of a JSON object, without its braces."""
    comma = b""
    while part := dict(islice(entries, SLICE_ITEMS)):
        yield comma + _encoder.encode(part)[1:-1]
        comma = b","


def _items(entries: Iterator[Any]) -> Iterator[bytes]:
    """The items of a JSON array, without its brackets."""
    comma = b""
    while part := list(islice(entries, SLICE_ITEMS)):
        yield comma + _encoder.encode(part)[1:-1]
        comma = b","
