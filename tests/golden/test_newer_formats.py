"""Files of a newer version are refused with everything untouched; damage is no version.

A version is believed only where the checksum over it holds.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tallymark.errors import NewerFormatError
from tallymark.fs import OsFileSystem
from tallymarkd import MetricsStore
from tallymarkd.core.loading import read_only
from tallymarkd.storage.index import version_mark
from tallymarkd.storage.segment import HEADER_COPY_BYTES, decode_header, encode_header
from tests.daemon import DEADLINE_SECONDS, Daemon, tallymark
from tests.small_state import SmallState, judge, marked, start

MADE_BY_A_START = {"lock", "run", "run/tallymark.sock", "run/tallymark.sock.lock"}

Change = Callable[[Path], None]
Tree = dict[str, tuple[int, bytes | list[str]]]

PROJECT = "projects/spotter-34838c3eec"
STATE = f"{PROJECT}/.agent_metrics.json"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> SmallState:
    return marked(tmp_path_factory.mktemp("made") / "state")


@pytest.fixture
def root(state: SmallState, tmp_path: Path) -> Path:
    root = tmp_path / "state"
    state.write(root)
    return root


def tree(root: Path) -> Tree:
    """Every name with its time, and what is in it."""
    found: Tree = {}
    for path in (root, *sorted(root.rglob("*"))):
        content = path.read_bytes() if path.is_file() else sorted(os.listdir(path))
        found[str(path.relative_to(root))] = (path.stat().st_mtime_ns, content)
    return found


# Newer files, whole.


def segment(number: int, copies: tuple[int, ...] = (0, 1)) -> Change:
    """A header that only a newer reader may read, in these of its copies."""

    def change(root: Path) -> None:
        path = root / "journal" / f"{number:012d}.seg"
        body = bytearray(path.read_bytes())
        header = decode_header(bytes(body)).header
        newer = encode_header(replace(header, format=9, oldest_reader=2))
        for copy in copies:
            at = copy * HEADER_COPY_BYTES
            body[at : at + HEADER_COPY_BYTES] = newer[at : at + HEADER_COPY_BYTES]
        path.write_bytes(body)

    return change


def sealed(name: str, old: bytes, new: bytes) -> Change:
    """Another version in a file whose checksum holds."""

    def change(root: Path) -> None:
        covered, _, _ = (root / name).read_bytes().rpartition(b',"checksum"')
        assert covered.count(old) == 1
        covered = covered.replace(old, new)
        closing = b"}" if "server" in name else b"}}"
        seal = b',"checksum":"crc32:%08x"' % zlib.crc32(covered)
        (root / name).write_bytes(covered + seal + closing + b"\n")

    return change


def index(version: int) -> Change:
    def change(root: Path) -> None:
        with sqlite3.connect(root / "index.sqlite") as db:
            db.execute(f"PRAGMA user_version = {version}")
            db.execute(f"PRAGMA application_id = {version_mark(version)}")
        db.close()

    return change


NEWER: dict[str, Change] = {
    "first segment": segment(1),
    "sealed segment": segment(2),
    "active segment": segment(3),
    "segment, first header": segment(2, (0,)),
    "segment, second header": segment(3, (1,)),
    "state file, version": sealed(STATE, b'{"version":1,', b'{"version":2,'),
    "state file, format": sealed(STATE, b'"tallymark":{"format":1,', b'"tallymark":{"format":2,'),
    "state file, oldest": sealed(STATE + ".bak.3", b'{"version":1,', b'{"version":7,'),
    "server file": sealed("server.json", b'{"format":1,', b'{"format":2,'),
    "server file, oldest": sealed("server.json.bak.3", b'{"format":1,', b'{"format":3,'),
    "index": index(2),
}


@pytest.fixture(params=list(NEWER))
def newer(request: pytest.FixtureRequest, root: Path) -> Path:
    """A directory with a file of a newer version in it."""
    NEWER[request.param](root)
    return root


def test_a_start_refuses_and_touches_nothing(newer: Path) -> None:
    before = tree(newer)
    with pytest.raises(NewerFormatError, match="cannot open"):
        start(newer)

    assert tree(newer) == before


def test_reading_without_a_daemon_refuses_and_touches_nothing(newer: Path) -> None:
    before = tree(newer)
    with pytest.raises(NewerFormatError, match="cannot open"):
        read_only(OsFileSystem(), newer)

    assert tree(newer) == before


@pytest.mark.parametrize("name", list(NEWER))
def test_with_damage_beside_it_too(root: Path, name: str) -> None:
    """What a start would have mended, kept aside or made again stays as it is."""
    NEWER[name](root)
    damaged = ["server.json.bak", f"{PROJECT}/.agent_metrics.json.bak"]
    damaged += [] if name == "index" else ["index.sqlite"]
    for each in damaged:
        (root / each).write_bytes(b"damaged")
    (root / "journal" / "000000000004.tmp").write_bytes(b"left over")
    before = tree(root)
    with pytest.raises(NewerFormatError, match="cannot open"):
        start(root)

    assert tree(root) == before


@pytest.mark.parametrize("name", list(NEWER))
def test_the_daemon_itself_refuses_and_leaves_what_was_there(root: Path, name: str) -> None:
    """It takes its lock and makes its socket first: nothing else is new, or other."""
    NEWER[name](root)
    before = tree(root)
    daemon = Daemon(root)
    daemon.spawn()
    try:
        assert daemon.process is not None
        assert daemon.process.wait(DEADLINE_SECONDS) == 1
    finally:
        daemon.kill()

    assert "cannot open" in daemon.log()
    assert "Traceback" not in daemon.log()
    after = tree(root)
    assert after.keys() - before.keys() <= MADE_BY_A_START
    del before["."], after["."]
    assert {path: after.get(path) for path in before} == before


@pytest.mark.parametrize("command", ["dump", "verify", "repair"])
@pytest.mark.parametrize("name", ["active segment", "state file, format", "server file", "index"])
def test_commands_refuse_and_leave_what_was_there(root: Path, name: str, command: str) -> None:
    NEWER[name](root)
    before = tree(root)
    arguments = ["--project", "spotter"] if command == "dump" else [str(root)]
    done = tallymark("--state-dir", str(root), command, *arguments)

    assert done.returncode == (1 if command == "dump" else 2)
    assert "newer version" in done.stderr or "this version reads" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    after = tree(root)
    assert after.keys() - before.keys() <= {"lock"}
    del before["."], after["."]
    assert {path: after.get(path) for path in before} == before


@pytest.mark.parametrize("name", [name for name in NEWER if name.startswith("state file, v")])
def test_a_store_refuses_and_touches_nothing(root: Path, name: str) -> None:
    NEWER[name](root)
    store = MetricsStore("spotter", root / PROJECT)
    before = tree(root)
    with pytest.raises(NewerFormatError, match="newer version"):
        store.load()
    assert tree(root) == before
    with pytest.raises(NewerFormatError, match="newer version"):
        store.update(print)
    assert {**tree(root), PROJECT: before[PROJECT]}.items() >= before.items()


# What is no newer version.


def bytes_at(name: str, offset: int, new: bytes) -> Change:
    def change(root: Path) -> None:
        body = bytearray((root / name).read_bytes())
        body[offset : offset + len(new)] = new
        (root / name).write_bytes(body)

    return change


def both_headers(number: int) -> Change:
    name = f"journal/{number:012d}.seg"

    def change(root: Path) -> None:
        for copy in (0, 1):
            bytes_at(name, copy * HEADER_COPY_BYTES + 8, b"\x09\x00\x02\x00")(root)

    return change


def swapped(name: str, old: bytes, new: bytes) -> Change:
    def change(root: Path) -> None:
        body = (root / name).read_bytes()
        assert body.count(old) == 1
        (root / name).write_bytes(body.replace(old, new))

    return change


DAMAGED: dict[str, Change] = {
    "first segment": both_headers(1),
    "active segment": both_headers(3),
    "segment, one header": bytes_at("journal/000000000002.seg", 10, b"\x02"),
    "state file, version": swapped(STATE, b'{"version":1,', b'{"version":2,'),
    "state file, format": swapped(STATE, b'"tallymark":{"format":1,', b'"tallymark":{"format":2,'),
    "server file": swapped("server.json", b'{"format":1,', b'{"format":2,'),
    "index": bytes_at("index.sqlite", 63, b"\x02"),
}


@pytest.mark.parametrize("name", list(DAMAGED))
def test_a_version_whose_checksum_does_not_hold_is_damage(
    state: SmallState, root: Path, name: str
) -> None:
    DAMAGED[name](root)
    read_only(OsFileSystem(), root)
    core = start(root)
    judged = judge(state, core)
    report = core.report
    core.crash()

    assert (judged.lost, judged.doubled, judged.wrong) == (0, 0, ())
    needed = name != "first segment"  # no state file needs it, and it is not looked into
    assert not needed or report.damage or report.quarantined or report.index_rebuilt


def test_a_newer_segment_that_this_reader_may_read_is_read(state: SmallState, root: Path) -> None:
    path = root / "journal" / "000000000002.seg"
    body = path.read_bytes()
    header = encode_header(replace(decode_header(body).header, format=2))
    path.write_bytes(header + body[len(header) :])
    core = start(root)
    judged = judge(state, core)
    core.crash()

    assert (judged.lost, judged.wrong, core.report.damage) == (0, (), [])


def test_fields_that_a_newer_version_added_do_no_harm(state: SmallState, root: Path) -> None:
    for name in (STATE, "server.json"):
        sealed(name, b'{"version":1,' if name == STATE else b'{"format":1,',
               b'{"version":1,"mood":"good",' if name == STATE else b'{"format":1,"mood":"good",'
               )(root)  # fmt: skip
        assert json.loads((root / name).read_bytes())["mood"] == "good"
    core = start(root)
    judged = judge(state, core)
    core.crash()

    assert (judged.lost, judged.wrong, core.report.quarantined) == (0, (), [])
