from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from tallymark.fs import OsFileSystem
from tallymarkd.core import project_file
from tallymarkd.core.books import Books
from tallymarkd.core.checkpoint import GENERATIONS, SAVE_SHARE_MAX, Checkpointer, CheckpointSettings
from tallymarkd.core.layout import Layout
from tallymarkd.core.ledger import ServerState, decode_server
from tallymarkd.core.project_state import empty
from tallymarkd.storage.journal import Journal, SealedSegment
from tests.daemon_parts import NOON_NS, SERVER_ID, open_keys

INTERVAL = 5.0
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
DAY_NS = 86_400 * 10**9
OLD_NS = NOON_NS - 100 * DAY_NS


class TrackedFs(OsFileSystem):
    """Tells the test which file is saved, and refuses where it is told to."""

    def __init__(self) -> None:
        self.created: list[str] = []
        self.full: str | None = None

    def create(self, path: Path) -> int:
        self.created.append(str(path))
        if self.full is not None and self.full in str(path):
            raise OSError(28, "No space left on device")
        return super().create(path)


class FakeJournal:
    """What a checkpoint needs of a journal."""

    def __init__(self) -> None:
        self.segments: list[SealedSegment] = []
        self.active_bytes = 10
        self.active_created_ns = NOON_NS
        self.retire_error: OSError | None = None

    def sealed(self) -> list[SealedSegment]:
        return list(self.segments)

    def size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self.segments) + self.active_bytes

    def retire(self, number: int) -> None:
        if self.retire_error is not None:
            raise self.retire_error
        assert self.segments[0].number == number
        del self.segments[0]

    def seal(self, first_lsn: int, last_lsn: int, created_ns: int = NOON_NS) -> None:
        number = self.segments[-1].number + 1 if self.segments else 1
        self.segments.append(SealedSegment(number, first_lsn, last_lsn, 100, created_ns))


