from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tallymark.errors import NewerFormatError
from tallymarkd.core import project_file
from tallymarkd.core.keys import key_hash
from tallymarkd.core.layout import Layout
from tallymarkd.core.ledger import Mark, encode_server
from tallymarkd.core.project_state import snapshot
from tallymarkd.core.restore import RecoveryReport
from tallymarkd.storage.index import IndexFullError, KeyIndex, version_mark
from tallymarkd.storage.sealed import seal
from tallymarkd.storage.segment import decode_header, encode_header
from tests.daemon_parts import (
    PRODUCERS,
    UID,
    image,
    run_end,
    usage,
)
from tests.state_dirs import (
    KIB,
    SERVER_UUID,
    SUFFIXES,
    Core,
    a_history,
    again,
    reaches_in,
    without_lsn,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


def main_file(root: Path, project: str = "spotter") -> Path:
    return Layout(root).project(project) / ".agent_metrics.json"


# Ordinary starts.


def test_an_empty_directory_makes_an_empty_daemon(root: Path) -> None:
    core = Core(root)

    assert image(core.books) == {
        "server": {
            **image(core.books)["server"],
            "server_id": str(SERVER_UUID),
            "applied_lsn": 0,
            "marks": {},
        },
        "projects": {},
    }
    assert core.report.clean
    assert (core.report.segments, core.report.records_read, core.report.next_lsn) == (0, 0, 1)
    assert core.report.damage == []
    core.put(run_end(1))
    assert core.books.projects["spotter"].applied_lsn == 1


def test_after_a_clean_stop_everything_is_there(root: Path) -> None:
    core = a_history(root)
    core.save()
    before = core.stop()

    core = again(root)

    assert without_lsn(image(core.books)) == without_lsn(before)
    assert core.report.clean
    assert (core.report.events_replayed, core.report.new_losses) == (0, 0)
    assert core.report.quarantined == []


@pytest.mark.parametrize("generations", [0, 1, 4])
def test_after_a_crash_everything_is_there(root: Path, generations: int) -> None:
    before = a_history(root, generations=generations).crash()

    core = again(root)

    assert image(core.books) == before
    assert not core.report.clean
    assert core.report.events_replayed >= 10
    assert core.report.next_lsn > before["server"]["applied_lsn"] + 1_000_000


def test_a_crash_during_a_start_changes_nothing(root: Path) -> None:
    before = a_history(root).crash()

    for _ in range(3):
        core = again(root)
        assert image(core.books) == before
        core.crash()


def test_events_after_a_restart_go_on_where_it_stopped(root: Path) -> None:
    a_history(root).crash()
    core = again(root)
    core.put(run_end(100), usage("same-key"), usage("key-1"))
    before = core.crash()

    core = again(root)

    assert image(core.books) == before
    runs = [run.event_id for run in snapshot(core.books.projects["spotter"]).events]
    assert runs[-1] == "run-100"
    assert core.books.server.ledger.duplicate == 4 + 4 + 2
    assert core.books.server.ledger.losses == []


def test_a_producer_goes_on_at_its_mark(root: Path) -> None:
    a_history(root, generations=2).crash()

    core = again(root)

    assert core.books.server.marks == {
        PRODUCERS[0]: Mark(3, "spotter", UID, 0.0, 15, 10, 2, 3),
        PRODUCERS[1]: Mark(3, "other", UID, 0.0, 15, 10, 2, 3),
    }


def test_what_was_replayed_is_to_be_saved(root: Path) -> None:
    a_history(root).crash()

    assert again(root).books.touched == {"spotter", "other"}


def test_how_far_the_generations_reach_is_handed_on(root: Path) -> None:
    core = a_history(root)
    core.save()
    core.crash()

    restored = again(root).restored

    assert restored.reaches == {
        name: reaches_in(Layout(root).project(name)) for name in ("spotter", "other")
    }
    assert restored.server_reaches == reaches_in(root)


def test_the_report_is_kept_beside_the_state(root: Path) -> None:
    a_history(root).crash()

    report = again(root).report

    kept = msgspec.json.decode((root / "recovery.json").read_bytes(), type=RecoveryReport)
    assert kept == report
    assert (report.segments, report.records_read, report.events_read) == (1, 10, 50)
    assert report.records_replayed == report.events_replayed // 5
    assert report.seconds >= 0


# Damaged generations.


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def blank(path: Path) -> None:
    path.write_bytes(b"")


def edit(path: Path) -> None:
    """As somebody with an editor would."""
    content = json.loads(path.read_bytes())
    content["total_tokens" if "total_tokens" in content else "format"] = 1
    path.write_text(json.dumps(content, indent=2))


def garble(path: Path) -> None:
    path.write_bytes(os.urandom(500))


@pytest.mark.parametrize("damage", [flip, cut, blank, edit, garble])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_damaged_generations_are_kept_aside_and_rebuilt_exactly(
    root: Path, count: int, damage: Callable[[Path], None]
) -> None:
    before = a_history(root).crash()
    path = main_file(root)
    damaged = [path.with_name(path.name + suffix) for suffix in SUFFIXES[:count]]
    for each in damaged:
        # Generations that are two names of one file would be damaged twice.
        each.write_bytes(_moved(each))
        damage(each)
    contents = [each.read_bytes() for each in damaged]

    core = again(root)

    assert image(core.books) == before
    assert len(core.report.quarantined) == count
    kept = [(root / "quarantine" / name).read_bytes() for name in core.report.quarantined]
    assert sorted(kept) == sorted(contents)
    assert not any(each.exists() for each in damaged)
    assert core.report.new_losses == 0
    core.save()
    assert project_file.decode(path.read_bytes()).applied_lsn > 0
    core.crash()
    assert again(root).report.quarantined == []


def _moved(path: Path) -> bytes:
    """The content, with the name taken off its file."""
    body = path.read_bytes()
    path.unlink()
    return body


def test_the_newest_three_can_be_lost_after_history_was_retired(root: Path) -> None:
    core = Core(root, segment_bytes_max=64 * KIB)
    filler = "x" * 4000
    for number in range(120):
        project = "spotter" if number % 3 else "other"
        core.put(run_end(number, error_message=filler), project=project,
                 producer=PRODUCERS[number % 3])  # fmt: skip
        if number % 10 == 9:
            core.save()
    assert core.retire() >= 2
    before = core.crash()
    path = main_file(root)
    for suffix in SUFFIXES[:3]:
        path.with_name(path.name + suffix).unlink()

    core = again(root)

    assert image(core.books) == before
    assert core.report.new_losses == 0


@pytest.mark.parametrize("damage", [flip, cut, blank, garble])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_damaged_server_file_is_rebuilt_exactly(
    root: Path, count: int, damage: Callable[[Path], None]
) -> None:
    before = a_history(root).crash()
    for suffix in SUFFIXES[:count]:
        path = root / f"server.json{suffix}"
        path.write_bytes(_moved(path))
        damage(path)

    core = again(root)

    assert image(core.books) == before
    assert len(core.report.quarantined) == count


def test_the_server_files_can_be_lost_altogether(root: Path) -> None:
    before = a_history(root).crash()
    for suffix in SUFFIXES:
        (root / f"server.json{suffix}").unlink()

    core = again(root)

    assert core.books.server.server_id == str(SERVER_UUID)
    assert image(core.books) == before


def test_a_project_directory_can_be_lost(root: Path) -> None:
    before = a_history(root).crash()
    directory = Layout(root).project("spotter")
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()

    assert image(again(root).books) == before


def test_something_else_in_the_place_of_a_file_is_kept_aside(root: Path) -> None:
    before = a_history(root).crash()
    path = main_file(root)
    path.unlink()
    path.mkdir()
    (path / "note").write_text("mine")

    core = again(root)

    assert image(core.books) == before
    (name,) = core.report.quarantined
    assert (root / "quarantine" / name / "note").read_text() == "mine"


def test_a_stray_file_among_the_projects_is_left_alone(root: Path) -> None:
    before = a_history(root).crash()
    stray = root / "projects" / "notes.txt"
    stray.write_text("mine")

    assert image(again(root).books) == before
    assert stray.read_text() == "mine"


# The index.


def known_after(core: Core) -> set[str]:
    names = [*(f"key-{number}" for number in range(1, 11)), "same-key", "new-key"]
    return {
        f"{project}:{name}"
        for project in ("spotter", "other")
        for name in names
        if core.keys.known([key_hash(project, name)])
    }


ALL_KEYS = {
    *(f"spotter:key-{number}" for number in (1, 3, 5, 7, 9)),
    *(f"other:key-{number}" for number in (2, 4, 6, 8, 10)),
    "spotter:same-key",
    "other:same-key",
}


@pytest.mark.parametrize("saved", [False, True])
def test_keys_are_known_after_a_restart(root: Path, saved: bool) -> None:
    core = a_history(root)
    if saved:
        core.save()
    core.crash()

    core = again(root)

    assert known_after(core) == ALL_KEYS
    core.put(usage("key-1"), usage("new-key"))
    assert core.books.server.ledger.duplicate == 8 + 1
    assert not core.report.index_rebuilt


def test_an_index_that_was_deleted_is_rebuilt(root: Path) -> None:
    core = a_history(root)
    core.save()
    before = core.stop()
    for path in root.glob("index.sqlite*"):
        path.unlink()

    core = again(root)

    assert known_after(core) == ALL_KEYS
    assert without_lsn(image(core.books)) == without_lsn(before)
    assert (core.report.index_rebuilt, core.report.index_reason) == (True, "there was none")


def test_of_a_new_directory_no_index_is_made_anew(root: Path) -> None:
    core = Core(root)
    assert (core.report.index_rebuilt, core.report.index_reason) == (False, "")
    core.crash()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"SQLite format 3\0" + b"\xff" * 4096, id="bad header"),
        pytest.param(b"not a database at all" * 500, id="garbage"),
    ],
)
def test_an_index_of_garbage_is_rebuilt(root: Path, content: bytes) -> None:
    core = a_history(root)
    core.save()
    core.stop()
    (root / "index.sqlite").write_bytes(content)

    core = again(root)

    assert known_after(core) == ALL_KEYS
    assert core.report.index_rebuilt or not content


