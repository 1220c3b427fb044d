from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tallymark.fs import OsFileSystem
from tallymarkd.core.ledger import decode_server, encode_server
from tallymarkd.storage.index import KeyIndex
from tests.damaged_states import (
    CASES,
    Case,
    both_ends,
    change,
    in_server,
    state_file,
    tree,
)
from tests.tallymark_command import Tallymark


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A directory after a clean stop, and one whose daemon died; to be copied."""
    return both_ends(tmp_path_factory.mktemp("made"))


def test_what_is_whole_is_told_in_a_few_lines(made: dict[bool, Path], tallymark: Tallymark) -> None:
    done = tallymark("verify", str(made[True]))

    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"{made[True]}: whole"
    assert lines[-1] == "  next: nothing"
    assert [line[:15] for line in lines[1:-1]] == [
        f"  {name:<13}"
        for name in (
            "journal", "records", "events", "producers", "ledger", "state files", "index",
            "quarantine",
        )
    ]  # fmt: skip
    assert "numbers 1 to 241, from its beginning" in done.out
    assert (
        "240 received: 122 stored, 58 duplicate, 60 rejected (invalid_field 60), "
        "0 skipped, 0 lost\n"
    ) in done.out
    assert "3 files, 12 generations whole; 12 agree with the journal\n" in done.out
    assert "62 keys, agrees with the journal\n" in done.out


def test_an_unclean_stop_is_0_and_told(made: dict[bool, Path], tallymark: Tallymark) -> None:
    done = tallymark("verify", str(made[False]))

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{made[False]}: whole, after an unclean stop\n")
    assert "  note: the daemon did not stop in good order; the next start settles it\n" in done.out
    assert "  ledger       agrees with the journal, which has 8 events more\n" in done.out
    repair = f"`tallymark repair {made[False]}`"
    assert done.out.endswith(f"\n  next: start tallymarkd, or {repair}: either settles it\n")


def test_what_is_found_is_1_and_placed(
    made: dict[bool, Path], tallymark: Tallymark, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made[True], root)
    CASES["rot in a middle segment"].damage(root)
    CASES["newest state file"].damage(root)

    done = tallymark("verify", str(root))
    as_json = tallymark("verify", "--json", str(root))

    assert done.code == as_json.code == 1
    assert done.out.startswith(f"{root}: damaged\n")
    assert "\n  history: segment 2, bytes " in done.out
    assert " 0 skipped, 4 lost, from the history only\n" in done.out
    assert f"\n  damaged: {root}/projects/" in done.out
    assert "11 generations whole, 1 damaged" in done.out
    report = as_json.json
    assert report["verdict"] == "damaged"
    assert {each["code"] for each in report["findings"]} == {"history", "damaged"}


def test_json_has_a_structure_to_rely_on(made: dict[bool, Path], tallymark: Tallymark) -> None:
    report = tallymark("verify", str(made[True]), "--json").json

    assert (
        list(report)
        == (
            "state_dir verdict next findings known notes journal events producers ledger "
            "history_lost after_ledger ledger_agrees state_files index quarantine last_start backup"
        ).split()
    )
    assert (
        list(report["journal"])
        == ("clean begins_after_lsn end_lsn proven_lsn torn_bytes records segments").split()
    )
    assert (
        list(report["journal"]["segments"][0])
        == ("number path bytes header first_lsn last_lsn records damage").split()
    )
    assert list(report["events"]) == "received stored duplicate rejected skipped lost".split()
    assert list(report["state_files"][0]) == ["name", "project", "generations"]
    assert (
        list(report["state_files"][0]["generations"][0])
        == ("path whole applied_lsn agrees reason").split()
    )
    assert list(report["index"]) == ["state", "keys", "through_lsn", "agrees"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("stop", [True, False])
def test_nothing_changes_not_a_name_a_byte_or_a_time(
    made: dict[bool, Path], tallymark: Tallymark, tmp_path: Path, case: Case, stop: bool
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made[stop], root)
    case.damage(root)
    before = tree(root)

    done = tallymark("verify", str(root))

    assert done.code == (1 if case.code else 0)
    assert tree(root) == before
    assert done.err == ""


def test_an_index_with_a_wal_is_read_and_left_alone(
    made: dict[bool, Path], tallymark: Tallymark, tmp_path: Path
) -> None:
    """As a killed daemon leaves it: half of the keys stand in the WAL."""
    root = tmp_path / "copy"
    shutil.copytree(made[True], root)
    writer = KeyIndex.open(root / "index.sqlite")
    reader = sqlite3.connect(root / "index.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM keys").fetchone()
    assert writer.forget(101, 2**62) > 0
    assert (root / "index.sqlite-wal").stat().st_size
    copy = tmp_path / "killed"
    shutil.copytree(root, copy)
    reader.close()
    writer.close()
    before = tree(copy)

    report = tallymark("verify", "--json", str(copy)).json

    assert tree(copy) == before
    assert report["index"]["state"] == "whole"
    assert 0 < report["index"]["keys"] < 62
    assert report["index"]["agrees"] is False


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_what_is_no_state_directory_is_usage(
    tallymark: Tallymark, tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "nothing", tmp_path / "file", tmp_path):
        done = tallymark(command, str(path))
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"tallymark: cannot {command} {path}: it is no state directory")
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("command", ["verify", "repair"])
def test_with_a_daemon_on_it_it_refuses_and_says_what_to_do(
    made: dict[bool, Path], tallymark: Tallymark, tmp_path: Path, command: str
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made[True], root)
    fs = OsFileSystem()
    lock = fs.lock(root / "lock")
    before = tree(root)
    try:
        done = tallymark(command, str(root))
    finally:
        fs.close(lock)

    assert (done.code, done.out) == (2, "")
    assert f"cannot {command} {root}: tallymarkd runs on it" in done.err
    assert "stop it first" in done.err
    assert "`systemctl --user stop tallymarkd.socket`" in done.err
    assert tree(root) == before


def test_without_an_argument_it_is_the_usual_directory(
    made: dict[bool, Path], tallymark: Tallymark
) -> None:
    shutil.copytree(made[True], tallymark.state_dir)

    assert tallymark("verify").out.startswith(f"{tallymark.state_dir}: whole\n")
    other = tallymark("verify", "--state-dir", str(made[False]))
    assert other.out.startswith(f"{made[False]}: whole, after an unclean stop\n")


def test_repair_gives_an_account(
    made: dict[bool, Path], tallymark: Tallymark, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made[False], root)
    CASES["newest state file"].damage(root)

    done = tallymark("repair", str(root))

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{root}: settled, nothing was lost\n  stop         unclean\n")
    assert "  kept aside   1 file\n" in done.out
    assert "  index        whole\n" in done.out
    (path,) = (root / "projects").glob("spotter-*")
    (kept,) = (root / "quarantine").iterdir()
    assert kept.name == f"{path.name}.agent_metrics.json.1"
    assert (
        f"  aside: projects/{path.name}/.agent_metrics.json is in quarantine/{kept.name}: "
    ) in done.out
    verified = tallymark("verify", str(root))
    assert verified.code == 0
    assert verified.out.startswith(f"{root}: whole\n")
    private = [path for path in root.rglob("*") if path.is_file() and path.name != "lock"]
    written = [path for path in private if path.name.startswith(("recovery", "server.json"))]
    assert written
    assert {path.stat().st_mode & 0o077 for path in written if path.suffix == ".json"} == {0}


def test_repair_names_what_was_lost(
    made: dict[bool, Path], tallymark: Tallymark, tmp_path: Path
) -> None:
    for number, options in enumerate(([], ["--json"])):
        root = tmp_path / f"copy-{number}"
        shutil.copytree(made[True], root)
        CASES["no journal"].damage(root)

        done = tallymark("repair", *options, str(root))

        assert (done.code, done.err) == (1, "")
        if options:
            report = done.json
            assert report["state_dir"] == str(root)
            assert report["new_losses"] == len(report["losses"]) == 1
        else:
            assert done.out.startswith(f"{root}: settled, events were lost\n")
            assert "\n  lost: an unknown number of events: there is no journal" in done.out
        assert tallymark("repair", str(root)).code == 0
        assert "\n  known: an unknown number" in tallymark("verify", str(root)).out


def test_files_that_repair_makes_are_private(made: dict[bool, Path], tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made[True], root)
    CASES["index deleted"].damage(root)
    program = "import os; os.umask(0o022); from tallymarkd.cli import main; main()"

    subprocess.run([sys.executable, "-c", program, "repair", str(root)], check=True, timeout=60)

    assert (root / "index.sqlite").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("indexed", [True, False])
def test_history_that_the_totals_have_is_told_in_the_same_words_by_both(
    made: dict[bool, Path], tallymark: Tallymark, tmp_path: Path, indexed: bool
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made[True], root)
    CASES["rot in the first segment"].damage(root)
    if not indexed:
        CASES["index deleted"].damage(root)

    told = [tallymark(command, str(root)) for command in ("verify", "repair", "verify", "repair")]

    assert [each.code for each in told] == [1, 1, 0, 0]
    lines = {
        line.strip().removeprefix("known: ")
        for each in told
        for line in each.out.splitlines()
        if "history: " in line
    }
    (line,) = lines
    assert "; gone from the history, and not from the totals: 4 events, numbers 13 to 16 of" in line
    keys = "the index still has their keys" if indexed else "no key of theirs is left"
    assert f"(seq 2); {keys}, so " in line
    assert told[1].out.startswith(f"{root}: settled, some history was lost, and no total\n")
    assert "\n  lost         1 place of the history, and no total\n" in told[1].out
    assert "cannot be read" not in told[1].out
    assert told[2].out.startswith(f"{root}: whole\n")


def test_what_the_totals_lack_as_well_is_no_history(
    made: dict[bool, Path], tallymark: Tallymark, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made[False], root)
    CASES["rot in the last commit"].damage(root)

    told = [tallymark(command, str(root)) for command in ("verify", "repair", "verify", "repair")]

    assert [each.code for each in told] == [1, 1, 0, 0]
    assert all("history" not in each.out for each in told)
    assert "\n  lost: segment 4, bytes " in told[0].out


def test_repair_tells_every_file_that_it_keeps_aside_and_an_index_that_is_made_anew(
    made: dict[bool, Path], tallymark: Tallymark, tmp_path: Path
) -> None:
    for number, (case, reason) in enumerate(
        [("index deleted", "there was none"), ("index damaged", "cannot use ")]
    ):
        root = tmp_path / f"copy-{number}"
        shutil.copytree(made[True], root)
        CASES[case].damage(root)
        for project in ("spotter", "other"):
            change(state_file(root, project), lambda data: data[:-9])
        CASES["rot in the last commit"].damage(root)

        done = tallymark("repair", "--json", str(root))

        report = done.json
        assert (report["index_rebuilt"], reason in report["index_reason"]) == (True, True)
        aside = {each["path"]: each for each in report["aside"]}
        for project in ("spotter", "other"):
            path = str(state_file(root, project).relative_to(root))
            assert aside[path]["name"].startswith(f"{project}-")
            assert aside[path]["reason"]
        segment = aside["journal/000000000004.seg"]
        assert ".corrupt-" in segment["name"]
        assert {each["name"] for each in aside.values()} == {
            path.name for path in (root / "quarantine").iterdir()
        }
        assert report["quarantined"] == [each["name"] for each in report["aside"]]


@pytest.mark.parametrize(
    ("cases", "told"),
    [
        (["rot in the last commit"], "`tallymark repair {root}`, or start tallymarkd: either goes"),
        (["no journal"], "`tallymark repair {root}`, or start tallymarkd: either goes on without"),
        (["newest state file"], "start tallymarkd, or `tallymark repair {root}`: either settles"),
        (["index deleted"], "nothing"),
    ],
)
def test_a_finding_ends_with_what_to_do(
    made: dict[bool, Path], tallymark: Tallymark, tmp_path: Path, cases: list[str], told: str
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made[True], root)
    for case in cases:
        CASES[case].damage(root)

    done = tallymark("verify", str(root))
    lines = done.out.splitlines()

    assert [line for line in lines if line.startswith("  next: ")] == lines[-1:]
    assert lines[-1].startswith(f"  next: {told.format(root=root)}")
    assert tallymark("verify", str(root), "--json").json["next"] == lines[-1][8:]


def test_what_disagrees_no_start_mends(
    made: dict[bool, Path], tallymark: Tallymark, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made[True], root)
    index = KeyIndex.open(root / "index.sqlite")
    assert index.forget(0, 100) > 0
    index.close()

    told = tallymark("verify", str(root)).out.splitlines()[-1]
    assert told == f"  next: remove {root}/index.sqlite, and start tallymarkd: it makes it anew"

    in_server(lambda server: server.marks.clear())(root)
    server = decode_server((root / "server.json").read_bytes())
    server.ledger.stored += 1
    change(root / "server.json", lambda _: encode_server(server))

    told = tallymark("verify", str(root)).out.splitlines()[-1]
    restore = f"`tallymark restore --replace --state-dir {root} BACKUP`"
    assert told.startswith(f"  next: restore a backup: {restore}; ")


def test_what_cannot_be_compared_is_said_in_words(
    made: dict[bool, Path], tallymark: Tallymark, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made[False], root)
    CASES["rot in the last commit"].damage(root)
    assert tallymark("repair", str(root)).code == 1
    CASES["missing segment"].damage(root)

    out = tallymark("verify", str(root)).out

    reason = "it has lost numbers before that"
    assert f"cannot be held against it: {reason}\n" in out


def test_an_empty_journal_has_no_range_of_numbers(tallymark: Tallymark, tmp_path: Path) -> None:
    root = tmp_path / "state"
    (root / "journal").mkdir(parents=True)

    assert "  journal      0 segments, 0 B, no number\n" in tallymark("verify", str(root)).out


def test_no_answer_is_2_with_json_as_well(tallymark: Tallymark, tmp_path: Path) -> None:
    for command in ("verify", "repair"):
        done = tallymark(command, "--json", str(tmp_path))

        assert done.code == 2
        assert done.json["state_dir"] == str(tmp_path)
        assert done.err == f"tallymark: {done.json['error']}\n"
        assert "it is no state directory of tallymarkd" in done.err
