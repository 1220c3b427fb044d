from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from tallymark.errors import DamagedError, NewerFormatError
from tallymark.fs import OsFileSystem
from tallymarkd.core.backup_manifest import MANIFEST_NAME, encode_manifest, read_manifest
from tallymarkd.core.verify_backup import is_backup, verify_backup
from tallymarkd.core.verify_report import VerifyReport
from tallymarkd.storage.sealed import seal
from tests.backups import BEGUN, a_backup
from tests.damaged_states import tree
from tests.tallymark_command import Tallymark


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup, not to be changed."""
    return a_backup(tmp_path_factory.mktemp("made"))


@pytest.fixture
def backup(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "b")
    return tmp_path / "b"


def look(backup: Path) -> VerifyReport:
    return verify_backup(OsFileSystem(), backup)


def test_a_backup_is_told_from_a_state_directory(made: Path) -> None:
    fs = OsFileSystem()
    assert is_backup(fs, made)
    assert not is_backup(fs, made / "state")
    assert not is_backup(fs, made.parent / "state")
    assert not is_backup(fs, made.parent / "nothing")


def test_a_whole_one_is_whole_with_every_file_looked_at(made: Path) -> None:
    before, manifest = tree(made), read_manifest(OsFileSystem(), made)

    report = look(made)

    assert report.findings == []
    assert (report.verdict, report.next) == ("whole", "nothing")
    (note,) = report.notes
    assert note.endswith(" in the journal and not yet in server.json; the next start takes them in")
    part = report.backup
    assert part is not None
    assert (part.begun_at, part.state_dir) == (manifest.begun_at, str(made.parent / "state"))
    assert (part.files, part.size_bytes) == (len(manifest.files), manifest.size_bytes)
    assert (part.damaged, part.live) == ([], False)
    assert report.events.stored == manifest.events > 0
    assert tree(made) == before


def test_a_flipped_byte_in_any_file_is_found_and_named(backup: Path) -> None:
    files = [path for path in (backup / "state").rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        body = path.read_bytes()
        at = len(body) // 2
        path.write_bytes(body[:at] + bytes([body[at] ^ 0x20]) + body[at + 1 :])
        report = look(backup)
        path.write_bytes(body)

        assert report.backup is not None
        assert report.backup.damaged == [str(path.relative_to(backup))]
        told = f"{path}: its checksum does not hold"
        assert ("damaged", told) in [(each.code, each.message) for each in report.findings]
        assert report.verdict == "damaged"
        assert report.next.startswith("do not rely on this backup: ")
    assert look(backup).findings == []


def test_what_is_missing_or_cut_is_named(backup: Path) -> None:
    path = backup / "state" / "server.json.bak"
    path.write_bytes(path.read_bytes()[:-1])
    assert any(f"{path}: it has " in each.message for each in look(backup).findings)
    path.unlink()
    assert any(f"{path}: it is missing" == each.message for each in look(backup).findings)

    shutil.rmtree(backup / "state")
    report = look(backup)

    assert report.backup is not None
    assert len(report.backup.damaged) == report.backup.files == len(report.findings)


def test_a_damaged_or_newer_manifest_says_nothing_of_the_rest(backup: Path) -> None:
    path = backup / MANIFEST_NAME
    body = path.read_bytes()
    path.write_bytes(body[::-1])
    with pytest.raises(DamagedError, match=f"cannot verify {path}: "):
        look(backup)

    path.write_bytes(b"".join(seal([b'{"format":2,"x":1'], b"}")))
    with pytest.raises(NewerFormatError, match=f"cannot verify {backup}: .*format 2"):
        look(backup)


def test_a_manifest_of_another_backup_is_found(backup: Path) -> None:
    manifest = read_manifest(OsFileSystem(), backup)
    other = replace(manifest, events=manifest.events + 1)
    (backup / MANIFEST_NAME).write_bytes(encode_manifest(other))

    (finding,) = look(backup).findings

    assert finding.code == "disagrees"
    assert f"with {manifest.events + 1} events stored, and it ends" in finding.message


def test_the_command_verifies_a_backup(
    backup: Path, tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    done = tallymark("verify", str(backup))

    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"{backup}: whole"
    assert lines[1].startswith(f"  backup       begun {BEGUN:%Y-%m-}")
    assert lines[1].endswith("/state, while tallymarkd was stopped")
    assert "; every checksum holds" in lines[2]
    assert lines[-1] == "  next: nothing"

    path = backup / "state" / "quarantine" / "torn"
    path.write_bytes(b"other bytes of it")
    done = tallymark("verify", str(backup))

    assert done.code == 1
    assert f"  damaged: {path}: it has 17 bytes instead of 23" in done.out
    assert "; 1 of them not as they were" in done.out
    assert done.out.splitlines()[-1].startswith("  next: do not rely on this backup")

    (backup / MANIFEST_NAME).write_bytes(b"{")
    done = tallymark("verify", str(backup), "--json")
    assert done.code == 2
    assert done.json["state_dir"] == str(backup)
    assert done.json["error"].startswith(f"cannot verify {backup / MANIFEST_NAME}: ")
