"""Files that we write for a service manager, and know again as ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tallymark.fs import FileSystem, read_file, write_file
from tallymarkd.service.machine import ServiceError
from tallymarkd.service.render import MARK, without_version

PUBLIC_FILE_MODE = 0o644
"""A unit is no secret: systemd shows it to everybody."""

MARK_WITHIN_LINES = 4

State = Literal["missing", "current", "differs", "foreign"]


def read(fs: FileSystem, path: Path) -> str | None:
    """The file's text; None when there is none. A link, or what is no text, is empty."""
    if not fs.exists(path):
        return None
    try:
        return read_file(fs, path).decode(errors="replace")
    except PermissionError as error:
        raise ServiceError(f"cannot read {path}: {error.strerror}") from None
    except OSError:
        # A masked unit is a link to /dev/null, an instance of somebody's a link to theirs.
        return ""


def is_ours(text: str) -> bool:
    """Whether we wrote it."""
    return any(MARK in line for line in text.splitlines()[:MARK_WITHIN_LINES])


def look(fs: FileSystem, path: Path, expected: str) -> State:
    """How a file is, held against what we would write."""
    found = read(fs, path)
    if found is None:
        return "missing"
    if not is_ours(found):
        return "foreign"
    return "current" if without_version(found) == without_version(expected) else "differs"


def refuse_foreign(fs: FileSystem, files: Mapping[Path, str]) -> None:
    """Raises ``ServiceError`` when something stands in the way that we did not write."""
    for path, text in files.items():
        if look(fs, path, text) == "foreign":
            raise ServiceError(
                f"cannot write {path}: a file that is not from `tallymark service install` "
                "stands there; move it away, if nobody needs it, and try again"
            )


def write(fs: FileSystem, path: Path, text: str, *, directory_mode: int) -> None:
    """Write the file whole, readable for all. Raises ``ServiceError``."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        if not path.parent.is_dir():
            fs.mkdir(path.parent)
            os.chmod(path.parent, directory_mode)
        write_file(fs, temporary, text.encode())
        os.chmod(temporary, PUBLIC_FILE_MODE)
        fs.replace(temporary, path)
        fs.sync_dir(path.parent)
    except OSError as error:
        raise ServiceError(
            f"cannot write {path}: {error.strerror or error}; --dry-run prints what it would hold"
        ) from None


def remove(fs: FileSystem, path: Path) -> None:
    """Remove the name. Raises ``ServiceError``."""
    try:
        fs.unlink(path)
        fs.sync_dir(path.parent)
    except OSError as error:
        raise ServiceError(f"cannot remove {path}: {error.strerror or error}") from None
