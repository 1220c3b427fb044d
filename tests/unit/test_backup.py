from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tallymark.errors import PathError, StorageError
from tallymark.fs import OsFileSystem
from tallymarkd.core.backup import READINGS_MAX, Source, take_backup
from tallymarkd.core.backup_manifest import MANIFEST_NAME, Manifest, read_manifest
from tallymarkd.core.verify import verify
from tests.backups import BEGUN, backed_up
from tests.daemon_parts import run_end
from tests.damaged_states import tree
from tests.faulty_fs import FaultyFs, Killed, Operation
from tests.state_dirs import SERVER_UUID, Core, a_history, again


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backup"


def live(root: Path, core: Core, target: Path, fs: FaultyFs | None = None) -> Manifest:
    """Back up while this daemon goes on."""
    source = Source(root, core.journal.durable_lsn)
    return take_backup(fs or FaultyFs(), source, target, now=lambda: BEGUN)


def test_a_backup_has_every_file_but_what_is_derived_or_others(root: Path, target: Path) -> None:
    a_history(root).crash()
    for name in ("run", "spool", "quarantine"):
        (root / name).mkdir()
        (root / name / "file").write_bytes(b"of " + name.encode())

    backed_up(root, target)

    left = {"lock", "index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "journal/spare"}
    left |= {"run/file", "spool/file"}
    names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    copied = {
        str(path.relative_to(target / "state"))
        for path in (target / "state").rglob("*")
        if path.is_file()
    }
    assert copied == names - left
    assert {"server.json", "recovery.json", "quarantine/file"} <= copied


def test_what_others_left_there_is_left_out_and_told(root: Path, target: Path) -> None:
    """A file manager's file, a directory that somebody made, a name that is no text."""
    a_history(root).crash()
    backed_up(root, target.with_name("first"))
    (root / "projects" / ".DS_Store").write_bytes(b"x")
    (root / "quarantine" / "old").mkdir(parents=True)
    (root / "quarantine" / "link").symlink_to(root / "server.json")
    os.mkfifo(os.fsencode(root / "quarantine") + b"/caf\xe9")

    manifest = backed_up(root, target)

    assert manifest.left_out == [
        "projects/.DS_Store", "quarantine/caf?", "quarantine/link", "quarantine/old",
    ]  # fmt: skip
    assert read_manifest(OsFileSystem(), target) == manifest
    assert manifest.files == read_manifest(OsFileSystem(), target.with_name("first")).files
    assert again(root).report.quarantined == []


def test_a_backup_is_private_and_shares_nothing(root: Path, target: Path) -> None:
    a_history(root).crash()

    backed_up(root, target)

    theirs = {path.stat().st_ino for path in root.rglob("*")}
    for path in (target, *target.rglob("*")):
        found = path.stat()
        assert found.st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
        assert found.st_ino not in theirs


def test_the_manifest_names_all_of_it(root: Path, target: Path) -> None:
    core = a_history(root)
    end_lsn = core.journal.durable_lsn
    core.crash()

    manifest = backed_up(root, target)

    assert read_manifest(OsFileSystem(), target) == manifest
    assert (manifest.server_id, manifest.state_dir) == (str(SERVER_UUID), str(root))
    assert (manifest.live, manifest.durable_lsn, manifest.end_lsn) == (False, end_lsn, end_lsn)
    assert manifest.begun_at == "2026-01-02T12:00:00.000Z"
    for entry in manifest.files:
        body = (target / entry.path).read_bytes()
        assert (len(body), sha256(body).hexdigest()) == (entry.size_bytes, entry.sha256)
    names = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert names == {entry.path for entry in manifest.files} | {MANIFEST_NAME}


def test_before_the_first_save_the_journal_says_whose_it_is(root: Path, target: Path) -> None:
    Core(root).crash()
    shutil.rmtree(root / "projects", ignore_errors=True)
    (root / "server.json").unlink(missing_ok=True)

    assert backed_up(root, target).server_id == str(SERVER_UUID)


def test_a_running_daemon_is_copied_without_its_blocks_ahead(root: Path, target: Path) -> None:
    core = a_history(root)
    durable_lsn = core.journal.durable_lsn

    manifest = live(root, core, target)

    assert (manifest.live, manifest.durable_lsn) == (True, durable_lsn)
    report = verify(OsFileSystem(), target / "state")
    assert (report.verdict, report.findings) == ("unclean", [])
    assert report.journal.torn_bytes == 0
    sizes = {
        path.name: path.stat().st_size for path in (target / "state" / "journal").glob("*.seg")
    }
    last = max(sizes)
    assert sizes[last] < (root / "journal" / last).stat().st_size
    core.crash()


class Meanwhile(FaultyFs):
    """Something happens in the daemon at the first operation that matches."""

    def __init__(self, when: Callable[[Operation], bool], what: Callable[[], object]) -> None:
        super().__init__()
        self.times = 1.0
        self._when = when
        self._what = what
        self.before = self._look

    def _look(self, operation: Operation) -> None:
        if self.times > 0 and self._when(operation):
            self.times -= 1
            self._what()


def is_read_of(path: Path) -> Callable[[Operation], bool]:
    return lambda operation: operation.kind == "open_read" and operation.path == path


def test_a_save_meanwhile_gives_generations_of_one_moment(root: Path, target: Path) -> None:
    core = a_history(root)

    def save() -> None:
        core.put(run_end(100))
        core.save()

    path = core.layout.project("spotter") / ".agent_metrics.json.bak"
    fs = Meanwhile(is_read_of(path), save)
    live(root, core, target, fs)

    assert fs.times == 0
    for name in ("", ".bak", ".bak.2", ".bak.3"):
        file = core.layout.project("spotter").relative_to(root) / f".agent_metrics.json{name}"
        assert (target / "state" / file).read_bytes() == (root / file).read_bytes()
    core.crash()


def test_what_is_saved_all_the_time_is_told(root: Path, target: Path) -> None:
    core = a_history(root)
    path = core.layout.root / "server.json"
    fs = Meanwhile(is_read_of(path), core.save)
    fs.times = READINGS_MAX

    with pytest.raises(StorageError, match=f"cannot copy {path}: it was saved anew"):
        live(root, core, target, fs)
    assert sorted(path.name for path in root.parent.iterdir()) == ["state"]
    core.crash()


def roll(core: Core, root: Path) -> None:
    """Events until there is one more segment."""
    before = len(list((root / "journal").glob("*.seg")))
    number = 1000 * before
    while len(list((root / "journal").glob("*.seg"))) == before:
        number += 1
        core.put(run_end(number, error_message="x" * 4000))


def test_segments_that_are_rolled_meanwhile_are_not_needed(root: Path, target: Path) -> None:
    core = a_history(root)
    roll(core, root)
    journal = root / "journal"
    last = max(journal.glob("*.seg"))
    fs = Meanwhile(is_read_of(last), lambda: roll(core, root))
    manifest = live(root, core, target, fs)

    assert fs.times == 0
    copied = {path.name for path in (target / "state" / "journal").glob("*.seg")}
    assert max(copied) == last.name < max(journal.glob("*.seg")).name
    assert manifest.end_lsn >= manifest.durable_lsn
    core.crash()


def test_a_journal_that_ends_before_what_was_durable_is_no_backup(root: Path, target: Path) -> None:
    core = a_history(root)
    source = Source(root, core.journal.durable_lsn + 1)

    with pytest.raises(StorageError, match="the copy does not verify: its journal ends at"):
        take_backup(OsFileSystem(), source, target)

    assert not target.exists()
    assert not target.with_name("backup.partial").exists()
    core.crash()


def test_what_is_damaged_is_no_backup_and_named_where_it_lies(root: Path, target: Path) -> None:
    core = a_history(root)
    segment = min((root / "journal").glob("*.seg"))
    data = bytearray(segment.read_bytes())
    data[9000] ^= 1
    segment.write_bytes(data)

    with pytest.raises(StorageError, match="the copy does not verify: history: .*run `tallymark "):
        live(root, core, target)

    assert not target.exists()
    assert not target.with_name("backup.partial").exists()
    core.crash()


def test_before_each_file_and_at_the_end_it_is_asked_whether_history_is_held(
    root: Path, target: Path
) -> None:
    core = a_history(root)
    roll(core, root)
    roll(core, root)
    asked: list[int] = []

    def held() -> None:
        copied = (target.with_name("backup.partial") / "state" / "journal").glob("*.seg")
        asked.append(len(list(copied)))

    take_backup(OsFileSystem(), Source(root, core.journal.durable_lsn, held), target)

    segments = len(list((target / "state" / "journal").glob("*.seg")))
    assert segments == 3
    assert asked == [0, *range(segments + 1)], "recovery.json, each segment, the end"
    core.crash()


def test_history_that_is_held_no_longer_ends_it(root: Path, target: Path) -> None:
    core = a_history(root)

    def gone() -> None:
        raise StorageError("cannot finish the backup: it stopped")

    with pytest.raises(StorageError, match="it stopped"):
        take_backup(OsFileSystem(), Source(root, 1, gone), target)

    assert [path.name for path in root.parent.iterdir()] == ["state"]
    core.crash()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("kind", ["create", "write", "sync", "sync_dir", "mkdir", "replace"])
def test_a_disk_that_fails_leaves_nothing(root: Path, target: Path, kind: str, code: int) -> None:
    a_history(root).crash()
    before = tree(root)
    counted = FaultyFs()
    backed_up(root, target, counted)
    shutil.rmtree(target)
    for skip in range(counted.count(kind)):
        fs = FaultyFs()
        fs.fail(kind, code, skip=skip)
        with pytest.raises(StorageError, match=f"cannot back up .*{os.strerror(code)}; .*"):
            backed_up(root, target, fs)
        left = sorted(path.name for path in root.parent.iterdir())
        assert left == ["state"], (kind, skip)
    assert tree(root) == before


def test_killed_at_any_call_it_is_whole_or_is_none(root: Path, target: Path) -> None:
    a_history(root).crash()
    counted = FaultyFs()
    backed_up(root, target, counted)
    shutil.rmtree(target)
    whole = 0
    for skip in reversed(range(len(counted.kinds()))):
        shutil.rmtree(target.with_name("backup.partial"), ignore_errors=True)
        fs = FaultyFs()
        fs.kill(skip)
        with pytest.raises(Killed):
            backed_up(root, target, fs)
        if target.exists():
            whole += 1
            read_manifest(OsFileSystem(), target)
            assert verify(OsFileSystem(), target / "state").findings == []
            shutil.rmtree(target)
    assert whole == 1, "only the sync after the rename comes after it"
    fs = FaultyFs()
    fs.kill(len(counted.kinds()) // 2)
    with pytest.raises(Killed):
        backed_up(root, target, fs)
    assert list(target.with_name("backup.partial").rglob("*.json"))
    # What a kill left is no hindrance.
    backed_up(root, target)
    assert sorted(path.name for path in root.parent.iterdir()) == ["backup", "state"]


def test_where_something_is_it_does_not_write(root: Path, target: Path, tmp_path: Path) -> None:
    a_history(root).crash()
    target.mkdir()
    (target / "mine").touch()
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    os.symlink(tmp_path / "elsewhere", link)
    for path, told in (
        (target, "it is not empty"),
        (file, "it is no directory"),
        (link, "it is no directory"),
        (root / "backup", "it is inside of the state directory"),
        (root, "it is not empty"),
        (Path("/proc/sys"), "it is not empty"),
    ):
        with pytest.raises(PathError, match=f"cannot back up to {path}: {told}"):
            backed_up(root, path)
    assert [path.name for path in target.iterdir()] == ["mine"]


def test_an_empty_directory_will_do(root: Path, target: Path) -> None:
    a_history(root).crash()
    target.mkdir()

    backed_up(root, target)

    assert (target / MANIFEST_NAME).exists()


def test_a_partial_directory_with_other_things_is_left_alone(root: Path, target: Path) -> None:
    a_history(root).crash()
    partial = target.with_name("backup.partial")
    partial.mkdir()
    (partial / "mine").touch()

    with pytest.raises(PathError, match="has other files; move them away"):
        backed_up(root, target)
    assert [path.name for path in partial.iterdir()] == ["mine"]


def test_two_at_a_time_do_not_write_one_backup(root: Path, target: Path) -> None:
    a_history(root).crash()
    partial = target.with_name("backup.partial")
    partial.mkdir()
    lock = OsFileSystem().lock(partial / "lock")
    try:
        with pytest.raises(StorageError, match="another backup is writing"):
            backed_up(root, target)
    finally:
        OsFileSystem().close(lock)
    assert [path.name for path in partial.iterdir()] == ["lock"]
