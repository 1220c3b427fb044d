"""State directories as text that people can read: frozen, and made into files again.

Each ``state/NAME.txt`` is one directory. ``=== path`` begins a file; below it stand

- for a segment, lines of offset and 16 bytes, lines of zeros left out, the length last;
- for ``index.sqlite``, the statements that make it: SQLite's own bytes change with its
  version, and what they say does not;
- else the text of the file.

``state/NAME.json`` is what the directory adds up to. ``python -m
tests.golden.state_directories`` writes those that are not there yet; what is there
is never written again: it must be read for ever.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tallymark.fs import OsFileSystem
from tallymark.record import Kind, Record
from tallymarkd.storage.segment import RECORDS_OFFSET
from tallymarkd.storage.survey import survey
from tests.daemon_parts import PRODUCERS, image, run_end
from tests.golden.hexdump import dump, undump
from tests.journals import flipped
from tests.small_state import Files, SmallState, marked, start, stopped, taken
from tests.state_dirs import Core

FOLDER = Path(__file__).parent / "state"
HEAD = "=== "
INDEX = "index.sqlite"
LEFT_OUT = ("journal/spare", "recovery.json", "recovery-history.json")
"""Blocks without content, and accounts of a start."""

FIRST_PAYLOAD = RECORDS_OFFSET + 90
LATE = PRODUCERS[8]


def recovered(root: Path) -> SmallState:
    """One that was damaged, recovered, went on, and stopped: with losses and quarantine."""
    state = marked(root)
    last = root / max(state.names("journal/0"))
    last.write_bytes(flipped(last.read_bytes(), FIRST_PAYLOAD))
    for suffix in ("", ".bak"):
        (root / f"server.json{suffix}").write_bytes(b"damaged")
    core = start(root, seed=3)
    core.put(run_end(900, session_id="s900"), project="other", producer=LATE)
    core.save()
    return taken(root, [core], core.stop())


MAKERS: dict[str, Callable[[Path], SmallState]] = {
    "stopped": stopped,
    "killed": marked,
    "recovered": recovered,
}


def to_text(files: Files) -> str:
    """A directory's files as one text."""
    parts = []
    for name, content in sorted(files.items()):
        if name not in LEFT_OUT:
            parts.append(f"{HEAD}{name}\n{_file_text(name, content)}")
    return "".join(parts)


def to_files(text: str) -> Files:
    """The files again."""
    files: Files = {}
    for part in text.split(f"\n{HEAD}"):
        name, _, body = part.removeprefix(HEAD).partition("\n")
        # The line's end before the next file was cut off with it.
        body = body if body.endswith("\n") else body + "\n"
        if ".seg" in name:
            files[name] = undump(body)
        elif name == INDEX:
            files[name] = _database(body)
        else:
            files[name] = body.encode()
    return files


def _file_text(name: str, content: bytes) -> str:
    if ".seg" in name:
        return dump(content)
    if name == INDEX:
        return _statements(content)
    text = content.decode()
    return text if text.endswith("\n") else text + "\n"


def _statements(content: bytes) -> str:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / INDEX
        path.write_bytes(content)
        db = sqlite3.connect(path)
        lines = [
            f"PRAGMA {name} = {db.execute(f'PRAGMA {name}').fetchone()[0]};"
            for name in ("application_id", "user_version")
        ]
        lines += [f"{sql};" for (sql,) in db.execute("SELECT sql FROM sqlite_master ORDER BY name")]
        for row in db.execute("SELECT key, lsn FROM keys ORDER BY key"):
            lines.append(f"INSERT INTO keys VALUES {row};")
        for row in db.execute("SELECT name, value FROM meta ORDER BY name"):
            lines.append(f"INSERT INTO meta VALUES {row};")
        db.close()
    return "\n".join(lines) + "\n"


def _database(statements: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / INDEX
        db = sqlite3.connect(path)
        db.executescript(f"PRAGMA journal_mode = WAL; {statements}")
        db.close()
        return path.read_bytes()


def result(core: Core) -> dict[str, Any]:
    """What a directory adds up to, as plain JSON."""
    known = image(core.books)
    known["server"]["applied_lsn"] = 0  # a start writes records of its own
    kinds = [Kind(record.kind).name for record in _records(core)]
    return {
        "books": known,
        "clean": core.report.clean,
        "kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
    }


def _records(core: Core) -> list[Record]:
    return list(survey(OsFileSystem(), core.layout.journal).records(0))


def as_json(value: dict[str, Any]) -> str:
    """Sorted, one thing a line; bytes in base64."""
    return json.dumps(value, indent=1, sort_keys=True, default=_plain) + "\n"


def _plain(value: Any) -> str:
    return base64.b64encode(value).decode()


def main() -> None:
    """Freeze what is not frozen yet."""
    for name, make in MAKERS.items():
        path = FOLDER / f"{name}.txt"
        if path.exists():
            continue
        FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as directory:
            files = make(Path(directory) / "made").files
            path.write_text(to_text(files))
            root = Path(directory) / "state"
            SmallState(to_files(path.read_text()), [], {}, []).write(root)
            core = start(root)
            (FOLDER / f"{name}.json").write_text(as_json(result(core)))
            core.crash()
        print(f"frozen: {path}")


if __name__ == "__main__":
    main()
