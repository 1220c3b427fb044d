from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from tallymark.errors import NewerFormatError, PathError, StorageError
from tallymark.fs import OsFileSystem
from tallymarkd.core.recovery_report import RecoveryReport
from tallymarkd.core.repair import repair
from tallymarkd.core.verify import verify
from tallymarkd.storage.index import version_mark
from tests.damaged_states import CASES, Case, both_ends, in_index, state_file, tree
from tests.faulty_fs import FaultyFs
from tests.state_dirs import journal_settings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A directory after a clean stop, and one whose daemon died; to be copied."""
    return both_ends(tmp_path_factory.mktemp("made"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


def settle(root: Path) -> RecoveryReport:
    return repair(OsFileSystem(), root, journal_settings())


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_after_a_repair_nothing_is_found_any_more(
    made: dict[bool, Path], root: Path, case: Case, stop: bool
) -> None:
    shutil.copytree(made[stop], root)
    case.damage(root)

    report = settle(root)
    after = verify(OsFileSystem(), root)

    assert (after.verdict, after.findings) == ("whole", [])
    assert bool(report.new_damage or report.new_losses) == bool(case.lost or case.code == "corrupt")
    assert not case.missed or report.new_losses
    assert bool(after.known) >= case.lost
    again = settle(root)
    assert (again.new_losses, again.new_damage, again.clean) == (0, 0, True)
    assert verify(OsFileSystem(), root).findings == []


def test_a_newest_generation_that_was_damaged_is_there_again(
    made: dict[bool, Path], root: Path
) -> None:
    shutil.copytree(made[True], root)
    CASES["newest state file"].damage(root)

    report = settle(root)

    assert len(report.quarantined) == 1
    assert state_file(root).exists()
    assert report.new_losses == 0


def test_it_refuses_what_a_daemon_runs_on(made: dict[bool, Path], root: Path) -> None:
    shutil.copytree(made[True], root)
    lock = OsFileSystem().lock(root / "lock")
    before = tree(root)
    try:
        with pytest.raises(StorageError, match="cannot repair .* tallymarkd runs on it"):
            settle(root)
    finally:
        os.close(lock)
    assert tree(root) == before


def test_it_refuses_what_is_no_state_directory(root: Path) -> None:
    root.mkdir()
    with pytest.raises(PathError, match="cannot repair"):
        settle(root)
    assert list(root.iterdir()) == []


def test_it_leaves_a_newer_format_alone(made: dict[bool, Path], root: Path) -> None:
    shutil.copytree(made[True], root)
    in_index("PRAGMA user_version = 2")(root)
    in_index(f"PRAGMA application_id = {version_mark(2)}")(root)
    before = tree(root)

    with pytest.raises(NewerFormatError):
        settle(root)

    after = {name: body for name, (_, _, body) in tree(root).items() if name != "lock"}
    assert after == {name: body for name, (_, _, body) in before.items()}


@pytest.mark.parametrize("name", [".agent_metrics.json.tmp", "server.json.tmp"])
def test_what_cannot_be_saved_is_told_and_can_be_repeated(
    made: dict[bool, Path], root: Path, name: str
) -> None:
    shutil.copytree(made[False], root)
    fs = FaultyFs()
    fs.fail("create", errno.ENOSPC, times=99, name=name)

    with pytest.raises(StorageError, match=r"cannot save \d of 3 state files: .*: .*No space"):
        repair(fs, root, journal_settings())

    settle(root)
    assert verify(OsFileSystem(), root).verdict == "whole"
    os.close(OsFileSystem().lock(root / "lock"))


def test_another_users_directory_is_refused_untouched(
    made: dict[bool, Path], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root would write there is root's, and the daemon could not read it."""
    shutil.copytree(made[False], root)
    before = tree(root)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)

    with pytest.raises(StorageError, match=f"cannot repair {root}: it belongs to .* runuser -u"):
        settle(root)
    assert tree(root) == before
