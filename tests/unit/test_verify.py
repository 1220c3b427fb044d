from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tallymark.errors import NewerFormatError, PathError, StorageError
from tallymark.fs import OsFileSystem
from tallymarkd.core import books as books_module
from tallymarkd.core import project_file
from tallymarkd.core.ledger import Ledger, Mark, ServerState
from tallymarkd.core.verify import verify
from tallymarkd.core.verify_report import VerifyReport
from tallymarkd.storage.index import KeyIndex, version_mark
from tests.daemon_parts import PRODUCERS, run_end, usage
from tests.damaged_states import (
    CASES,
    Case,
    change,
    in_index,
    in_server,
    long_history,
    segments,
    state_file,
    tree,
)
from tests.journals import flipped
from tests.state_dirs import SUFFIXES, Core

FLIPS = 60


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory after a clean stop, to be copied."""
    root = tmp_path_factory.mktemp("stopped") / "state"
    long_history(root)
    return root


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose daemon died."""
    root = tmp_path_factory.mktemp("crashed") / "state"
    long_history(root, stop=False)
    return root


@pytest.fixture
def whole(stopped: Path, root: Path) -> Path:
    """A copy of the directory after a clean stop."""
    shutil.copytree(stopped, root)
    return root


def look(root: Path) -> VerifyReport:
    return verify(OsFileSystem(), root)


def codes(report: VerifyReport) -> set[str]:
    return {finding.code for finding in report.findings}


# What is well.


def test_a_directory_after_a_clean_stop_is_whole(root: Path) -> None:
    core = long_history(root)

    report = look(root)

    assert (report.verdict, report.findings, report.known, report.notes) == ("whole", [], [], [])
    assert len(report.journal.segments) == 4
    assert all(part.header == "whole" for part in report.journal.segments)
    assert report.journal.records == {"batch": 60, "stop": 1}
    assert sum(part.records for part in report.journal.segments) == 61
    assert len(report.state_files) == 3
    generations = [each for part in report.state_files for each in part.generations]
    assert len(generations) == 12
    assert all(each.whole and each.agrees for each in generations)
    assert len({each.applied_lsn for each in generations}) > 6
    assert (report.index.state, report.index.keys, report.index.agrees) == ("whole", 62, True)
    assert report.ledger_agrees is True
    ledger = core.books.server.ledger
    assert report.events == report.ledger
    assert (ledger.received, ledger.stored, ledger.duplicate) == (240, 122, 58)
    assert msgspec.structs.asdict(report.events) == {
        "received": 240, "stored": 122, "duplicate": 58, "rejected": {"invalid_field": 60},
        "skipped": 0, "lost": 0,
    }  # fmt: skip
    one, other = (report.producers[name] for name in PRODUCERS[:2])
    assert (one.project, one.from_seq, one.through_seq, one.batches) == ("spotter", 1, 30, 30)
    assert one.events.stored + other.events.stored == 122
    assert one.events.rejected == {"invalid_field": 30}


def test_after_a_crash_it_is_unclean_and_nothing_is_found(root: Path) -> None:
    long_history(root, stop=False)

    report = look(root)

    assert (report.verdict, report.findings) == ("unclean", [])
    assert not report.journal.clean
    assert report.after_ledger.received == 8
    assert report.ledger is not None
    assert report.ledger.received == report.events.received - 8 == 232
    assert any("next start settles it" in note for note in report.notes)
    assert any("8 events stand in the journal" in note for note in report.notes)


def test_history_that_was_retired_is_no_loss(root: Path) -> None:
    core = Core(root)
    for number in range(120):
        core.put(
            run_end(number, error_message="x" * 4000), usage(f"key-{number}"),
            project="other" if number == 0 or number % 3 == 0 else "spotter",
            producer=PRODUCERS[number % 3],
        )  # fmt: skip
        if number % 10 == 9:
            core.save()
    assert core.retire() >= 2
    core.stop()

    report = look(root)

    assert (report.verdict, report.findings) == ("whole", [])
    assert report.journal.begins_after_lsn > 0
    assert report.index.agrees is True
    assert report.ledger_agrees is True
    for part in report.state_files:
        assert part.generations[0].agrees is True
        assert part.generations[-1].agrees is None
        assert part.generations[-1].reason


def test_a_quiet_project_behind_retired_history_is_whole(root: Path) -> None:
    core = Core(root)
    core.put(run_end(0), project="quiet", producer=PRODUCERS[2])
    for number in range(1, 120):
        core.put(run_end(number, error_message="x" * 4000))
        if number % 10 == 9:
            core.save()
    for sealed in core.journal.sealed()[:2]:
        core.keys.forget_before(sealed.last_lsn + 1)
        core.journal.retire(sealed.number)
    core.stop()

    report = look(root)

    assert (report.verdict, report.findings) == ("whole", [])
    assert report.journal.begins_after_lsn > 1


