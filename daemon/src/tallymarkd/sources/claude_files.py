"""Where the transcripts of Claude Code are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tallymark.errors import PathError


def find_transcripts(root: Path | None, env: Mapping[str, str]) -> list[Path]:
    """The transcript files at ``root``: one file, or every ``*.jsonl`` below a directory.

    Without ``root``: ``$CLAUDE_CONFIG_DIR/projects``, else ``~/.claude/projects``.
    Raises ``PathError`` when there is no such file or directory, or it cannot be read.
    """
    place = root if root is not None else default_root(env)
    try:
        mode = place.stat().st_mode
        if stat.S_ISREG(mode):
            return [place]
        if stat.S_ISDIR(mode):
            return sorted(_files_below(place))
    except OSError as error:
        where = "give the directory or file that has them"
        if root is None:
            where = (
                "this is for users of Claude Code, who have them there;"
                " for another place: tallymark import claude-code PATH"
            )
        raise PathError(
            f"cannot import Claude Code transcripts from {place}: {error.strerror}; {where}"
        ) from None
    raise PathError(
        f"cannot import Claude Code transcripts from {place}: neither a directory nor a"
        " regular file; give the directory or file that has them"
    )


def default_root(env: Mapping[str, str]) -> Path:
    """Where Claude Code keeps its transcripts."""
    if configured := env.get("CLAUDE_CONFIG_DIR"):
        return Path(configured).expanduser() / "projects"
    home = Path(env["HOME"]) if env.get("HOME") else Path.home()
    return home / ".claude" / "projects"


def transcript_bytes(paths: Sequence[Path]) -> int:
    """Bytes in all the files, for a progress bar; what is gone counts nothing."""
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size
        except OSError:
            continue  # read_transcripts reports it
    return total


def modified_at(path: Path) -> float:
    """When the file was last touched, in seconds since the epoch."""
    return path.stat().st_mtime


def _files_below(place: Path) -> Iterator[Path]:
    """Transcripts below a directory, and what may not be looked into: to read it fails, and
    is reported with its own name. Raises ``OSError`` for the directory itself."""
    closed: list[Path] = []

    def note(error: OSError) -> None:
        if error.filename == str(place):
            raise error
        closed.append(Path(error.filename))

    for directory, _, names in os.walk(place, onerror=note):
        for name in names:
            path = Path(directory, name)
            if name.endswith(".jsonl") and _may_be_file(path):
                yield path
    yield from closed


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return True
