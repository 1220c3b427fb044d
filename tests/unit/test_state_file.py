from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tallymark.fs import FileSystem, OsFileSystem
from tallymarkd.storage.state_file import StateFile

NAME = "state.json"
OPERATIONS = (
    "open_read create write sync sync_dir replace link unlink read names exists mkdir".split()
)


class PowerCut(BaseException):
    """Stands for the process's death: nothing may clean up after it."""


class FaultyFs:
    """The real file system, which breaks at one operation.

    ``fail_at`` is the operation's number, or its name and what it leads to.
    """

    def __init__(
        self, fail_at: int | tuple[str, str] | None = None, error: BaseException | None = None
    ) -> None:
        self._real = OsFileSystem()
        self.fail_at = fail_at
        self.error = error
        self.done: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)
        return self._wrapped(name, method) if name in OPERATIONS else method

    def _wrapped(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.done.append((name, args))
            here = (len(self.done) - 1, (name, args[-1].name if hasattr(args[-1], "name") else ""))
            if self.error is not None and self.fail_at in here:
                raise self.error
            return method(*args)

        return call

    @property
    def names_done(self) -> list[str]:
        return [name for name, _ in self.done]


def opened(directory: Path, fs: Any = None, backups: int = 3) -> StateFile:
    file_system: FileSystem = OsFileSystem() if fs is None else fs
    return StateFile(file_system, directory, NAME, backups=backups)


def bodies(directory: Path) -> list[bytes | None]:
    return [body for _, body in opened(directory).generations()]


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def saved(directory: Path, *contents: bytes) -> None:
    for content in contents:
        opened(directory).save(content)


def test_paths(tmp_path: Path) -> None:
    file = opened(tmp_path)

    assert file.path == tmp_path / "state.json"
    assert [path.name for path in file.backup_paths] == [
        "state.json.bak",
        "state.json.bak.2",
        "state.json.bak.3",
    ]


def test_a_first_save_makes_one_file(tmp_path: Path) -> None:
    opened(tmp_path).save(b"one")

    assert names(tmp_path) == [NAME]
    assert (tmp_path / NAME).read_bytes() == b"one"
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_generations_are_newest_first_and_the_fifth_is_let_go(tmp_path: Path) -> None:
    saved(tmp_path, b"1", b"2", b"3", b"4", b"5")

    assert list(opened(tmp_path).generations()) == [
        (tmp_path / "state.json", b"5"),
        (tmp_path / "state.json.bak", b"4"),
        (tmp_path / "state.json.bak.2", b"3"),
        (tmp_path / "state.json.bak.3", b"2"),
    ]


def test_one_object_and_many_rotate_alike(tmp_path: Path) -> None:
    file = opened(tmp_path)
    for content in (b"1", b"2", b"3", b"4", b"5"):
        file.save(content)

    assert bodies(tmp_path) == [b"5", b"4", b"3", b"2"]


@pytest.mark.parametrize("backups", [1, 2, 5])
def test_the_number_of_backups_can_be_chosen(tmp_path: Path, backups: int) -> None:
    for number in range(10):
        opened(tmp_path, backups=backups).save(b"%d" % number)

    found = [body for _, body in opened(tmp_path, backups=backups).generations()]
    assert found == [b"%d" % number for number in range(9, 8 - backups, -1)]


def test_no_backups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot keep 0 backups of state\.json"):
        opened(tmp_path, backups=0)


def test_nothing_there_gives_no_generation(tmp_path: Path) -> None:
    assert list(opened(tmp_path / "absent").generations()) == []


def test_a_missing_generation_is_left_out(tmp_path: Path) -> None:
    saved(tmp_path, b"1", b"2", b"3", b"4")
    (tmp_path / "state.json.bak").unlink()

    assert [path.name for path, _ in opened(tmp_path).generations()] == [
        "state.json",
        "state.json.bak.2",
        "state.json.bak.3",
    ]


def test_a_generation_that_cannot_be_read_has_no_body(tmp_path: Path) -> None:
    saved(tmp_path, b"1", b"2")
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).symlink_to(tmp_path / "state.json.bak")  # never followed

    assert list(opened(tmp_path).generations()) == [
        (tmp_path / NAME, None),
        (tmp_path / "state.json.bak", b"1"),
    ]


def test_what_is_not_missing_and_not_readable_is_not_left_out(tmp_path: Path) -> None:
    saved(tmp_path, b"1")
    fs = FaultyFs(0, OSError(errno.EIO, "injected"))

    assert next(opened(tmp_path, fs).generations()) == (tmp_path / NAME, None)


def test_the_order_of_operations(tmp_path: Path) -> None:
    saved(tmp_path, b"1", b"2", b"3", b"4")
    fs = FaultyFs()
    file = opened(tmp_path, fs)
    file.save(b"5")
    fs.done.clear()
    file.save(b"6")

    changes = [
        (name, *[each.name for each in args if isinstance(each, Path)])
        for name, args in fs.done
        if name not in ("exists", "write")
    ]
    assert changes == [
        ("unlink", "state.json.tmp"),
        ("create", "state.json.tmp"),
        ("sync",),
        ("replace", "state.json.bak.2", "state.json.bak.3"),
        ("replace", "state.json.bak", "state.json.bak.2"),
        ("link", "state.json", "state.json.bak"),
        ("replace", "state.json.tmp", "state.json"),
        ("sync_dir", tmp_path.name),
    ]