def test_an_empty_state_directory_is_whole(root: Path) -> None:
    Core(root).stop()

    assert look(root).verdict == "whole"


# What is not.


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("stop", [True, False])
def test_every_damage_is_found_and_nothing_is_changed(
    root: Path, stopped: Path, crashed: Path, case: Case, stop: bool
) -> None:
    shutil.copytree(stopped if stop else crashed, root)
    case.damage(root)
    before = tree(root)

    report = look(root)

    assert tree(root) == before
    found = codes(report)
    # Two batches of the one that died were in its journal alone.
    unsaved = not stop and case is CASES["rot in the last commit"]
    code = "lost" if unsaved else case.code
    assert code in found if code else not found
    assert ("history" in found) == (case.lost and not case.missed and not unsaved)
    assert report.verdict == (
        "damaged" if found else "whole" if report.journal.clean else report.verdict
    )
    assert all(finding.message for finding in report.findings)


def test_damage_is_placed_and_named(whole: Path) -> None:
    CASES["rot in a middle segment"].damage(whole)

    report = look(whole)

    (finding,) = report.findings
    assert "segment 2, bytes " in finding.message
    assert "does not verify" in finding.message
    assert any(name in finding.message for name in PRODUCERS[:2])
    assert "(seq " in finding.message
    assert len(report.journal.segments[1].damage) == 1
    assert report.events.lost == 4


def test_torn_bytes_are_told_as_never_acknowledged(root: Path) -> None:
    long_history(root, stop=False)
    CASES["torn tail"].damage(root)

    report = look(root)

    assert report.verdict == "unclean"
    assert report.journal.torn_bytes == 128
    assert any(note.startswith("torn: ") for note in report.notes)


def test_a_missing_beginning_that_a_state_file_needs_is_a_loss(whole: Path) -> None:
    for suffix in SUFFIXES:
        state_file(whole, suffix=suffix).unlink()
    segments(whole)[0].unlink()

    report = look(whole)

    assert any("the journal begins later than" in each.message for each in report.findings)


def disagreeing_ledger(server: ServerState) -> None:
    server.ledger.stored += 1


def disagreeing_rejections(server: ServerState) -> None:
    server.ledger.rejected = {"too_large": server.ledger.rejected["invalid_field"]}


def disagreeing_mark(server: ServerState) -> None:
    server.marks[PRODUCERS[0]].seq -= 1


def disagreeing_producer(server: ServerState) -> None:
    server.marks[PRODUCERS[1]].duplicate += 1


def disagreeing_skips(server: ServerState) -> None:
    server.marks[PRODUCERS[1]].skipped += 1


def stray_mark(server: ServerState) -> None:
    server.marks[PRODUCERS[2]] = Mark(4, "spotter", 1000)


def disagreeing_last(server: ServerState) -> None:
    server.last_lsn["spotter"] -= 4


def forgotten_project(server: ServerState) -> None:
    del server.last_lsn["other"]


def forgotten_ledger(server: ServerState) -> None:
    server.ledger = Ledger()


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (disagreeing_ledger, " stored, the journal has "),
        (disagreeing_rejections, "too_large"),
        (disagreeing_mark, f"the mark of producer {PRODUCERS[0]} is 29, in the journal it is 30"),
        (disagreeing_producer, f"of producer {PRODUCERS[1]} it has counted other events"),
        (disagreeing_skips, f"of producer {PRODUCERS[1]} it has counted other events"),
        (stray_mark, "in the journal it is None"),
        (disagreeing_last, "the last number of spotter"),
        (forgotten_project, "the last number of other is 0"),
        (forgotten_ledger, "received"),
    ],
)
def test_what_server_json_says_is_held_against_the_journal(
    whole: Path, edit: Callable[[ServerState], None], told: str
) -> None:
    in_server(edit)(whole)

    report = look(whole)

    assert codes(report) == {"disagrees"}
    assert any(told in each.message for each in report.findings)