@dataclass
class Timer:
    at: float
    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Rig:
    """A checkpointer with the test's clock; each job takes ``cost`` seconds."""

    def __init__(self, root: Path, *, bytes_max: int = 10**9, days_max: int = 400) -> None:
        self.fs = TrackedFs()
        self.layout = Layout(root)
        self.keys = open_keys(root)
        self.journal = FakeJournal()
        self.books = Books(ServerState(server_id=SERVER_ID), {})
        self.now = 1000.0
        self.cost = 0.0
        self.before: Callable[[], None] = lambda: None
        self.during: Callable[[str], None] = lambda name: None
        self.timers: list[Timer] = []
        self.jobs: list[tuple[float, float, str]] = []
        self.lsn = 0
        self.checkpointer = Checkpointer(
            self.fs,
            self.layout,
            self.books,
            cast(Journal, self.journal),
            self.keys,
            CheckpointSettings(INTERVAL, bytes_max, days_max),
            run_job=self._run_job,
            call_later=self._call_later,
            clock=lambda: self.now,
            clock_ns=lambda: NOON_NS,
        )

    def _call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(self.now + seconds, call)
        self.timers.append(timer)
        return timer

    def _run_job(
        self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        begun, seen = self.now, len(self.fs.created)
        result, error = None, None
        self.before()
        try:
            result = job()
        except (OSError, sqlite3.Error) as caught:
            error = caught
        name = self._name(self.fs.created[seen:])
        self.now += self.cost
        self.jobs.append((begun, self.now, name))
        self.during(name)
        done(result, error)

    def _name(self, created: list[str]) -> str:
        """The saved project, ``server``, or ``retire``."""
        for project in self.books.projects:
            if any(str(self.layout.project(project)) in path for path in created):
                return project
        return "server" if created else "retire"

    def touch(self, *projects: str, note: bool = True) -> None:
        """An event in each of these projects."""
        for project in projects:
            self.lsn += 1
            state = self.books.projects.get(project)
            if state is None:
                state = self.books.projects[project] = empty(project, NOON)
            state.board.other_events += 1
            state.applied_lsn = self.lsn
            server = self.books.server
            server.applied_lsn = server.last_lsn[project] = self.lsn
            server.first_lsn.setdefault(project, self.lsn)
            self.books.touched.add(project)
            if note:
                self.checkpointer.note()

    def run(self, *, until: float = 1e9, jobs: int = 1000) -> None:
        """Let timers fire in their order until there is none, or the time is over."""
        stop = len(self.jobs) + jobs
        while len(self.jobs) < stop:
            due = [timer for timer in self.timers if not timer.cancelled]
            if not due:
                return
            timer = min(due, key=lambda each: each.at)
            if timer.at > until:
                return
            self.timers.remove(timer)
            self.now = max(self.now, timer.at)
            timer.call()
        raise AssertionError(f"there was no end to it: {self.names[-10:]}")

    @property
    def names(self) -> list[str]:
        return [name for _, _, name in self.jobs]

    def saved(self, project: str) -> int:
        """The number that the newest generation reaches."""
        path = self.layout.project(project) / ".agent_metrics.json"
        return project_file.decode(path.read_bytes()).applied_lsn

    def settle(self, *projects: str) -> None:
        """Save these until every generation is past everything."""
        for _ in range(GENERATIONS):
            self.touch(*projects)
            self.run()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    found = Rig(tmp_path)
    yield found
    found.keys.close()


def test_a_change_is_saved_after_the_interval(rig: Rig) -> None:
    rig.touch("spotter")
    (timer,) = rig.timers
    assert timer.at == rig.now + INTERVAL

    rig.run()

    assert rig.saved("spotter") == 1
    assert decode_server((rig.layout.root / "server.json").read_bytes()) == rig.books.server
    assert rig.checkpointer.saves == 2
    assert rig.checkpointer.oldest_dirty_seconds == 0.0
    assert rig.books.touched == set()


def test_many_changes_make_one_save(rig: Rig) -> None:
    for _ in range(50):
        rig.touch("spotter")
    assert len(rig.timers) == 1

    rig.run()

    assert rig.names == ["spotter", "server"]
    assert rig.saved("spotter") == 50


def test_other_settings_hold_for_what_waits_already(rig: Rig) -> None:
    rig.checkpointer.use(CheckpointSettings(3600.0, 10**9, 400))
    rig.touch("spotter")
    assert rig.timers[-1].at == rig.now + 3600

    rig.checkpointer.use(CheckpointSettings(1.0, 10**9, 400))
    rig.run(until=rig.now)

    assert rig.names == ["spotter", "server"]
    assert all(timer.cancelled for timer in rig.timers)


def test_other_settings_hold_for_a_save_that_failed(rig: Rig) -> None:
    rig.checkpointer.use(CheckpointSettings(3600.0, 10**9, 400))
    rig.fs.full = "projects"
    rig.touch("spotter")
    rig.run(until=rig.now + 3600)
    assert rig.checkpointer.failure is not None
    rig.fs.full = None

    rig.checkpointer.use(CheckpointSettings(1.0, 10**9, 400))
    rig.run(until=rig.now + 1)

    assert rig.saved("spotter") == 1


def test_history_that_other_limits_put_over_goes_without_an_event(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.touch("spotter")
    rig.journal.seal(1, 1)
    rig.settle("spotter")
    assert len(rig.journal.segments) == 1

    rig.checkpointer.use(CheckpointSettings(INTERVAL, 0, 400))
    rig.run()

    assert rig.journal.segments == []
    rig.keys.close()


def test_settings_that_change_nothing_begin_nothing(rig: Rig) -> None:
    rig.checkpointer.use(CheckpointSettings(1.0, 10**9, 400))

    assert rig.timers == []


def test_nothing_is_saved_when_nothing_changed(rig: Rig) -> None:
    rig.touch("spotter")
    rig.run()
    done = len(rig.jobs)

    rig.run()

    assert len(rig.jobs) == done
    assert rig.timers == []


def test_who_waits_longest_is_saved_first(rig: Rig) -> None:
    rig.touch("a", "b", "c", "d")
    rig.run()
    rig.jobs.clear()
    for project in ("c", "a", "d", "b"):
        rig.touch(project)
        rig.now += 0.1
    rig.touch("c")

    rig.run()

    assert [name for name in rig.names if name != "server"] == ["c", "a", "d", "b"]


def test_saving_takes_a_fifth_of_the_time_at_most(rig: Rig) -> None:
    rig.cost = 2.0
    rig.during = lambda name: rig.touch("a", "b") if len(rig.jobs) < 40 else None
    rig.touch("a", "b", "c")

    rig.run()

    assert len(rig.jobs) > 40
    assert share(rig.jobs) <= SAVE_SHARE_MAX + 1e-9


def test_saving_takes_a_fifth_of_the_time_at_most_with_pauses_between_the_changes(
    rig: Rig,
) -> None:
    """Nothing has changed when a long save ends; something does right after."""
    rig.cost = 10.0
    for _ in range(20):
        rig.touch("a")
        rig.run()

    assert len(rig.jobs) == 40
    assert share(rig.jobs) <= SAVE_SHARE_MAX + 1e-9


def share(jobs: list[tuple[float, float, str]]) -> float:
    """Of the time from the first job's begin to the last one's begin."""
    busy = sum(end - begin for begin, end, _ in jobs[:-1])
    return busy / (jobs[-1][0] - jobs[0][0])


def test_under_constant_load_the_server_file_is_saved_as_well(rig: Rig) -> None:
    """Else keys pile up in memory, and a restart replays everything."""
    rig.cost = 0.01
    rig.during = lambda name: rig.touch("busy")
    rig.touch("busy")

    with pytest.raises(AssertionError, match="no end"):
        rig.run(jobs=50)

    assert rig.names.count("server") >= 5
    assert rig.names.count("busy") >= 5


def test_under_constant_load_history_is_retired_as_well(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_max=0)
    rig.cost = 0.01
    rig.touch("busy")
    rig.journal.seal(1, 1)
    rig.during = lambda name: rig.touch("busy")

    with pytest.raises(AssertionError, match="no end"):
        rig.run(jobs=200)

    assert "retire" in rig.names
    assert rig.journal.segments == []


def test_the_state_is_saved_as_it_was_when_the_save_began(rig: Rig) -> None:
    """While a job waits for its thread, events go on arriving."""
    rig.cost = 1.0
    rig.before = lambda: rig.touch("spotter") if not rig.jobs else None
    rig.touch("spotter")

    rig.run(until=rig.now + INTERVAL)
    assert rig.saved("spotter") == 1

    rig.run()
    assert rig.saved("spotter") == 2


def test_only_one_save_runs_at_a_time(rig: Rig) -> None:
    waiting: list[Callable[[], None]] = []
    rig.checkpointer = Checkpointer(
        rig.fs, rig.layout, rig.books, cast(Journal, rig.journal), rig.keys,
        CheckpointSettings(INTERVAL, 10**9, 400),
        run_job=lambda job, done: waiting.append(lambda: done(job(), None)),
        call_later=rig._call_later, clock=lambda: rig.now, clock_ns=lambda: NOON_NS,
    )  # fmt: skip
    rig.touch("a", "b")
    rig.run(jobs=1)
    assert len(waiting) == 1

    rig.touch("a", "c")

    assert rig.timers == []
    waiting.pop()()
    assert len(rig.timers) == 1


def test_the_index_is_written_before_the_server_file(rig: Rig) -> None:
    rig.keys.admit([7])
    rig.keys.settle([7], 1)
    rig.touch("spotter")
    seen: list[int] = []
    create = rig.fs.create

    def look(path: Path) -> int:
        if "server.json" in path.name:
            seen.append(indexed_through(rig))
        return create(path)

    rig.fs.create = look  # type: ignore[method-assign]  # looks at the moment that counts
    rig.run()

    assert seen == [1]
    assert rig.keys.known([7]) == {7}


def indexed_through(rig: Rig) -> int:
    db = sqlite3.connect(rig.layout.index)
    try:
        ((found,),) = db.execute("SELECT value FROM meta WHERE name = 'through_lsn'").fetchall()
    finally:
        db.close()
    return int(found)


def test_a_save_that_failed_is_tried_again_and_told_meanwhile(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.fs.full = str(rig.layout.projects)
    rig.touch("spotter")
    rig.run(until=rig.now + INTERVAL)

    failure = rig.checkpointer.failure
    assert failure is not None
    assert failure.what.endswith(".agent_metrics.json")
    assert "No space left" in failure.error
    assert "cannot save" in caplog.text
    assert rig.checkpointer.saves == 0

    first = rig.now
    rig.fs.full = None
    rig.run()

    assert rig.checkpointer.failure is None
    assert rig.saved("spotter") == 1
    assert rig.jobs[1][0] >= first + INTERVAL
    assert "server" in rig.names


def test_a_file_that_somebody_else_changed_is_kept_aside_and_memory_wins(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(4):
        rig.touch("spotter")
        rig.run()
    path = rig.layout.project("spotter") / ".agent_metrics.json"
    theirs = path.read_bytes().replace(b'"total_tokens":0', b'"total_tokens":7')
    path.write_bytes(theirs)
    assert rig.checkpointer.foreign is None

    rig.touch("spotter")
    rig.run()

    foreign = rig.checkpointer.foreign
    assert foreign is not None
    assert foreign.path == path
    assert foreign.kept is not None
    assert foreign.kept.parent == rig.layout.quarantine
    assert foreign.kept.name == f"{path.parent.name}.agent_metrics.json.1"
    assert foreign.kept.read_bytes() == theirs
    assert reaches_on_disk(rig, "spotter") == [5, 3, 2, 1]
    assert "was changed by another program" in caplog.text


def test_a_generation_that_somebody_removed_does_not_count(tmp_path: Path) -> None:
    """The oldest on disk is another than the saves alone would make it."""
    rig = Rig(tmp_path, bytes_max=0)
    for _ in range(4):
        rig.touch("spotter")
        rig.run()
    (rig.layout.project("spotter") / ".agent_metrics.json").unlink()
    rig.touch("spotter")
    rig.run()
    assert reaches_on_disk(rig, "spotter") == [5, 3, 2, 1]
    rig.journal.seal(1, 2)

    rig.touch("other")
    rig.run()

    assert rig.journal.segments == []
    assert min(reaches_on_disk(rig, "spotter")) >= 2


def test_files_of_the_run_before_are_no_foreigners(rig: Rig) -> None:
    rig.touch("spotter")
    rig.run()
    again = Rig(rig.layout.root)
    again.checkpointer.adopt({"spotter": [1]}, [1])
    again.lsn = 1

    again.touch("spotter")
    again.run()

    assert again.checkpointer.foreign is None
    assert reaches_on_disk(again, "spotter") == [2, 1]


def test_a_file_that_cannot_be_saved_does_not_keep_the_others_from_it(rig: Rig) -> None:
    rig.touch("bad", "good")
    rig.fs.full = str(rig.layout.project("bad"))

    rig.run(until=rig.now + 10 * INTERVAL)

    assert rig.saved("good") == 2
    assert "server" in rig.names
    assert rig.checkpointer.failure is not None


def test_an_index_that_cannot_be_written_leaves_the_server_file_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(through_lsn: int) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    write = rig.keys.write
    monkeypatch.setattr(rig.keys, "write", refuse)
    rig.keys.admit([7])
    rig.keys.settle([7], 1)
    rig.touch("spotter")
    rig.run(until=rig.now + INTERVAL)
    assert rig.checkpointer.failure is not None
    assert not (rig.layout.root / "server.json").exists()
    assert rig.keys.known([7]) == {7}

    monkeypatch.setattr(rig.keys, "write", write)
    rig.run()

    assert rig.checkpointer.failure is None
    assert indexed_through(rig) == 1
    assert rig.keys.known([7]) == {7}


def test_a_fault_of_the_program_is_not_taken_for_a_bad_disk(rig: Rig) -> None:
    rig.touch("spotter")
    jobs: list[Callable[[Any, BaseException | None], None]] = []
    checkpointer = Checkpointer(
        rig.fs, rig.layout, rig.books, cast(Journal, rig.journal), rig.keys,
        CheckpointSettings(INTERVAL, 10**9, 400),
        run_job=lambda job, done: jobs.append(done),
        call_later=rig._call_later, clock=lambda: rig.now, clock_ns=lambda: NOON_NS,
    )  # fmt: skip
    rig.timers.clear()
    rig.books.touched.add("spotter")
    checkpointer.note()
    rig.run()

    with pytest.raises(TypeError):
        jobs[0](None, TypeError("our own"))


def test_how_long_a_change_waits(rig: Rig) -> None:
    rig.touch("a")
    rig.now += 3.0
    rig.touch("b")
    rig.now += 1.0

    assert rig.checkpointer.oldest_dirty_seconds == 4.0


def test_after_stop_nothing_new_begins(rig: Rig) -> None:
    rig.touch("a")

    rig.checkpointer.stop()
    rig.touch("b")
    rig.run()

    assert rig.jobs == []


def test_save_all_saves_everything_here_and_now(rig: Rig) -> None:
    rig.touch("a", "b")
    rig.checkpointer.stop()

    assert rig.checkpointer.save_all(rig.now + 1.0) == []

    assert (rig.saved("a"), rig.saved("b")) == (1, 2)
    assert decode_server((rig.layout.root / "server.json").read_bytes()) == rig.books.server


@pytest.mark.parametrize("now", [1000.0, 0.0])
def test_save_all_names_what_there_was_no_time_for(rig: Rig, now: float) -> None:
    rig.now = now
    rig.touch("a", "b")
    rig.checkpointer.stop()

    assert sorted(rig.checkpointer.save_all(rig.now)) == ["a", "b", "server.json"]

    assert rig.fs.created == []


def test_save_all_goes_on_past_a_file_that_cannot_be_saved(rig: Rig) -> None:
    rig.touch("bad", "good")
    rig.checkpointer.stop()
    rig.fs.full = str(rig.layout.project("bad"))

    rig.checkpointer.save_all(rig.now + 1.0)

    assert rig.saved("good") == 2
    assert (rig.layout.root / "server.json").exists()


def test_project_directories_are_private(rig: Rig) -> None:
    rig.touch("spotter")
    rig.run()

    assert rig.layout.project("spotter").stat().st_mode & 0o777 == 0o700


# Retirement.


def test_history_within_its_limits_stays(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_max=1000, days_max=10)
    rig.touch("spotter")
    for _ in range(9):
        rig.journal.seal(1, 1)

    rig.settle("spotter")

    assert len(rig.journal.segments) == 9
    assert "retire" not in rig.names


def test_history_over_its_size_is_retired_oldest_first(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_max=250)
    rig.touch("spotter")
    for _ in range(5):
        rig.journal.seal(1, 1)

    rig.settle("spotter")

    assert [segment.number for segment in rig.journal.segments] == [4, 5]


def test_held_history_stays_and_goes_after_the_release(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_max=0)
    rig.touch("spotter")
    rig.journal.seal(1, 1)
    told: list[str] = []
    release = rig.checkpointer.holds.take(lambda: told.append("held"))

    rig.settle("spotter")
    rig.settle("spotter")
    assert (told, len(rig.journal.segments)) == (["held"], 1)
    assert "retire" not in rig.names
    assert rig.books.server.retired_lsn == 0, "nothing is announced either"

    release()
    rig.run()
    assert rig.journal.segments == []
    rig.keys.close()


def test_a_hold_waits_for_the_segment_that_is_being_retired(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_max=0)
    rig.touch("spotter")
    rig.journal.seal(1, 1)
    rig.journal.seal(1, 1)
    told: list[int] = []

    def look(name: str) -> None:
        if name == "retire" and not told:
            rig.checkpointer.holds.take(lambda: told.append(len(rig.journal.segments)))
            assert told == []

    rig.during = look
    rig.settle("spotter")
    assert told == [1]
    assert len(rig.journal.segments) == 1
    rig.keys.close()


def test_history_over_its_age_is_retired(tmp_path: Path) -> None:
    """A segment is as old as the beginning of the next one."""
    rig = Rig(tmp_path, days_max=30)
    rig.touch("spotter")
    rig.journal.seal(1, 1, OLD_NS)
    rig.journal.seal(1, 1, OLD_NS + DAY_NS)
    rig.journal.seal(1, 1, NOON_NS)

    rig.settle("spotter")

    assert [segment.number for segment in rig.journal.segments] == [2, 3]


def test_the_only_sealed_segment_is_as_old_as_the_beginning_of_the_active_one(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path, days_max=30)
    rig.journal.seal(1, 1, OLD_NS)
    rig.journal.active_created_ns = NOON_NS - 30 * DAY_NS
    rig.settle("spotter")
    assert len(rig.journal.segments) == 1

    rig.journal.active_created_ns = NOON_NS - 30 * DAY_NS - 1
    rig.settle("spotter")
    assert rig.journal.segments == []


def test_a_segment_stays_until_every_oldest_generation_is_past_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_max=0)
    rig.touch("spotter", "other", "spotter")
    rig.journal.seal(1, 3)
    reached: list[list[int]] = []

    def look(name: str) -> None:
        if name == "retire":
            reached.append(reaches_on_disk(rig, "spotter") + reaches_on_disk(rig, "other"))

    rig.during = look
    rig.run()

    assert rig.journal.segments == []
    assert reached == [[3] * GENERATIONS + [2] * GENERATIONS]


def reaches_on_disk(rig: Rig, project: str) -> list[int]:
    directory = rig.layout.project(project)
    names = [".agent_metrics.json" + suffix for suffix in ("", ".bak", ".bak.2", ".bak.3")]
    paths = [directory / name for name in names]
    return [project_file.decode(path.read_bytes()).applied_lsn for path in paths if path.exists()]


def test_the_oldest_generation_counts_not_the_newest(tmp_path: Path) -> None:
    """With its newest three generations lost, a project is still rebuilt exactly."""
    rig = Rig(tmp_path, bytes_max=0)
    rig.touch("spotter")
    rig.run()
    rig.checkpointer.adopt({"spotter": [9, 9, 9, 4]}, [9, 9, 9, 9])
    rig.journal.seal(1, 4)
    rig.journal.seal(5, 9)
    rig.lsn = 9
    rig.jobs.clear()
    rig.touch("spotter")

    rig.run()

    # The first goes as it is; the second only once 4 has been pushed out.
    assert rig.journal.segments == []
    assert rig.names.count("retire") == 2
    assert rig.names.count("spotter") == 1


def test_after_a_start_the_generations_on_disk_count(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_max=0)
    rig.touch("spotter")
    rig.checkpointer.adopt({"spotter": [9, 9, 9, 4]}, [9, 9, 9, 9])
    rig.lsn = 9
    rig.journal.seal(1, 9)
    rig.touch("spotter")

    rig.run()

    # One save pushes the generation at 4 out; none of the others had to be made again.
    assert rig.names.count("spotter") == 1
    assert rig.journal.segments == []


def test_a_quiet_project_is_settled_and_pins_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_max=0)
    rig.touch("quiet")
    rig.run()
    rig.journal.seal(1, 1)

    rig.touch("busy")
    rig.run()

    assert rig.journal.segments == []
    assert reaches_on_disk(rig, "quiet") == [1] * GENERATIONS


def test_a_project_without_records_in_the_segment_pins_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_max=0)
    rig.settle("old")
    rig.journal.seal(1, 4)
    rig.touch("new")

    rig.run()

    assert rig.journal.segments == []
    assert len(reaches_on_disk(rig, "new")) == 1


def test_keys_of_retired_history_are_forgotten(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_max=0)
    rig.touch("spotter", "spotter", "spotter")
    rig.keys.settle([11], 1)
    rig.keys.settle([22], 3)
    rig.journal.seal(1, 2)

    rig.settle("spotter")

    assert rig.journal.segments == []
    assert rig.keys.known([11, 22]) == {22}


def test_a_segment_that_cannot_be_removed_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, bytes_max=0)
    rig.journal.retire_error = OSError(30, "Read-only file system")
    rig.touch("spotter")
    rig.journal.seal(1, 1)
    rig.settle("spotter")
    assert "cannot retire" in caplog.text
    assert len(rig.journal.segments) == 1

    rig.journal.retire_error = None
    rig.touch("spotter")
    rig.run()

    assert rig.journal.segments == []


