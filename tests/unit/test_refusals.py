from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path

import pytest

from tallymark.errors import StorageError
from tallymark.fs import OsFileSystem
from tallymarkd.core.layout import Layout
from tallymarkd.core.refusals import (
    RunningError,
    is_state_dir,
    refuse_running,
    refuse_unreadable,
)
from tests.faulty_fs import FaultyFs
from tests.tallymark_command import Tallymark


def test_a_state_directory_has_a_lock_a_journal_projects_or_an_index(tmp_path: Path) -> None:
    fs = OsFileSystem()
    assert not is_state_dir(fs, Layout(tmp_path))
    (tmp_path / "journal").mkdir()
    assert is_state_dir(fs, Layout(tmp_path))


def test_what_is_locked_is_refused_with_what_to_do(tmp_path: Path) -> None:
    refuse_running(Layout(tmp_path), "repair", lambda _: False)

    with pytest.raises(RunningError, match=f"cannot repair {tmp_path}: .*stop it first") as caught:
        refuse_running(Layout(tmp_path), "repair", lambda path: path == tmp_path / "lock")

    assert caught.value.root == tmp_path
    assert "`systemctl --user stop tallymarkd.socket`" in str(caught.value)


@pytest.mark.parametrize("name", ["", "journal", "projects"])
def test_what_is_anothers_says_whose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = tmp_path / "state"
    for directory in (root, root / "journal", root / "projects"):
        directory.mkdir()
    refuse_unreadable(OsFileSystem(), root, "verify")
    fs = FaultyFs()
    fs.fail("names", errno.EACCES, name=name or "state")
    uid = os.getuid()
    known = {uid: pwd.struct_passwd(("alice", "x", uid, uid, "", "/", ""))}
    monkeypatch.setattr(pwd, "getpwuid", known.__getitem__)
    path = root / name if name else root

    told = f"cannot verify {root}: cannot read {path}: permission denied; run this as the user "
    with pytest.raises(StorageError, match=rf"{told}whose daemon it is \(alice\)"):
        refuse_unreadable(fs, root, "verify")

    known.clear()
    fs.fail("names", errno.EACCES, name=name or "state")
    with pytest.raises(StorageError, match=rf"\(uid {uid}\)"):
        refuse_unreadable(fs, root, "verify")


def test_of_what_cannot_even_be_seen_it_is_the_one_around_it(tmp_path: Path) -> None:
    root = tmp_path / "home" / "state"
    fs = FaultyFs()
    fs.fail("names", errno.EACCES, name="state")

    with pytest.raises(StorageError, match=rf"\({pwd.getpwuid(os.getuid()).pw_name}\)"):
        refuse_unreadable(fs, root, "verify")


def test_what_is_not_there_or_no_directory_is_others_to_tell(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuse_unreadable(OsFileSystem(), tmp_path / "file", "verify")
    refuse_unreadable(OsFileSystem(), tmp_path / "nothing", "verify")


@pytest.mark.parametrize(("command", "code"), [("verify", 2), ("repair", 2), ("restore", 1)])
def test_the_parser_of_arguments_leaves_it_to_that(
    tallymark: Tallymark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, code: int
) -> None:
    root = tmp_path / "closed"
    root.mkdir()

    def refused(self: OsFileSystem, path: Path) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(OsFileSystem, "names", refused)
    monkeypatch.setattr(os, "access", lambda *args, **kwargs: False)

    done = tallymark(command, str(root))

    assert done.code == code
    told = f"tallymark: cannot {command} {root}: cannot read {root}: permission denied; run this as"
    assert done.err.startswith(told)