def test_a_left_over_temporary_file_is_removed(tmp_path: Path) -> None:
    saved(tmp_path, b"1")
    (tmp_path / "state.json.tmp").write_bytes(b"much longer than what comes now")

    saved(tmp_path, b"2")

    assert bodies(tmp_path) == [b"2", b"1"]
    assert names(tmp_path) == ["state.json", "state.json.bak"]


def steps_of_a_save(directory: Path) -> list[str]:
    """The operations of the fifth save of a file."""
    directory.mkdir()
    saved(directory, b"1", b"2", b"3", b"4")
    fs = FaultyFs()
    opened(directory, fs).save(b"5")
    return fs.names_done


def test_every_failure_is_raised_and_leaves_a_whole_file_and_no_temporary(tmp_path: Path) -> None:
    steps = steps_of_a_save(tmp_path / "count")
    assert len(steps) >= 10
    unharmed, errors = [], []
    for step in range(len(steps)):
        directory = tmp_path / str(step)
        directory.mkdir()
        saved(directory, b"1", b"2", b"3", b"4")
        fs = FaultyFs(step, OSError(errno.ENOSPC, "injected"))
        try:
            opened(directory, fs).save(b"5")
            unharmed.append(steps[step])
        except OSError as error:
            errors.append(error.errno)

        assert NAME + ".tmp" not in names(directory)
        found = bodies(directory)
        assert found[0] in (b"5", b"4")
        assert {b"2", b"3", b"4"} <= set(found), f"step {step}: {found}"
        saved(directory, b"6")
        assert bodies(directory)[0] == b"6"
    assert set(errors) == {errno.ENOSPC}
    assert unharmed == []


def test_death_at_every_step_leaves_a_whole_file(tmp_path: Path) -> None:
    for step in range(len(steps_of_a_save(tmp_path / "count"))):
        directory = tmp_path / str(step)
        directory.mkdir()
        saved(directory, b"1", b"2", b"3", b"4")
        with pytest.raises(PowerCut):
            opened(directory, FaultyFs(step, PowerCut())).save(b"5")

        found = bodies(directory)
        assert found[0] in (b"5", b"4")
        assert {b"2", b"3", b"4"} <= set(found), f"step {step}: {found}"
        saved(directory, b"6", b"7")
        assert bodies(directory)[:2] == [b"7", b"6"]
        assert NAME + ".tmp" not in names(directory)


@pytest.mark.parametrize(
    "step",
    [
        ("replace", "state.json.bak.3"),
        ("replace", "state.json.bak.2"),
        ("link", "state.json.bak"),
        ("replace", "state.json"),
    ],
)
def test_however_many_saves_die_only_the_oldest_is_pushed_out(
    tmp_path: Path, step: tuple[str, str]
) -> None:
    saved(tmp_path, b"1", b"2", b"3", b"4")
    deaths = 0
    for _ in range(6):
        try:
            opened(tmp_path, FaultyFs(step, PowerCut())).save(b"new")
        except PowerCut:
            deaths += 1
        else:
            break  # a rotation that was half done has less to move

    assert deaths >= 1
    assert {b"2", b"3", b"4"} <= set(bodies(tmp_path))


def test_a_save_that_failed_does_not_rotate_twice(tmp_path: Path) -> None:
    fs = FaultyFs(error=OSError(errno.EIO, "injected"))
    file = opened(tmp_path, fs)
    for content in (b"1", b"2", b"3"):
        file.save(content)
    fs.fail_at = ("replace", NAME)
    for _ in range(3):
        with pytest.raises(OSError, match="injected"):
            file.save(b"4")
    fs.fail_at = None
    file.save(b"4")

    assert bodies(tmp_path) == [b"4", b"3", b"2", b"1"]


def test_what_was_saved_twice_alike_is_two_generations(tmp_path: Path) -> None:
    """A quiet project is saved again without a change; each of it counts as one."""
    for _ in range(4):
        opened(tmp_path).save(b"the same")
    assert bodies(tmp_path) == [b"the same"] * 4


def test_two_names_of_one_file_are_not_rotated(tmp_path: Path) -> None:
    saved(tmp_path, b"1", b"2", b"3")
    (tmp_path / "state.json.bak").unlink()
    os.link(tmp_path / NAME, tmp_path / "state.json.bak")  # as a save cut off leaves it

    saved(tmp_path, b"4")

    assert bodies(tmp_path) == [b"4", b"3", b"1"]


def test_a_lost_main_file_costs_no_backup(tmp_path: Path) -> None:
    saved(tmp_path, b"1", b"2", b"3", b"4")
    (tmp_path / NAME).unlink()

    saved(tmp_path, b"5")

    assert bodies(tmp_path) == [b"5", b"3", b"2", b"1"]