def test_another_database_in_the_place_of_the_index_is_replaced(root: Path) -> None:
    core = a_history(root)
    core.save()
    core.stop()
    (root / "index.sqlite").unlink()
    with sqlite3.connect(root / "index.sqlite") as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()

    core = again(root)

    assert known_after(core) == ALL_KEYS
    assert core.report.index_rebuilt


def test_an_index_with_damaged_pages_is_rebuilt(root: Path) -> None:
    """Its first pages are whole, so it opens; the damage is met when a key is asked for."""
    core = Core(root)
    keys = [f"key-{number}" for number in range(3000)]
    for at in range(0, len(keys), 300):
        core.put(*(usage(key) for key in keys[at : at + 300]))
    core.save()
    core.stop()
    path = root / "index.sqlite"
    body = path.read_bytes()
    assert len(body) > 10 * 4096
    path.write_bytes(body[: 4 * 4096] + os.urandom(len(body) - 4 * 4096))

    core = again(root)

    assert len(core.keys.known(key_hash("spotter", key) for key in keys)) == len(keys)


def test_an_index_that_is_behind_is_brought_up(root: Path) -> None:
    core = a_history(root, generations=1)
    core.save()
    old = (root / "index.sqlite").read_bytes()
    core.put(usage("new-key"))
    core.save()
    core.stop()
    for path in root.glob("index.sqlite*"):
        path.unlink()
    (root / "index.sqlite").write_bytes(old)

    assert "spotter:new-key" in known_after(again(root))


