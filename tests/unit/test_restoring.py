from __future__ import annotations

import errno
import math
import os
import shutil
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from tallymark.errors import DamagedError, NewerFormatError, PathError, StorageError
from tallymark.fs import OsFileSystem
from tallymarkd.core.backup_manifest import (
    MANIFEST_NAME,
    FileEntry,
    encode_manifest,
    read_manifest,
)
from tallymarkd.core.layout import Layout
from tallymarkd.core.loading import read_only
from tallymarkd.core.recovery_report import read_history
from tallymarkd.core.replacing import finish
from tallymarkd.core.restoring import NUMBERS_PER_SECOND_BITS
from tallymarkd.core.verify import verify
from tallymarkd.storage.sealed import seal
from tests.backups import BEGUN, LATER, a_backup, backed_up, restored
from tests.daemon_parts import PRODUCERS, image, run_end, usage
from tests.damaged_states import tree
from tests.faulty_fs import FaultyFs, Killed
from tests.state_dirs import SERVER_UUID, Core, a_history, again

ORIGIN = "restored on 2026-01-03 12:00:00 UTC from the backup of 2026-01-02T12:00:00.000Z"
LACKING = f"{ORIGIN}; what was acknowledged after it is not there"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup, beside the state directory of which it is; not to be changed."""
    return a_backup(tmp_path_factory.mktemp("made"))


def figures(root: Path) -> dict[str, Any]:
    """Every project, and what the ledger has but for losses."""
    found = image(read_only(OsFileSystem(), root))
    ledger = found["server"]["ledger"]
    marks = {name: mark[0] for name, mark in found["server"]["marks"].items()}
    projects = {name: each[0] for name, each in found["projects"].items()}
    return {"projects": projects, "stored": ledger["stored"], "marks": marks}


def state_files(root: Path) -> dict[str, object]:
    """Everything in the state directory, but for its lock."""
    return {path: what for path, what in tree(root).items() if path not in (".", "lock")}


def test_the_state_is_the_one_that_was(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "new"

    report = restored(made, root)

    assert figures(root) == figures(made.parent / "state")
    found = verify(OsFileSystem(), root)
    assert (found.verdict, found.findings) == ("whole", [])
    assert found.index.agrees
    assert found.index.keys
    assert (root / "quarantine" / "torn").read_bytes() == b"bytes that were cut off"
    assert (report.aside, report.lacks, report.events_lost) == (None, None, 0)
    for path in (root, *root.rglob("*")):
        if "index" not in path.name:
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_the_server_stays_the_one_to_which_spools_belong(made: Path, tmp_path: Path) -> None:
    restored(made, tmp_path / "new")

    core = again(tmp_path / "new")
    assert core.books.server.server_id == str(SERVER_UUID)
    core.crash()


def test_numbers_are_above_all_that_were_given_since(made: Path, tmp_path: Path) -> None:
    """Also above those of an earlier restore of the same backup."""
    first, second = tmp_path / "first", tmp_path / "second"
    restored(made, first, now=LATER)
    core = again(first)
    core.put(run_end(500))
    given = core.journal.durable_lsn
    core.crash()

    restored(made, second, now=LATER + timedelta(seconds=1))

    core = again(second)
    core.put(run_end(501))
    assert core.acknowledged[-1].lsn > given >= int(LATER.timestamp()) << NUMBERS_PER_SECOND_BITS
    core.crash()


def test_with_a_clock_that_went_back_they_are_above_the_replaced_state(tmp_path: Path) -> None:
    backup, root = a_backup(tmp_path), tmp_path / "state"
    restored(backup, root, replace=True, now=LATER)
    core = again(root)
    core.put(run_end(500))
    given = core.journal.durable_lsn
    core.crash()

    report = restored(backup, root, replace=True, now=BEGUN - timedelta(days=1))

    assert report.next_lsn > given


def test_what_the_replaced_state_had_more_is_named(tmp_path: Path) -> None:
    backup, root = a_backup(tmp_path), tmp_path / "state"
    core = again(root)
    seq = core.next_seq(PRODUCERS[0])
    core.put(run_end(500), usage("new"), usage("new"), usage(input_tokens=-1))
    core.put(run_end(501))
    core.put(usage("new"), usage(input_tokens=-1))
    core.put(run_end(502), project="other", producer=PRODUCERS[1])
    core.crash()

    report = restored(backup, root, replace=True)

    assert report.lacks == 4
    losses = read_only(OsFileSystem(), root).server.ledger.losses
    assert [(each.producer, each.from_seq, each.through_seq, each.events) for each in losses] == [
        (PRODUCERS[0], seq, seq + 2, 3),
        (PRODUCERS[1], losses[1].from_seq, losses[1].from_seq, 1),
    ]
    assert all(each.reason == LACKING for each in losses)
    assert read_only(OsFileSystem(), root).server.ledger.lost == 4
    (told,) = read_history(OsFileSystem(), Layout(root)).reports
    assert (told.new_losses, told.losses) == (2, losses)
    found = verify(OsFileSystem(), root)
    assert (found.verdict, found.findings, len(found.known)) == ("whole", [], 2)
    assert found.known[0] == (
        f"{LACKING}; not in the backup: numbers {losses[0].from_lsn} to {losses[0].through_lsn} "
        f"of producer {PRODUCERS[0]} (seq {seq} to {seq + 2})"
    )


@pytest.mark.parametrize("repeated", [False, True])
def test_nothing_is_lost_where_the_replaced_state_had_stored_no_more(
    tmp_path: Path, repeated: bool
) -> None:
    backup, root = a_backup(tmp_path), tmp_path / "state"
    if repeated:
        core = again(root)
        core.put(usage("same-key"), usage("same-key"), usage(input_tokens=-1))
        core.crash()

    report = restored(backup, root, replace=True)

    assert report.lacks == 0
    assert read_only(OsFileSystem(), root).server.ledger.losses == []
    found = verify(OsFileSystem(), root)
    assert (found.findings, found.known) == ([], [])


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("name", ["new", "others"])
def test_where_nothing_shows_how_much_is_lacking_that_is_said(
    made: Path, tmp_path: Path, name: str, live: bool
) -> None:
    """Of a daemon that was stopped nothing is lacking, as of its stop: so nothing is lost."""
    backup, root = tmp_path / "backup", tmp_path / name
    shutil.copytree(made, backup)
    manifest = read_manifest(OsFileSystem(), backup)
    (backup / MANIFEST_NAME).write_bytes(encode_manifest(replace(manifest, live=live)))
    if name == "others":
        Core(root).crash()
        shutil.rmtree(root / "journal")

    report = restored(backup, root, replace=True)

    assert report.lacks is None
    server = read_only(OsFileSystem(), root).server
    assert server.ledger.lost == 0
    (account,) = read_history(OsFileSystem(), Layout(root)).reports
    found = verify(OsFileSystem(), root)
    assert (found.verdict, found.findings) == ("whole", [])
    if live:
        (loss,) = server.ledger.losses
        assert (loss.events, loss.producer, loss.reason) == (0, "", LACKING)
        numbers = f"numbers {loss.from_lsn} to {loss.through_lsn}"
        assert found.known == [f"{LACKING}; never used: {numbers}"]
    else:
        complete = f"{ORIGIN}, which is complete: tallymarkd was stopped"
        assert (account.restored, account.new_losses) == (complete, 0)
        assert (server.ledger.losses, found.known, found.notes) == ([], [], [complete])


def test_a_producer_that_knows_more_can_go_on(tmp_path: Path) -> None:
    backup, root = a_backup(tmp_path), tmp_path / "state"
    core = again(root)
    core.put(run_end(500))
    seq = core.next_seq(PRODUCERS[0])
    core.crash()

    restored(backup, root, replace=True)

    core = again(root)
    assert core.next_seq(PRODUCERS[0]) == seq - 1
    core.skip(1)
    core.put(run_end(501))
    core.save()
    core.stop()
    found = verify(OsFileSystem(), root)
    assert (found.verdict, found.findings) == ("whole", [])


def test_a_state_that_is_there_stays_unless_it_is_asked_for(tmp_path: Path) -> None:
    backup, root = a_backup(tmp_path), tmp_path / "state"
    (root / "spool").mkdir()
    (root / "spool" / "x.spool").write_bytes(b"of a client")
    before = state_files(root)

    with pytest.raises(StorageError, match=r"it has a state already \(journal, projects, .*--rep"):
        restored(backup, root)
    assert state_files(root) == before

    aside = restored(backup, root, replace=True).aside
    assert aside == str(root / "replaced-20260103T120000Z")
    for name in ("server.json", "journal/000000000001.seg", "index.sqlite"):
        assert (root / "replaced-20260103T120000Z" / name).exists()
    assert (root / "spool" / "x.spool").read_bytes() == b"of a client"


def test_under_a_running_daemon_nothing_is_restored(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "new"
    root.mkdir()
    lock = OsFileSystem().lock(root / "lock")
    try:
        with pytest.raises(StorageError, match=f"cannot restore {root}: tallymarkd runs on it"):
            restored(made, root)
    finally:
        OsFileSystem().close(lock)
    assert [path.name for path in root.iterdir()] == ["lock"]


def test_what_is_no_backup_is_usage(tmp_path: Path) -> None:
    with pytest.raises(PathError, match="it is no backup"):
        restored(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_flipped_byte_in_any_file_is_found_and_named(made: Path, tmp_path: Path) -> None:
    backup, root = tmp_path / "backup", tmp_path / "new"
    shutil.copytree(made, backup)
    root.mkdir()
    files = [path for path in backup.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        body = path.read_bytes()
        for at in (0, len(body) // 2, len(body) - 1):
            path.write_bytes(body[:at] + bytes([body[at] ^ 0x20]) + body[at + 1 :])
            with pytest.raises(DamagedError, match=f"cannot restore {path}: .*use another backup"):
                restored(backup, root)
        path.write_bytes(body)
        assert state_files(root) == {}, path
    restored(backup, root)


def test_a_file_that_is_gone_or_cut_is_named(made: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    shutil.copytree(made, backup)
    path = backup / "state" / "journal" / "000000000001.seg"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=f"cannot restore {path}: it has .* bytes instead of"):
        restored(backup, tmp_path / "new")

    path.unlink()
    with pytest.raises(DamagedError, match=f"cannot restore {path}: it is missing"):
        restored(backup, tmp_path / "new")


def test_a_newer_backup_is_refused_untouched(made: Path, tmp_path: Path) -> None:
    backup, root = tmp_path / "backup", tmp_path / "state"
    shutil.copytree(made, backup)
    shutil.copytree(made.parent / "state", root)
    before = state_files(root)
    (backup / MANIFEST_NAME).write_bytes(b"".join(seal([b'{"format":2,"x":1'], b"}")))

    with pytest.raises(NewerFormatError, match="format 2"):
        restored(backup, root, replace=True)
    assert state_files(root) == before


def test_a_newer_state_file_in_it_is_refused_with_the_old_state_in_place(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "state"
    a_history(source).crash()
    a_history(root).crash()
    backed_up(source, tmp_path / "backup")
    newer = b"".join(seal([b'{"format":9,"server":{}'], b"}"))
    forge(tmp_path / "backup", "state/server.json", newer)
    before = state_files(root)

    with pytest.raises(NewerFormatError, match="format 9"):
        restored(tmp_path / "backup", root, replace=True)
    assert state_files(root) == before


def forge(backup: Path, name: str, body: bytes) -> None:
    """Another content for a file, of which the manifest knows."""
    manifest = read_manifest(OsFileSystem(), backup)
    (backup / name).write_bytes(body)
    entry = FileEntry(path=name, size_bytes=len(body), sha256=sha256(body).hexdigest())
    manifest.files = [entry if each.path == name else each for each in manifest.files]
    (backup / MANIFEST_NAME).write_bytes(encode_manifest(manifest))


@pytest.mark.parametrize("kind", ["create", "write", "sync", "sync_dir", "mkdir", "replace"])
def test_a_disk_that_fails_leaves_the_old_state_or_the_new_one(
    made: Path, tmp_path: Path, kind: str
) -> None:
    new = None
    for skip in range(200):
        root = tmp_path / f"{kind}-{skip}"
        shutil.copytree(made.parent / "state", root)
        before = state_files(root)
        fs = FaultyFs()
        fs.fail(kind, errno.ENOSPC, skip=skip)
        told = ""
        try:
            restored(made, root, fs, replace=True)
        except StorageError as error:
            told = str(error)
        assert told.startswith(f"cannot restore {root}: ") or not told
        assert not (root / "restore.partial").exists()
        if fs.faults[0].times > 0:
            break
        new = settled(root, before)
        assert sentence(new) in told if told else new
        shutil.rmtree(root)
    assert new is not None


def sentence(new: bool) -> str:
    """What a restore that has failed must say of the state that is there."""
    return "yet it is restored, the new state is in its place" if new else "is what it was"


@pytest.mark.parametrize("kind", ["sync_dir", "mkdir", "replace", "unlink", "rmdir"])
def test_a_disk_that_goes_on_failing_leaves_what_is_said_of_it(
    made: Path, tmp_path: Path, kind: str
) -> None:
    seen = set()
    for skip in range(200):
        root = tmp_path / f"{kind}-{skip}"
        shutil.copytree(made.parent / "state", root)
        before = state_files(root)
        fs = FaultyFs()
        fs.fail(kind, errno.EIO, skip=skip, times=math.inf)
        try:
            restored(made, root, fs, replace=True)
        except StorageError as error:
            told = str(error)
        else:
            break
        ready = (root / "restore.ready").exists()
        new = settled(root, before)
        seen.add((ready, new))
        words = "it is decided: the next start" if ready else sentence(new)
        assert words in told, skip
        shutil.rmtree(root)
    assert (True, True) in seen
    assert (True, False) not in seen


def test_a_former_restore_that_cannot_be_finished_is_told_as_that(
    made: Path, tmp_path: Path
) -> None:
    root = tmp_path / "state"
    shutil.copytree(made.parent / "state", root)
    fs = FaultyFs()
    fs.kill(0, kind="rmdir")
    with pytest.raises(Killed):
        restored(made, root, fs, replace=True)
    assert (root / "restore.ready").exists()
    fs = FaultyFs()
    fs.fail("rmdir", times=math.inf)

    with pytest.raises(StorageError, match="a restore that was cut off there is decided"):
        restored(made, root, fs, replace=True)
    assert len(list(root.glob("replaced-*"))) == 1


def settled(root: Path, before: dict[str, object]) -> bool:
    """Whether it is the new state, after what a start would finish; else it is the old one."""
    finish(OsFileSystem(), Layout(root))
    if list(root.glob("replaced-*")):
        found = verify(OsFileSystem(), root)
        assert (found.verdict, found.findings) == ("whole", [])
        return True
    assert state_files(root) == before
    return False


def test_killed_at_any_call_it_is_the_old_state_or_the_new_one(made: Path, tmp_path: Path) -> None:
    seen = []
    counted = FaultyFs()
    shutil.copytree(made.parent / "state", tmp_path / "counted")
    restored(made, tmp_path / "counted", counted, replace=True)
    for skip in range(len(counted.kinds())):
        root = tmp_path / str(skip)
        shutil.copytree(made.parent / "state", root)
        before = state_files(root)
        fs = FaultyFs()
        fs.kill(skip)
        with pytest.raises(Killed):
            restored(made, root, fs, replace=True)
        seen.append(settled(root, before))
        shutil.rmtree(root)
    assert seen == sorted(seen)
    assert set(seen) == {True, False}


def test_what_is_a_symlink_is_not_replaced_by_a_directory(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "state"
    shutil.copytree(made.parent / "state", root)
    (root / "journal").rename(tmp_path / "elsewhere")
    (root / "journal").symlink_to(tmp_path / "elsewhere")
    (root / "lock").touch()
    before = tree(tmp_path)

    with pytest.raises(StorageError, match=f"{root / 'journal'} is a symlink to {tmp_path}"):
        restored(made, root, replace=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("bind", [True, False])
def test_what_is_a_mount_point_is_refused_before_anything_is_done(
    made: Path, tmp_path: Path, bind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename of it fails, and that was found out only after it was decided."""
    root = tmp_path / "state"
    shutil.copytree(made.parent / "state", root)
    (root / "lock").touch()
    before = tree(root)
    what = str(root / "projects")
    if bind:
        mounts = [SimpleNamespace(mountpoint=each) for each in ("/", what)]
        monkeypatch.setattr("psutil.disk_partitions", lambda **_: mounts)
    else:
        monkeypatch.setattr("os.path.ismount", lambda path: str(path) == what)

    with pytest.raises(StorageError, match=f"{what} is a mount point.*unmount it"):
        restored(made, root, replace=True)
    assert tree(root) == before


def test_another_users_directory_is_refused_untouched(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "state"
    shutil.copytree(made.parent / "state", root)
    before = tree(root)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)

    with pytest.raises(StorageError, match=f"cannot restore {root}: it belongs to .* runuser -u"):
        restored(made, root, replace=True)
    assert tree(root) == before


def test_a_directory_that_is_not_there_is_nobodys(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)

    assert restored(made, tmp_path / "new").files > 3