def test_a_failed_sync_of_the_directory_is_raised(tmp_path: Path) -> None:
    fs = FaultyFs(error=OSError(errno.EIO, "injected"))
    file = opened(tmp_path, fs)
    for content in (b"1", b"2", b"3", b"4", b"5"):
        fs.done.clear()
        file.save(content)
    assert fs.names_done[-1] == "sync_dir"
    fs.fail_at = len(fs.done) - 1
    fs.done.clear()

    with pytest.raises(OSError, match="injected"):
        file.save(b"6")

    assert bodies(tmp_path)[0] == b"6"


def test_quarantine_moves_and_never_overwrites(tmp_path: Path) -> None:
    directory, aside = tmp_path / "state", tmp_path / "quarantine"
    directory.mkdir()
    fs = FaultyFs()
    file = opened(directory, fs)
    kept = []
    for content in (b"bad", b"worse", b"worst"):
        (directory / NAME).write_bytes(content)
        fs.done.clear()
        kept.append(file.quarantine(directory / NAME, aside))

    assert not (directory / NAME).exists()
    assert len(set(kept)) == 3
    assert [path.read_bytes() for path in kept] == [b"bad", b"worse", b"worst"]
    assert all(path.parent == aside and path.name.startswith(NAME) for path in kept)
    assert [args[0] for name, args in fs.done if name == "sync_dir"] == [aside, directory]


def test_quarantine_fills_no_gap_over_a_later_file(tmp_path: Path) -> None:
    aside = tmp_path / "quarantine"
    aside.mkdir()
    (aside / "state.json.2").write_bytes(b"mine")
    file = opened(tmp_path)
    kept = []
    for content in (b"a", b"b"):
        file.save(content)
        kept.append(file.quarantine(file.path, aside).name)

    assert kept == ["state.json.1", "state.json.3"]
    assert (aside / "state.json.2").read_bytes() == b"mine"


def test_quarantine_keeps_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()

    kept = opened(tmp_path).quarantine(tmp_path / NAME, tmp_path / "quarantine")

    assert kept.is_dir()
    assert not (tmp_path / NAME).exists()


# A watched file: whoever else writes it is noticed, and nothing of his is lost.


def in_place(path: Path) -> None:
    path.write_bytes(b"by hand, and longer")


def put_there(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [in_place, put_there, a_directory])
def test_a_watched_file_that_somebody_changed_is_kept_aside(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    aside = tmp_path / "quarantine"
    file = opened(tmp_path)
    for body in (b"1", b"2"):
        assert file.save(body, aside=aside) is None
    change(file.path)
    theirs = None if file.path.is_dir() else file.path.read_bytes()

    foreign = file.save(b"3", aside=aside)

    assert foreign is not None
    assert (foreign.path, foreign.kept) == (file.path, aside / f"{NAME}.1")
    assert foreign.kept is not None
    assert theirs is None or foreign.kept.read_bytes() == theirs
    assert contents(tmp_path) == [b"3", b"1"]
    assert file.save(b"4", aside=aside) is None
    assert contents(tmp_path) == [b"4", b"3", b"1"]


def contents(directory: Path) -> list[bytes | None]:
    return [body for _, body in opened(directory).generations()]


def test_a_watched_file_that_somebody_removed_is_told(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.save(b"1", aside=tmp_path / "q")
    file.path.unlink()

    foreign = file.save(b"2", aside=tmp_path / "q")

    assert foreign is not None
    assert foreign.kept is None
    assert contents(tmp_path) == [b"2"]


def test_a_file_that_was_there_is_foreign_until_it_is_known(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"of an earlier run")
    known, unknown = opened(tmp_path), opened(tmp_path)
    known.know()

    assert known.save(b"1", aside=tmp_path / "q") is None
    assert contents(tmp_path) == [b"1", b"of an earlier run"]
    assert unknown.save(b"2", aside=tmp_path / "q") is not None
    assert (tmp_path / "q" / f"{NAME}.1").read_bytes() == b"1"


@pytest.mark.parametrize("number", range(12))
def test_a_failure_at_any_step_makes_no_foreigner_of_our_own_file(
    tmp_path: Path, number: int
) -> None:
    """Whatever fails: the next save takes its own work for its own, and keeps theirs."""
    aside = tmp_path / "q"
    for theirs in (False, True):
        directory = tmp_path / str(theirs)
        directory.mkdir()
        fs = FaultyFs()
        file = opened(directory, fs)
        file.save(b"1", aside=aside)
        if theirs:
            file.path.write_bytes(b"theirs")
        fs.done.clear()
        fs.fail_at, fs.error = number, OSError(errno.EIO, "Input/output error")
        told = []
        with contextlib.suppress(OSError):
            told.append(file.save(b"2", aside=aside))
        fs.error = None
        told.append(file.save(b"3", aside=aside))

        kept = [each.kept for each in told if each is not None]
        assert len(kept) == theirs
        assert contents(directory)[0] == b"3"
        if theirs:
            assert kept[0] is not None
            assert kept[0].read_bytes() == b"theirs"
            assert b"theirs" not in contents(directory)