def test_the_count_does_not_share_the_daemons_mistakes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Books that count every duplicate as stored, from the first event on."""

    def wrong(ledger: Ledger, mark: Mark | None, verdicts: bytes) -> None:
        ledger.received += len(verdicts)
        ledger.stored += len(verdicts)

    monkeypatch.setattr(books_module, "count_verdicts", wrong)
    long_history(root)

    report = look(root)

    assert codes(report) == {"disagrees"}
    assert report.ledger_agrees is False
    assert report.events.duplicate == 58


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_generation_that_is_not_what_the_journal_gives_is_found(
    whole: Path, suffix: str
) -> None:
    path = state_file(whole, suffix=suffix)
    state, server_id = project_file.decode_owned(path.read_bytes())
    state.board.total_tokens += 1
    change(path, lambda _: project_file.encode(state, server_id=server_id))

    report = look(whole)

    assert codes(report) == {"disagrees"}
    wrong = [
        each.path for part in report.state_files for each in part.generations if not each.agrees
    ]
    # The next one is not what the wrong one becomes.
    assert str(path) in wrong
    assert len(wrong) <= 2


def test_a_state_file_of_another_directory_is_found(whole: Path) -> None:
    path = state_file(whole)
    state = project_file.decode(path.read_bytes())
    change(path, lambda _: project_file.encode(state, server_id="another"))

    report = look(whole)

    assert [each.message for each in report.findings] == [
        f"{path} belongs to the daemon of another state directory"
    ]


def test_an_index_that_somebody_wrote_to_is_damaged(whole: Path) -> None:
    in_index("DELETE FROM keys WHERE lsn BETWEEN ? AND ?", 100, 120)(whole)

    report = look(whole)

    assert codes(report) == {"damaged"}
    assert "sums" in report.findings[0].message


def later(index: KeyIndex) -> None:
    """The newest keys, each under the number after its own."""
    keys = index._db.execute("SELECT key, lsn + 1 FROM keys WHERE lsn > 200").fetchall()
    assert index.forget(201, 2**62) == len(keys) > 0
    index.add(keys, index.through_lsn)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda index: index.forget(100, 120), "are not in it"),
        (lambda index: index.add([(4711, 55)], index.through_lsn), "are of no event"),
        (later, "are not in it"),
    ],
)
def test_an_index_that_is_not_the_journals_is_found(
    whole: Path, change: Callable[[KeyIndex], object], told: str
) -> None:
    index = KeyIndex.open(whole / "index.sqlite")
    change(index)
    index.close()

    report = look(whole)

    assert codes(report) == {"disagrees"}
    assert any(told in each.message for each in report.findings)
    assert report.index.agrees is False


def test_no_byte_that_says_anything_can_change_unseen(whole: Path) -> None:
    """Bytes of the journal, of state files and of the index, here and there."""
    choice = random.Random(7)
    suffixes = {".seg", ".json", ".bak", ".2", ".3"}
    files = [
        path
        for path in sorted(whole.rglob("*"))
        if path.is_file() and path.suffix in suffixes and "recovery" not in path.name
    ]
    assert len(files) == 4 + 12
    tried = 0
    while tried < FLIPS:
        path = choice.choice(files)
        body = path.read_bytes()
        at = choice.randrange(len(body))
        if body[at : at + 8].strip(b"\0") == b"" or body[at] == 0:
            continue  # blocks allocated ahead, fill, padding
        tried += 1
        path.write_bytes(flipped(body, at))
        report = look(whole)
        path.write_bytes(body)
        assert report.findings, f"{path.name}, byte {at}"


# When there is no answer.


def test_what_is_no_state_directory_is_refused(root: Path) -> None:
    with pytest.raises(PathError, match="no state directory"):
        look(root)
    root.mkdir()
    (root / "notes.txt").write_text("mine")
    with pytest.raises(PathError, match="no state directory"):
        look(root)


def test_with_a_daemon_on_it_there_is_no_answer(whole: Path) -> None:
    lock = OsFileSystem().lock(whole / "lock")
    try:
        with pytest.raises(StorageError, match="tallymarkd runs on it"):
            look(whole)
    finally:
        os.close(lock)
    assert look(whole).verdict == "whole"


def test_a_daemon_that_begins_meanwhile_is_noticed(whole: Path) -> None:
    answers = [False, True]

    with pytest.raises(StorageError, match="tallymarkd runs on it"):
        verify(OsFileSystem(), whole, locked=lambda _: answers.pop(0))


def test_a_daemon_that_came_and_went_meanwhile_is_noticed(whole: Path) -> None:

    def locked(_: Path) -> bool:
        if not seen:
            seen.append(True)
            return False
        return False

    class Interrupted(OsFileSystem):
        def open_read(self, path: Path) -> int:
            if path.suffix == ".seg" and not ran:
                ran.append(True)
                Core(whole).stop()
            return super().open_read(path)

    seen: list[bool] = []
    ran: list[bool] = []
    with pytest.raises(StorageError, match="tallymarkd runs on it"):
        verify(Interrupted(), whole, locked=locked)


def test_a_newer_format_is_refused(whole: Path) -> None:
    in_index("PRAGMA user_version = 2")(whole)
    in_index(f"PRAGMA application_id = {version_mark(2)}")(whole)

    with pytest.raises(NewerFormatError, match=r"index\.sqlite"):
        look(whole)
