"""Ways to damage a state directory that lies still, and what is to be said of each."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tallymark.record import Kind, Record
from tallymarkd.core.layout import Layout
from tallymarkd.core.ledger import ServerState, decode_server, encode_server
from tallymarkd.storage.segment import decode_header, walk
from tests.daemon_parts import PRODUCERS, run_end, usage
from tests.journals import flipped, zeroed
from tests.state_dirs import SUFFIXES, Core

PROJECTS = ("spotter", "other")


def long_history(root: Path, *, stop: bool = True) -> Core:
    """Three segments, two projects, four different generations each, all saved.

    Without ``stop`` the daemon died, with two batches that are in no state file.
    """
    core = Core(root)
    for number in range(60):
        core.put(
            run_end(number, error_message=f"<{number}>" + "x" * 3000, session_id=f"s{number // 7}"),
            usage(f"key-{number}"),
            usage("same-key"),
            usage(input_tokens=-1),
            project=PROJECTS[number % 2],
            producer=PRODUCERS[number % 2],
        )
        if number in (20, 30, 40, 57) or (stop and number == 59):
            core.save()
    if stop:
        core.stop()
    else:
        core.crash()
    return core


def both_ends(folder: Path) -> dict[bool, Path]:
    """A directory after a clean stop, by True, and one whose daemon died, by False."""
    for stop in (True, False):
        long_history(folder / str(stop), stop=stop)
    return {stop: folder / str(stop) for stop in (True, False)}


def segments(root: Path) -> list[Path]:
    """The segments' paths, oldest first."""
    return sorted((root / "journal").glob("*.seg"))


def records(path: Path) -> list[Record]:
    """The whole records of a segment."""
    data = path.read_bytes()
    items = walk(data, decode_header(data)[0].salt)
    return [item for item in items if isinstance(item, Record)]


def change(path: Path, how: Callable[[bytes], bytes]) -> None:
    """Write a file anew; other names of the same file keep what they had."""
    body = path.read_bytes()
    path.unlink()
    path.write_bytes(how(body))


def state_file(root: Path, project: str = PROJECTS[0], suffix: str = "") -> Path:
    """One generation of a project's state file."""
    return Layout(root).project(project) / f".agent_metrics.json{suffix}"


def rot(segment: int, index: int) -> Callable[[Path], None]:
    """A payload goes bad; its header still tells whose it was."""

    def damage(root: Path) -> None:
        path = segments(root)[segment]
        record = records(path)[index]
        change(path, lambda data: flipped(data, record.offset + 200))

    return damage


def zero_sectors(root: Path) -> None:
    """Two records of the middle segment lose their headers."""
    path = segments(root)[1]
    record = records(path)[4]
    change(path, lambda data: zeroed(data, record.offset // 512 * 512, 8 * 512))


def one_header(root: Path) -> None:
    """The first copy of a sealed segment's header."""
    change(segments(root)[1], lambda data: flipped(data, 30))


def both_headers(segment: int) -> Callable[[Path], None]:
    """Both copies of a segment's header."""

    def damage(root: Path) -> None:
        change(segments(root)[segment], lambda data: flipped(flipped(data, 30), 4096 + 30))

    return damage


def missing_segment(root: Path) -> None:
    """The middle segment is gone."""
    segments(root)[1].unlink()


def no_journal(root: Path) -> None:
    """All segments are gone."""
    for path in segments(root):
        path.unlink()


def stale_segment(root: Path) -> None:
    """The last segment as it was after its third record."""
    path = segments(root)[-1]
    end = records(path)[2].end
    change(path, lambda data: zeroed(data, end, len(data) - end))


def torn(root: Path) -> None:
    """Half a record at the end, of a commit that nobody was told of."""
    path = segments(root)[-1]
    end = records(path)[-1].end
    salt = decode_header(path.read_bytes())[0].salt
    change(path, lambda data: data[:end] + salt + b"torn" * 30 + data[end + 128 :])


def broken_states(count: int) -> Callable[[Path], None]:
    """The newest generations of a project."""

    def damage(root: Path) -> None:
        for suffix in SUFFIXES[:count]:
            change(state_file(root, suffix=suffix), lambda data: flipped(data, len(data) // 2))

    return damage


def edited_state(root: Path) -> None:
    """As somebody with an editor would."""
    change(state_file(root), lambda data: data.replace(b'"total_tokens":', b'"total_tokens": 9'))


def broken_server(root: Path) -> None:
    """The newest generation of the daemon's own file."""
    change(root / "server.json", lambda data: flipped(data, len(data) // 2))


def no_index(root: Path) -> None:
    """The index is deleted, as it may be."""
    for path in root.glob("index.sqlite*"):
        path.unlink()


def broken_index(root: Path) -> None:
    """Some pages of the index are garbage."""
    change(root / "index.sqlite", lambda data: data[:4096] + b"\xa5" * (len(data) - 4096))


def in_index(statement: str, *values: int) -> Callable[[Path], None]:
    """Somebody has written to the index."""

    def damage(root: Path) -> None:
        db = sqlite3.connect(root / "index.sqlite")
        db.execute(statement, values)
        db.commit()
        db.close()

    return damage


def in_server(edit: Callable[[ServerState], Any]) -> Callable[[Path], None]:
    """``server.json`` says something else, under a checksum that holds."""

    def damage(root: Path) -> None:
        path = root / "server.json"
        server = decode_server(path.read_bytes())
        edit(server)
        change(path, lambda data: encode_server(server))

    return damage


@dataclass(frozen=True)
class Case:
    """A way to damage a directory whose daemon had stopped.

    ``code`` is among what verify finds ("" for nothing), ``lost`` whether acknowledged
    events are gone from the journal, ``missed`` whether from the state as well,
    ``unread`` that they are in a segment that a start has no need to read.
    """

    damage: Callable[[Path], None]
    code: str
    lost: bool = False
    missed: bool = False
    unread: bool = False


CASES = {
    "nothing": Case(lambda root: None, ""),
    "torn tail": Case(torn, ""),
    "rot in the first segment": Case(rot(0, 3), "history", lost=True, unread=True),
    "rot in a middle segment": Case(rot(1, 5), "history", lost=True, unread=True),
    "rot in the last commit": Case(rot(-1, -2), "history", lost=True),
    "zeroed sectors": Case(zero_sectors, "history", lost=True, unread=True),
    "one header": Case(one_header, "corrupt"),
    "both headers of the first segment": Case(both_headers(0), "corrupt"),
    "both headers of a middle segment": Case(both_headers(1), "corrupt"),
    "both headers of the last segment": Case(both_headers(-1), "corrupt"),
    "missing segment": Case(missing_segment, "history", lost=True),
    "stale segment": Case(stale_segment, "lost", lost=True),
    "no journal": Case(no_journal, "corrupt", lost=True, missed=True),
    "newest state file": Case(broken_states(1), "damaged"),
    "newest two state files": Case(broken_states(2), "damaged"),
    "all state files of a project": Case(broken_states(4), "damaged"),
    "a state file edited by hand": Case(edited_state, "damaged"),
    "server.json": Case(broken_server, "damaged"),
    "index deleted": Case(no_index, ""),
    "index damaged": Case(broken_index, "damaged"),
}


def kinds_of(path: Path) -> list[int]:
    """The kinds of a segment's records."""
    return [Kind(record.kind) for record in records(path)]


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every name with its mode, time of change and bytes."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted([root, *root.rglob("*")])
    }


def as_json(value: Any) -> Any:
    """As it is printed."""
    return msgspec.json.decode(msgspec.json.encode(value))
