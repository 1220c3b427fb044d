from __future__ import annotations

from pathlib import Path

import pytest

from tallymark.fs import OsFileSystem
from tallymarkd.core.verify import verify
from tests.backups import a_backup
from tests.daemon_parts import run_end
from tests.state_dirs import SERVER_UUID, again
from tests.tallymark_command import Tallymark


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    (tmp_path / "made").mkdir()
    return a_backup(tmp_path / "made")


def test_it_goes_to_the_usual_directory(tallymark: Tallymark, backup: Path) -> None:
    done = tallymark("restore", str(backup))

    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"{tallymark.state_dir}: restored"
    names = ("backup", "server", "files", "events", "lacks", "replaced", "next number")
    assert [line[:15] for line in lines[1:]] == [f"  {name:<13}" for name in names]
    assert "nothing, if tallymarkd was not started again: it was stopped at " in done.out
    found = verify(OsFileSystem(), tallymark.state_dir)
    assert (found.verdict, found.findings) == ("whole", [])
    for path in tallymark.state_dir.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_was_there_is_named_and_where_it_is(
    tallymark: Tallymark, backup: Path, tmp_path: Path
) -> None:
    root = tmp_path / "made" / "state"
    core = again(root)
    core.put(run_end(500))
    core.crash()

    refused = tallymark("--state-dir", str(root), "restore", str(backup))
    done = tallymark("--state-dir", str(root), "restore", str(backup), "--replace", "--json")

    assert refused.code == 1
    assert "it has a state already" in refused.err
    assert done.code == 0
    found = done.json
    assert (found["state_dir"], found["lacks"]) == (str(root), 1)
    assert (found["backup"]["server_id"], "files" in found["backup"]) == (str(SERVER_UUID), False)
    assert (Path(found["aside"]) / "server.json").exists()


def test_people_are_told_the_same(tallymark: Tallymark, backup: Path, tmp_path: Path) -> None:
    root = tmp_path / "made" / "state"
    told = tallymark("--state-dir", str(root), "restore", str(backup), "--replace").out
    assert "nothing that the replaced state had stored\n" in told
    assert f"what was there is in {root}/replaced-" in told

    core = again(root)
    core.put(run_end(500), run_end(501))
    core.crash()
    told = tallymark("--state-dir", str(root), "restore", str(backup), "--replace").out
    assert "2 events that the replaced state had stored; the ledger names them\n" in told


def test_what_is_no_backup_is_usage_and_a_damaged_one_is_not(
    tallymark: Tallymark, backup: Path, tmp_path: Path
) -> None:
    done = tallymark("restore", str(tmp_path))
    assert (done.code, "it is no backup" in done.err) == (2, True)

    path = backup / "state" / "server.json"
    path.write_bytes(path.read_bytes()[::-1])
    done = tallymark("restore", str(backup))
    assert (done.code, f"cannot restore {path}: " in done.err) == (1, True)