def test_keys_are_known_for_as_long_as_their_segment_is_there(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_max=0)
    rig.touch("spotter")
    rig.keys.settle([7], 1)
    rig.journal.seal(1, 1)
    rig.journal.retire_error = OSError(5, "Input/output error")

    rig.settle("spotter")
    assert len(rig.journal.segments) == 1
    assert rig.keys.known([7]) == {7}

    rig.journal.retire_error = None
    rig.settle("spotter")
    assert rig.journal.segments == []
    assert rig.keys.known([7]) == set()


def test_a_project_whose_directory_and_records_are_gone_pins_nothing(tmp_path: Path) -> None:
    """Somebody removed it by hand; only the server file still names it."""
    rig = Rig(tmp_path, bytes_max=0)
    rig.books.server.first_lsn["removed"] = rig.books.server.last_lsn["removed"] = 1
    rig.lsn = 1
    rig.journal.seal(1, 2)

    rig.settle("spotter")

    assert rig.journal.segments == []
    assert not rig.layout.project("removed").exists()


def test_settling_takes_a_fifth_of_the_time_at_most(tmp_path: Path) -> None:
    rig = Rig(tmp_path, bytes_max=0)
    rig.touch("a", "b", "c")
    rig.run()
    rig.jobs.clear()
    rig.cost = 1.0
    rig.journal.seal(1, 3)
    rig.touch("d")

    rig.run()

    assert rig.journal.segments == []
    saves = [job for job in rig.jobs if job[2] != "retire"]
    assert share(saves) <= SAVE_SHARE_MAX + 1e-9


def test_a_batch_without_events_is_saved_too(rig: Rig) -> None:
    """A tombstone moves the number of its project."""
    state = rig.books.projects["spotter"] = empty("spotter", NOON)
    state.applied_lsn = 7
    rig.books.touched.add("spotter")
    rig.checkpointer.note()

    rig.run()

    assert rig.saved("spotter") == 7