def test_keys_that_the_index_has_no_room_for_are_known_and_written_later(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a_history(root, generations=1).crash()

    def no_room(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as full:
        full.setattr(KeyIndex, "add", no_room)
        core = again(root)
    assert "cannot write the index: database or disk is full" in caplog.text
    assert {"spotter:key-1", "other:key-4", "spotter:same-key"} <= known_after(core)
    core.save()
    core.stop()

    saved = KeyIndex.open(root / "index.sqlite")
    assert saved.through_lsn > 0
    assert saved.known([key_hash("spotter", "key-1"), key_hash("other", "key-4")])
    saved.close()


def test_an_index_that_finds_no_room_to_be_shared_is_used_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = a_history(root, generations=1)
    core.save()
    known = known_after(core)
    core.stop()
    whole = KeyIndex.open

    def full(path: Path, *, check: bool = True, alone: bool = False) -> KeyIndex:
        assert check
        if not alone:
            raise IndexFullError("cannot open it: the disk is full")
        return whole(path, alone=True)

    monkeypatch.setattr(KeyIndex, "open", full)
    core = again(root)

    assert not core.report.index_rebuilt
    assert known_after(core) == known
    core.put(usage("new-key"))
    core.save()
    assert known_after(core) == known | {"spotter:new-key"}
    core.stop()


# The journal.


def segments(root: Path) -> list[Path]:
    return sorted((root / "journal").glob("*.seg"))


def test_a_torn_tail_is_cut_and_kept_aside(root: Path) -> None:
    core = a_history(root)
    end = core.journal.size_bytes()
    before = core.crash()
    (path,) = segments(root)
    body = bytearray(path.read_bytes())
    body[end : end + 5] = b"torn!"
    path.write_bytes(body)

    core = again(root)

    assert image(core.books) == before
    (damage,) = core.report.damage
    assert damage.torn
    assert core.report.new_losses == 0
    (name,) = core.report.quarantined
    assert (root / "quarantine" / name).read_bytes() == b"torn!"


def corrupted(root: Path) -> tuple[dict[str, Any], int]:
    """A journal whose third record is damaged, with nothing saved."""
    core = Core(root)
    for number in range(1, 7):
        core.put(run_end(number, error_message=f"<{number}>"), usage(f"key-{number}"))
    before = core.crash()
    (path,) = segments(root)
    body = path.read_bytes()
    path.write_bytes(body.replace(b"<3>", b"<!>"))
    return before, len(body)


def test_a_corrupt_record_is_stepped_over_counted_and_named(root: Path) -> None:
    corrupted(root)

    core = again(root)

    runs = [run.event_id for run in snapshot(core.books.projects["spotter"]).events]
    assert runs == ["run-1", "run-2", "run-4", "run-5", "run-6"]
    ledger = core.books.server.ledger
    assert (ledger.lost, ledger.stored) == (2, 10)
    assert [(loss.producer, loss.from_seq, loss.through_seq) for loss in ledger.losses] == [
        (PRODUCERS[0], 3, 3)
    ]
    assert (ledger.losses[0].from_lsn, ledger.losses[0].through_lsn) == (5, 6)
    assert core.report.new_losses == 1
    assert [damage.torn for damage in core.report.damage] == [False]
    assert core.report.quarantined != []


def test_a_loss_is_counted_once_however_often_the_daemon_starts(root: Path) -> None:
    corrupted(root)
    core = again(root)
    before = image(core.books)
    core.crash()

    for save in (False, True, False):
        core = again(root)
        assert image(core.books) == before
        if save:
            core.save()
        core.crash()

    assert again(root).report.new_losses == 0


def test_a_state_file_proves_what_had_been_durable(root: Path) -> None:
    """The journal's end is gone, and the state file knows better."""
    core = a_history(root)
    core.save()
    core.crash()
    (path,) = segments(root)
    body = bytearray(path.read_bytes())
    end = len(bytes(body).rstrip(b"\0"))
    body[end - 600 :] = bytes(len(body) - end + 600)
    path.write_bytes(body)

    core = again(root)

    assert core.report.proven_lsn == 50
    assert core.books.server.ledger.stored == 32
    assert core.books.projects["other"].applied_lsn == 50
    assert not core.report.clean
    assert core.report.next_lsn > 50


# Newer formats.


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def newer_server(root: Path) -> Path:
    path = root / "server.json"
    _moved(path)
    path.write_bytes(b"".join(seal([b'{"format":2'], b"}")))
    return path


def newer_project(root: Path) -> Path:
    path = main_file(root)
    body = _moved(path).replace(b'"format":1', b'"format":2')
    end = body.rindex(b',"checksum"')
    path.write_bytes(body[:end] + b',"checksum":"crc32:%08x"}}\n' % zlib.crc32(body[:end]))
    return path


def newer_segment(root: Path) -> Path:
    (path,) = segments(root)
    body = path.read_bytes()
    header, _ = decode_header(body)
    newer = replace(header, format=header.format + 1, oldest_reader=header.format + 1)
    path.write_bytes(encode_header(newer) + body[len(encode_header(newer)) :])
    return path


def newer_index(root: Path) -> Path:
    path = root / "index.sqlite"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.execute(f"PRAGMA application_id = {version_mark(2)}")
    db.close()
    return path


@pytest.mark.parametrize("make", [newer_server, newer_project, newer_segment, newer_index])
def test_what_a_newer_version_wrote_is_refused_and_nothing_is_touched(
    root: Path, make: Callable[[Path], Path]
) -> None:
    core = a_history(root)
    core.save()
    core.stop()
    path = make(root)
    before = tree(root)

    with pytest.raises(NewerFormatError, match=path.name):
        again(root)

    assert tree(root) == before


def test_an_older_generation_of_a_newer_version_is_refused_too(root: Path) -> None:
    core = a_history(root)
    core.stop()
    path = root / "server.json.bak.2"
    _moved(path)
    path.write_bytes(b"".join(seal([b'{"format":2'], b"}")))

    with pytest.raises(NewerFormatError):
        again(root)


def test_the_server_file_is_the_one_that_was_encoded(root: Path) -> None:
    core = a_history(root)
    core.save()

    assert (root / "server.json").read_bytes() == encode_server(core.books.server)
