from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tallymark.fs import OsFileSystem
from tallymarkd._version import __version__
from tallymarkd.service import render, unit_files
from tallymarkd.service.machine import ServiceError

FS = OsFileSystem()
TEXT = f"# {render.marker()}\n[Unit]\n"


class Full(OsFileSystem):
    """No file can be made."""

    def create(self, path: Path) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def unlink(self, path: Path) -> None:
        if not path.name.endswith(".new"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_how_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "a.service"
    assert unit_files.look(FS, path, TEXT) == "missing"
    path.write_text(TEXT.replace(__version__, "9.9"))
    assert unit_files.look(FS, path, TEXT) == "current"
    path.write_text(TEXT + "more\n")
    assert unit_files.look(FS, path, TEXT) == "differs"
    path.write_text("[Unit]\n")
    assert unit_files.look(FS, path, TEXT) == "foreign"
    # A mark that is quoted somewhere makes nothing ours.
    path.write_text("[Unit]\n" * 9 + TEXT)
    assert unit_files.look(FS, path, TEXT) == "foreign"
    path.write_bytes(b"\xff\xfe")
    assert unit_files.look(FS, path, TEXT) == "foreign"


def test_a_masked_unit_is_foreign(tmp_path: Path) -> None:
    path = tmp_path / "a.service"
    path.symlink_to("/dev/null")
    assert unit_files.look(FS, path, TEXT) == "foreign"
    with pytest.raises(ServiceError, match=r"cannot write .*a\.service: a file that is not from"):
        unit_files.refuse_foreign(FS, {path: TEXT})


def test_ours_are_not_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.service"
    unit_files.refuse_foreign(FS, {path: TEXT})
    path.write_text(TEXT + "more\n")
    unit_files.refuse_foreign(FS, {path: TEXT})


def test_a_file_is_written_whole_for_all_to_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.service"
    unit_files.write(FS, path, TEXT, directory_mode=0o755)
    unit_files.write(FS, path, TEXT + "more\n", directory_mode=0o755)
    assert path.read_text() == TEXT + "more\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert [each.name for each in path.parent.iterdir()] == ["a.service"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.service"
    path.write_text(TEXT)
    with pytest.raises(ServiceError, match=r"cannot write .*No space left.*--dry-run"):
        unit_files.write(Full(), path, "new", directory_mode=0o755)
    assert path.read_text() == TEXT
    with pytest.raises(ServiceError, match=r"cannot remove .*Permission denied"):
        unit_files.remove(Full(), path)


def test_removing(tmp_path: Path) -> None:
    path = tmp_path / "a.service"
    path.write_text(TEXT)
    unit_files.remove(FS, path)
    assert not path.exists()


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: OsFileSystem, path: Path) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    path = tmp_path / "a.service"
    path.write_text(TEXT)
    monkeypatch.setattr(OsFileSystem, "open_read", refuse)
    with pytest.raises(ServiceError, match=r"cannot read .*Permission denied"):
        unit_files.read(FS, path)
