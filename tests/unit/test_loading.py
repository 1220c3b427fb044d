"""What of the journal the state files still need, and what they do not miss."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tallymark.errors import StorageError
from tallymark.fs import OsFileSystem
from tallymarkd.core.layout import PROJECT_FILE, Layout
from tallymarkd.core.ledger import Loss
from tallymarkd.core.loading import load_state_files
from tallymarkd.core.verify import verify
from tests.daemon_parts import PRODUCERS, image, run_end
from tests.damaged_states import tree
from tests.faulty_fs import Fault, FaultyFs, Killed, Operation
from tests.small_state import SEGMENT_BYTES
from tests.state_dirs import SUFFIXES, Core, a_history, without_lsn

QUIET = "quiet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


def busy(core: Core, count: int, *, saved: bool = True) -> None:
    """Events of the other project, with the checkpointer at work between them."""
    for _ in range(count):
        number = len(core.acknowledged) + 1
        core.put(run_end(number, error_message="x" * 500), project="busy", producer=PRODUCERS[1])
        while saved and core.tick():
            pass


def quiet(core: Core, number: int) -> None:
    core.put(run_end(number), project=QUIET, producer=PRODUCERS[0])
    core.save()


def quiet_for_long(root: Path) -> Core:
    """A project was quiet while history was retired; then it had another event."""
    core = Core(root, segment_bytes_max=SEGMENT_BYTES)
    quiet(core, 1001)
    busy(core, 12)
    assert core.journal.sealed() == []
    assert core.journal.active_number > 2
    quiet(core, 1002)
    return core


def newest_lost(root: Path, count: int, project: str = QUIET) -> None:
    path = Layout(root).project(project) / PROJECT_FILE
    for suffix in SUFFIXES[:count]:
        path.with_name(path.name + suffix).unlink()


def again(root: Path) -> Core:
    return Core(root, segment_bytes_max=SEGMENT_BYTES, seed=2)


def losses(core: Core) -> list[Loss]:
    return core.books.server.ledger.losses


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_was_retired_is_not_missed_by_an_older_generation(root: Path, count: int) -> None:
    before = quiet_for_long(root).crash()
    newest_lost(root, count)
    findings = verify(OsFileSystem(), root).findings
    core = again(root)

    assert [each.code for each in findings if each.code == "lost"] == []
    assert without_lsn(image(core.books)) == without_lsn(before)
    assert (core.report.new_losses, losses(core)) == (0, [])


def test_a_segment_that_somebody_removed_is_missed(root: Path) -> None:
    core = quiet_for_long(root)
    first = core.journal.active_number
    busy(core, 10, saved=False)
    core.crash()
    (root / "journal" / f"{first:012d}.seg").unlink()
    gone = [each for each in core.acknowledged if each.lsn <= core.journal.sealed()[0].last_lsn]
    core = again(root)

    told = core.report.losses[0]
    assert "the journal begins later" in told.reason
    assert told.from_lsn <= max(each.lsn for each in gone) <= told.through_lsn
    assert len(core.books.projects["busy"].runs) < 22


def test_a_segment_that_only_a_project_lacks_is_missed(root: Path) -> None:
    """The server's file is ahead; the project's is not, and goes on behind the hole."""
    core = Core(root, segment_bytes_max=SEGMENT_BYTES)
    busy(core, 1)
    assert core.journal.active_number == 1
    busy(core, 12, saved=False)
    core.save_server()
    gone, _, *_ = core.journal.sealed()
    core.crash()
    (root / "journal" / f"{gone.number:012d}.seg").unlink()
    findings = verify(OsFileSystem(), root).findings
    core = again(root)

    assert "lost" in [each.code for each in findings]

    assert "the journal begins later than busy would need" in losses(core)[0].reason
    assert (losses(core)[0].through_lsn, core.report.new_losses) == (gone.last_lsn, 1)


def test_a_project_begun_after_history_was_retired_is_rebuilt_without_a_file(root: Path) -> None:
    core = Core(root, segment_bytes_max=SEGMENT_BYTES)
    busy(core, 12)
    quiet(core, 1001)
    before = core.crash()
    newest_lost(root, 1)
    core = again(root)

    assert without_lsn(image(core.books)) == without_lsn(before)
    assert losses(core) == []


def test_a_project_whose_files_are_all_gone_is_missed(root: Path) -> None:
    core = quiet_for_long(root)
    for _ in range(3):
        core.save()
    core.crash()
    newest_lost(root, 4)
    core = again(root)

    assert [loss.from_lsn for loss in losses(core)] == [1]
    assert QUIET in losses(core)[0].reason


def cut_off(root: Path, name: str) -> None:
    """A save was killed between its link and its rename; every batch has its segment."""
    fs = FaultyFs()
    core = Core(root, segment_bytes_max=SEGMENT_BYTES, fs=fs)
    for number in range(1, 7):
        core.put(run_end(number, error_message="x" * 2000), project=QUIET)
        core.save()
    core.put(run_end(7), project=QUIET)
    fs.faults.append(Fault("replace", Killed(), name=f"{name}.tmp"))
    with pytest.raises(Killed):
        core.save()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_generation_with_two_names_counts_once(root: Path, count: int) -> None:
    cut_off(root, PROJECT_FILE)
    core = again(root)
    first = core.journal.sealed()[0].number
    quiet(core, 8)
    while core.journal.sealed()[0].last_lsn <= 5:
        core.tick()
    assert core.journal.sealed()[0].number > first
    before = core.stop()
    newest_lost(root, count)
    core = again(root)

    assert without_lsn(image(core.books)) == without_lsn(before)


def test_a_generation_that_needs_what_was_retired_is_found(root: Path) -> None:
    core = Core(root, segment_bytes_max=SEGMENT_BYTES)
    for number in range(1, 7):
        core.put(run_end(number, error_message="x" * 2000), project=QUIET)
        core.save()
    # As no save would say it: then what the oldest generation still needs is retired.
    core.checkpointer.adopt({QUIET: [6, 6, 6, 6]}, [6, 6, 6, 6])
    while core.journal.sealed()[0].last_lsn <= 4:
        core.tick()
    core.stop()
    report = verify(OsFileSystem(), root)

    oldest = Layout(root).project(QUIET) / f"{PROJECT_FILE}.bak.3"
    assert report.verdict == "damaged"
    assert [each.code for each in report.findings] == ["disagrees"]
    assert f"{oldest}: it needs history that was retired" in report.findings[0].message


@pytest.mark.parametrize("name", [PROJECT_FILE, "server.json"])
def test_what_memory_takes_for_the_oldest_generation_is_the_oldest(root: Path, name: str) -> None:
    """Through every save after one that was cut off."""
    cut_off(root, name)
    core = again(root)
    for number in range(8, 12):
        quiet(core, number)
        found = load_state_files(OsFileSystem(), Layout(root))
        held = core.checkpointer.reaches
        assert [held[""], held[QUIET]] == [found.server.reaches, found.reaches[QUIET]]


def test_every_generation_of_the_server_file_says_that_a_segment_may_go(root: Path) -> None:
    core = Core(root, segment_bytes_max=SEGMENT_BYTES)
    seen = []
    retire = core.journal.retire

    def spy(number: int) -> None:
        files = [root / ("server.json" + suffix) for suffix in SUFFIXES]
        told = [json.loads(path.read_bytes())["server"]["retired_lsn"] for path in files]
        seen.append((core.journal.sealed()[0].last_lsn, told))
        retire(number)

    core.journal.retire = spy  # type: ignore[method-assign]
    busy(core, 12)
    core.crash()

    assert len(seen) > 1
    assert all(told == [last] * 4 for last, told in seen)


def test_without_a_server_file_everything_is_read(root: Path) -> None:
    before = a_history(root).crash()
    for suffix in SUFFIXES:
        (root / ("server.json" + suffix)).unlink()
    core = Core(root)

    assert without_lsn(image(core.books)) == without_lsn(before)
    assert losses(core) == []


def denied(fs: FaultyFs, name: str, code: int) -> None:
    """As the system says it: with the path."""

    def before(operation: Operation) -> None:
        if operation.kind == "open_read" and operation.path.name == name:
            raise OSError(code, os.strerror(code), str(operation.path))

    fs.before = before


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("name", ["server.json", "server.json.bak.2", PROJECT_FILE])
def test_a_file_that_may_not_be_read_stops_the_start_and_stays(
    root: Path, name: str, code: int
) -> None:
    """It is not damaged: with another owner it is whole."""
    a_history(root).crash()
    fs = FaultyFs()
    denied(fs, name, code)
    before = tree(root)

    with pytest.raises(StorageError, match=f"cannot open {root}/.*{name}: .*; make it readable"):
        Core(root, fs=fs)
    assert tree(root) == before
    denied(fs, name, code)
    with pytest.raises(StorageError, match=f"cannot verify {root}"):
        verify(fs, root)


def test_a_file_that_the_disk_does_not_give_is_damaged(root: Path) -> None:
    a_history(root).crash()
    fs = FaultyFs()
    fs.fail("open_read", errno.EIO, name="server.json")

    assert Core(root, fs=fs).report.quarantined == ["server.json.1"]
