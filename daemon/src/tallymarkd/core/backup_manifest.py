"""``backup.json``: what a backup holds, and whose it is.

It is written last, sealed (storage/sealed.py), and names every file with its size and
checksum. A directory without it is no backup.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import msgspec

from tallymark.errors import DamagedError, NewerFormatError, PathError
from tallymark.fs import FileSystem, read_file
from tallymarkd.core.refusals import refuse_unreadable
from tallymarkd.storage.sealed import SealedDocument, decode_document, encode_document

MANIFEST_FORMAT = 1
MANIFEST_NAME = "backup.json"
STATE_NAME = "state"
"""The directory in a backup that has the files, as they lay in the state directory."""


class FileEntry(msgspec.Struct, kw_only=True, frozen=True):
    """One file: its path below the backup, with slashes."""

    path: str
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, kw_only=True):
    """What a backup says of itself.

    Everything through ``durable_lsn`` is in it, which is everything that was
    acknowledged before ``begun_at``; ``end_lsn`` is where its journal ends. ``live`` when
    the daemon ran meanwhile. ``version`` is the program's that took it. ``left_out`` are
    names in the state directory that are none of its files, and not in the backup.
    """

    version: str
    server_id: str
    state_dir: str
    begun_at: str
    finished_at: str
    live: bool
    durable_lsn: int
    end_lsn: int
    events: int
    files: list[FileEntry]
    left_out: list[str] = []

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(each.size_bytes for each in self.files)


class _File(SealedDocument, kw_only=True):
    backup: Manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of ``backup.json``."""
    return encode_document(_File(format=MANIFEST_FORMAT, backup=manifest))


def decode_manifest(body: bytes) -> Manifest:
    """Reads ``backup.json``. Raises ``DamagedError``, ``NewerFormatError``."""
    manifest = decode_document(body, _File, MANIFEST_FORMAT).backup
    for entry in manifest.files:
        _refuse_outside(entry.path)
    return manifest


def _refuse_outside(path: str) -> None:
    parts = PurePosixPath(path).parts
    if len(parts) < 2 or parts[0] != STATE_NAME or ".." in parts:
        raise DamagedError(f"it names {path!r}, which is no file of a backup")


def read_manifest(fs: FileSystem, backup: Path, verb: str = "restore") -> Manifest:
    """What the backup in this directory says of itself. ``verb`` is what cannot be done
    with one that does not.

    Raises ``PathError`` where there is none, ``DamagedError``, ``NewerFormatError``,
    ``StorageError`` for another user's, ``OSError``.
    """
    path = backup / MANIFEST_NAME
    refuse_unreadable(fs, backup, verb)
    try:
        return decode_manifest(read_file(fs, path))
    except (FileNotFoundError, NotADirectoryError):
        raise PathError(
            f"cannot {verb} {backup}: it is no backup, it has no {MANIFEST_NAME}; give the "
            "directory that `tallymark backup` made"
        ) from None
    except NewerFormatError as error:
        raise NewerFormatError(
            f"cannot {verb} {backup}: {path} has {error}; install the version that took it"
        ) from None
    except DamagedError as error:
        raise DamagedError(
            f"cannot {verb} {path}: {error}; the backup is damaged, nothing was changed: "
            "use another backup"
        ) from None
