from __future__ import annotations

from pathlib import Path

import pytest

from tallymark.errors import StorageError
from tallymark.fs import OsFileSystem
from tallymarkd.core.layout import Layout
from tallymarkd.core.loading import read_only
from tallymarkd.core.replacing import (
    begin,
    commit,
    finish,
    refuse_unfinished,
    state_in,
    state_names,
)
from tallymarkd.core.verify import verify
from tests.faulty_fs import FaultyFs, Killed

OLD = {"journal/1", "projects/a/b", "server.json", "server.json.bak", "index.sqlite-wal"}
NEW = {"journal/1", "journal/2", "server.json", "recovery.json"}
OTHERS = {"lock", "spool/theirs", "run/tallymark.sock.lock", "replaced-before/server.json"}
WHEN = "20260103T120000Z"
ASIDE = f"replaced-{WHEN}"


def fill(root: Path, names: set[str], word: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{word} {name}")


def content(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()
    }


def said(names: set[str], word: str, under: str = "") -> dict[str, str]:
    return {under + name: f"{word} {name}" for name in names}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    fill(tmp_path / "d", OLD, "old")
    fill(tmp_path / "d", OTHERS, "other")
    return Layout(tmp_path / "d")


def replaced(fs: FaultyFs, layout: Layout) -> Path | None:
    fill(begin(fs, layout).root, NEW, "new")
    return commit(fs, layout, WHEN)


BEFORE = {**said(OLD, "old"), **said(OTHERS, "other")}
AFTER = {**said(NEW, "new"), **said(OTHERS, "other"), **said(OLD, "old", f"{ASIDE}/")}


def test_the_new_state_is_in_its_place_and_the_old_one_aside(layout: Layout) -> None:
    assert replaced(FaultyFs(), layout) == layout.root / ASIDE
    assert content(layout.root) == AFTER
    assert not layout.restore_partial.exists()
    assert not layout.restore_ready.exists()


def test_what_is_decided_is_durable_before_anything_is_moved(layout: Layout) -> None:
    fs = FaultyFs()
    replaced(fs, layout)

    changes = [each for each in fs.operations if each.changes]
    place = next(
        n for n, each in enumerate(changes) if each.target == layout.restore_ready
    )  # fmt: skip
    before, after = changes[place - 1], changes[place + 1]
    assert (before.kind, before.path) == ("sync_dir", layout.restore_partial)
    assert (after.kind, after.path) == ("sync_dir", layout.root)


def test_where_nothing_was_nothing_is_put_aside(tmp_path: Path) -> None:
    layout = Layout(tmp_path)

    assert replaced(FaultyFs(), layout) is None
    assert content(tmp_path) == said(NEW, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "journal", "recovery.json", "server.json",
    ]  # fmt: skip


def test_two_at_the_same_time_of_day_have_places_of_their_own(layout: Layout) -> None:
    replaced(FaultyFs(), layout)
    assert replaced(FaultyFs(), layout) == layout.root / f"{ASIDE}-2"
    assert content(layout.root) == {**AFTER, **said(NEW, "new", f"{ASIDE}-2/")}


def test_cut_off_at_any_call_and_finished_it_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    seen: list[bool] = []
    skip = 0
    while not seen or seen[-1] is not None:
        layout = Layout(tmp_path / str(skip))
        fill(layout.root, OLD, "old")
        fill(layout.root, OTHERS, "other")
        fs = FaultyFs()
        fs.kill(skip)
        try:
            replaced(fs, layout)
        except Killed:
            finish(FaultyFs(), layout)
        else:
            break
        found = content(layout.root)
        assert found in (BEFORE, AFTER), skip
        seen.append(found == AFTER)
        assert not layout.restore_partial.exists()
        assert not layout.restore_ready.exists()
        skip += 1
    assert seen == sorted(seen), "once it is the new one it stays"
    assert {True, False} == set(seen)


def test_finishing_can_be_cut_off_as_often_as_you_like(tmp_path: Path) -> None:
    """It dies at its first call, at its second, …, each time where the one before left it."""
    layout = Layout(tmp_path)
    fill(layout.root, OLD, "old")
    fill(layout.root, OTHERS, "other")
    fs = FaultyFs()
    fs.kill(0, kind="replace", done=True)
    with pytest.raises(Killed):
        replaced(fs, layout)
    for skip in range(60):
        again = FaultyFs()
        again.kill(skip)
        try:
            finish(again, layout)
        except Killed:
            continue
        break
    assert content(layout.root) == AFTER


def test_readers_are_refused_in_between(layout: Layout) -> None:
    fs = FaultyFs()
    fs.kill(1, kind="replace")
    with pytest.raises(Killed):
        replaced(fs, layout)

    real = OsFileSystem()
    for read in (verify, read_only):
        with pytest.raises(StorageError, match="a restore of it was cut off in its last steps"):
            read(real, layout.root)
    finish(real, layout)
    refuse_unfinished(real, layout, "read")


def test_nothing_to_finish_is_said(layout: Layout) -> None:
    assert finish(OsFileSystem(), layout) is False
    assert content(layout.root) == BEFORE


def test_every_name_of_a_state_directory_is_known(layout: Layout) -> None:
    assert state_in(OsFileSystem(), layout) == [
        "journal", "projects", "index.sqlite-wal", "server.json", "server.json.bak",
    ]  # fmt: skip
    names = state_names()
    assert len(names) == len(set(names))
    assert {"quarantine", "server.json.bak.3", "recovery-history.json", "index.sqlite"} <= set(
        names
    )
    assert not {"lock", "run", "spool"} & set(names)
