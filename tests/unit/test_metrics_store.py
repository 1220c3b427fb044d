from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import threading
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import filelock
import msgspec
import pytest

from tallymark.errors import NewerFormatError, StorageError
from tallymark.fs import OsFileSystem
from tallymark.state import AgentProfile, DashboardState, FinishedRun, SessionSummary
from tallymarkd.core import metrics_store
from tallymarkd.core.apply import empty
from tallymarkd.core.metrics_store import (
    DaemonOwnedError,
    LockAcquisitionError,
    MetricsStore,
)
from tallymarkd.core.project_file import encode

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NAME = ".agent_metrics.json"


def clock() -> datetime:
    return T0


def store_in(directory: Path, **more: Any) -> MetricsStore:
    return MetricsStore("p", directory, **({"clock": clock} | more))


def state_with(tokens: int, **more: Any) -> DashboardState:
    given: dict[str, Any] = {"project_name": "p", "created_at": T0, "updated_at": T0}
    return DashboardState(**(given | {"total_tokens": tokens} | more))


def saved(directory: Path, *tokens: int) -> MetricsStore:
    store = store_in(directory)
    for each in tokens:
        store.save(state_with(each))
    return store


def kept(directory: Path) -> list[bytes]:
    aside = directory / "quarantine"
    return [path.read_bytes() for path in sorted(aside.iterdir())] if aside.exists() else []


def old_style() -> dict[str, Any]:
    """A file of the established form: none of the newer fields."""
    return {
        "version": 1,
        "project_name": "old",
        "created_at": "2024-05-01T10:00:00.123456",
        "updated_at": "2024-05-02T10:00:00+02:00",
        "total_sessions": 1,
        "total_tokens": 30,
        "total_cost_usd": 0.5,
        "total_duration_seconds": 2,
        "agents": {
            "coding": {
                "agent_name": "coding",
                "total_invocations": 1,
                "xp": 10,
                "strengths": ["fast"],
                "last_error": None,
                "last_active": "",
            }
        },
        "events": [
            {
                "event_id": "e1",
                "agent_name": "coding",
                "session_id": "s1",
                "ticket_key": None,
                "started_at": "2024-05-01T10:00:00",
                "ended_at": "",
                "duration_seconds": 2,
                "status": "success",
                "input_tokens": 10,
                "output_tokens": 20,
                "total_tokens": 30,
                "estimated_cost_usd": 0.5,
                "artifacts": ["commit:a"],
                "error_message": "",
                "model_used": "m",
                "mood": "good",
            }
        ],
        "sessions": [{"session_id": "s1", "started_at": "2024-05-01T10:00:00Z", "ended_at": ""}],
    }


# Loading and saving.


def test_paths(tmp_path: Path) -> None:
    store = MetricsStore("p", str(tmp_path))

    assert store.metrics_dir == tmp_path
    assert store.metrics_path == tmp_path / NAME
    assert store.backup_path == tmp_path / (NAME + ".bak")
    assert store.lock_path == tmp_path / ".agent_metrics.lock"
    assert (MetricsStore.MAX_EVENTS, MetricsStore.MAX_SESSIONS) == (500, 50)
    assert MetricsStore.LOCK_TIMEOUT == metrics_store.LOCK_TIMEOUT > 0


def test_the_current_directory_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert MetricsStore("p").metrics_dir == tmp_path


def test_nothing_there_gives_a_fresh_state_and_writes_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path / "absent")

    assert store.load() == state_with(0)
    assert not (tmp_path / "absent").exists()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    state = state_with(
        7,
        agents={"coding": AgentProfile(agent_name="coding", xp=3, last_active=T0)},
        events=[FinishedRun(event_id="e", agent_name="coding", attrs={"k": [1]})],
        sessions=[SessionSummary(session_id="s", tickets_worked=["AI-1"])],
    )
    store = store_in(tmp_path)
    store.save(state)

    assert store.load() == state
    assert json.loads(store.metrics_path.read_bytes())["agents"]["coding"]["xp"] == 3
    assert "tallymark" not in json.loads(store.metrics_path.read_bytes())
    assert sorted(os.listdir(tmp_path)) == [NAME, ".agent_metrics.lock"]


def test_plain_dicts_are_taken_and_given_alike(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.save(old_style())
    state = store.load()

    assert state["events"][0]["event_id"] == "e1"
    assert state.created_at == datetime(2024, 5, 1, 10, 0, 0, 123456, UTC)
    assert state.agents["coding"].strengths == ["fast"]
    assert state.agents["coding"].last_active is None
    assert state.agents["coding"].last_error == ""
    assert state.events[0].started_at == datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert state.events[0].ended_at is None
    assert state.events[0].ticket_key == ""
    assert state.events[0].extra == {"mood": "good"}
    assert state.sessions[0].ended_at is None
    plain = json.loads(store.metrics_path.read_bytes())
    store.save(plain)
    assert store.load() == state


def test_a_file_of_an_older_program_is_read(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps(old_style(), indent=2))

    assert store_in(tmp_path).load().updated_at == datetime(2024, 5, 2, 8, tzinfo=UTC)


def test_a_save_sets_the_time_and_leaves_what_it_was_given_alone(tmp_path: Path) -> None:
    state = state_with(1, events=[FinishedRun(event_id="e", agent_name="a")] * 501)
    store = store_in(tmp_path, clock=lambda: T0 + timedelta(days=1))
    store.save(state)

    assert store.load().updated_at == T0 + timedelta(days=1)
    assert state.updated_at == T0
    assert len(state.events) == 501


def test_four_generations_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, 4, 5)

    for suffix, tokens in (("", 5), (".bak", 4), (".bak.2", 3), (".bak.3", 2)):
        document = json.loads((tmp_path / (NAME + suffix)).read_bytes())
        assert document["total_tokens"] == tokens


# What is no valid state.


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in old_style().items() if key != name}


@pytest.mark.parametrize(
    "wrong",
    [
        *[without(name) for name in old_style()],
        old_style() | {"agents": []},
        old_style() | {"agents": {"a": 7}},
        old_style() | {"events": {}},
        old_style() | {"events": [{"agent_name": "a"}]},
        old_style() | {"events": ["e"]},
        old_style() | {"sessions": None},
        old_style() | {"total_tokens": "many"},
        old_style() | {"total_tokens": True},
        old_style() | {"total_cost_usd": float("nan")},
        old_style() | {"created_at": ""},
        old_style() | {"created_at": "yesterday"},
        old_style() | {"project_name": 7},
        {},
        [],
        None,
        7,
        object(),
    ],
)
def test_an_invalid_state_is_refused_and_changes_nothing(tmp_path: Path, wrong: Any) -> None:
    store = saved(tmp_path, 1)

    assert store.validate(wrong) is False
    with pytest.raises(ValueError, match="cannot use the state"):
        store.save(wrong)
    assert store.load().total_tokens == 1
    assert not store.backup_path.exists()


def test_a_valid_state_is_valid(tmp_path: Path) -> None:
    store = store_in(tmp_path)

    assert store.validate(old_style())
    assert store.validate(state_with(1))
    assert store.validate(json.loads(msgspec.json.encode(state_with(1))))


def test_a_newer_state_is_refused(tmp_path: Path) -> None:
    body = json.dumps(old_style() | {"version": 2}).encode()
    (tmp_path / NAME).write_bytes(body)
    store = store_in(tmp_path)

    for use in (store.load, lambda: store.save(state_with(1)), lambda: store.update(print)):
        with pytest.raises(NewerFormatError, match="newer version"):
            use()
    assert (tmp_path / NAME).read_bytes() == body
    assert kept(tmp_path) == []


# Updating.


def test_update_changes_in_place_or_takes_what_is_returned(tmp_path: Path) -> None:
    store = store_in(tmp_path)

    def add(state: DashboardState) -> None:
        state.total_tokens += 5

    assert store.update(add).total_tokens == 5
    assert store.update(add).total_tokens == 10
    assert store.update(lambda state: state_with(state.total_tokens * 2)).total_tokens == 20
    assert store.load().total_tokens == 20


def test_an_update_that_fails_saves_nothing(tmp_path: Path) -> None:
    store = saved(tmp_path, 1)

    def fail(state: DashboardState) -> None:
        state.total_tokens = 99
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        store.update(fail)
    with pytest.raises(ValueError, match="cannot use the state"):
        store.update(lambda state: {})
    assert store.load().total_tokens == 1
    store.update(lambda state: None)  # the lock is free again


def test_a_save_from_within_an_update_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    store = saved(tmp_path, 1)

    with pytest.raises(RuntimeError, match="from within update"):
        store.update(store.save)
    assert store.update(lambda state: store.load()).total_tokens == 1  # reading is free


def test_threads_do_not_lose_each_others_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MetricsStore, "LOCK_TIMEOUT", 60.0)
    shared = store_in(tmp_path)

    def add(state: DashboardState) -> None:
        state.total_tokens += 1

    def work(store: MetricsStore) -> None:
        for _ in range(5):
            store.update(add)

    threads = [
        threading.Thread(target=work, args=(shared if n % 2 else store_in(tmp_path),))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert shared.load().total_tokens == 30


def _work(directory: str, count: int) -> None:
    store = MetricsStore("p", directory)
    store.LOCK_TIMEOUT = 60.0
    for _ in range(count):
        store.update(lambda state: setattr(state, "total_tokens", state.total_tokens + 1))


def test_processes_do_not_lose_each_others_updates(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(str(tmp_path), 20)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)

    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert store_in(tmp_path).load().total_tokens == 60


def test_a_reader_beside_a_writer_sees_whole_states_only(tmp_path: Path) -> None:
    saved(tmp_path, 0)
    stop = threading.Event()
    seen: list[int] = []
    failures: list[Exception] = []

    def read() -> None:
        store = store_in(tmp_path)
        try:
            while not stop.is_set():
                seen.append(store.load().total_tokens)
        except Exception as error:  # noqa: BLE001  # handed to the test's own thread
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    writer = store_in(tmp_path)
    for tokens in range(1, 40):
        writer.save(state_with(tokens))
    stop.set()
    reader.join(60)

    assert failures == []
    assert seen == sorted(seen)
    assert kept(tmp_path) == []


# The lock.


def test_a_lock_that_cannot_be_had_raises_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = saved(tmp_path, 1)
    monkeypatch.setattr(MetricsStore, "LOCK_TIMEOUT", 0.05)
    with filelock.FileLock(store.lock_path):
        for use in (lambda: store.save(state_with(2)), lambda: store.update(print)):
            with pytest.raises(LockAcquisitionError, match=r"cannot lock .* within 0.05 s"):
                use()
        assert store.load().total_tokens == 1  # reading needs no lock
    store.save(state_with(2))
    assert store.load().total_tokens == 2


def test_damage_found_from_within_an_update_is_left_for_later(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2)

    def break_and_load(state: DashboardState) -> DashboardState:
        (tmp_path / NAME).write_bytes(b"damaged")
        return store.load()

    assert store.update(break_and_load).total_tokens == 1
    assert store.load().total_tokens == 1


def test_damage_that_somebody_mends_meanwhile_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader saw a damaged file; until it has the lock a daemon has taken over."""
    store = saved(tmp_path, 1, 2)
    (tmp_path / NAME).write_bytes(b"damaged")
    real = filelock.FileLock.acquire

    def acquire(lock: Any, **more: Any) -> Any:
        daemons(tmp_path)
        return real(lock, **more)

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    assert store.load().total_tokens == 1
    assert store.load().project_name == "daemon's"
    assert kept(tmp_path) == []


def test_a_thread_that_holds_the_lock_is_waited_for_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = saved(tmp_path, 1)
    monkeypatch.setattr(MetricsStore, "LOCK_TIMEOUT", 0.05)
    inside, leave = threading.Event(), threading.Event()

    def hold(state: DashboardState) -> None:
        inside.set()
        leave.wait(30)

    thread = threading.Thread(target=store.update, args=(hold,))
    thread.start()
    assert inside.wait(30)
    with pytest.raises(LockAcquisitionError):
        store.save(state_with(2))
    leave.set()
    thread.join(30)

    assert store.load().total_tokens == 1


def test_a_lock_error_is_not_an_invalid_state() -> None:
    assert issubclass(LockAcquisitionError, StorageError)
    assert not issubclass(LockAcquisitionError, ValueError)
    assert not issubclass(DaemonOwnedError, ValueError)


# Damage.


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 600, b"[]", b"[" * 100_000, b"{}", b"null"])
def test_a_damaged_file_is_kept_and_the_backup_counts(tmp_path: Path, damage: bytes) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / NAME).write_bytes(damage)
    store = store_in(tmp_path)

    assert store.load().total_tokens == 1
    assert kept(tmp_path) == [damage]
    assert not store.metrics_path.exists()
    assert store.load().total_tokens == 1


def test_the_newest_whole_backup_counts(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, 4)
    for suffix in ("", ".bak", ".bak.2"):
        (tmp_path / (NAME + suffix)).write_bytes(b"damaged" + suffix.encode())

    assert store_in(tmp_path).load().total_tokens == 1
    assert sorted(kept(tmp_path)) == [b"damaged", b"damaged.bak", b"damaged.bak.2"]


def test_nothing_whole_gives_a_fresh_state_and_everything_is_kept(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    for suffix in ("", ".bak"):
        (tmp_path / (NAME + suffix)).write_bytes(b"damaged")

    assert store_in(tmp_path).load() == state_with(0)
    assert kept(tmp_path) == [b"damaged"] * 2


def test_a_save_over_a_damaged_file_keeps_it(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    for number in (1, 2):
        (tmp_path / NAME).write_bytes(b"damaged %d" % number)
        store_in(tmp_path).save(state_with(3))

    assert kept(tmp_path) == [b"damaged 1", b"damaged 2"]
    assert store_in(tmp_path).load().total_tokens == 3
    assert json.loads((tmp_path / (NAME + ".bak")).read_bytes())["total_tokens"] == 1


def test_an_update_over_a_damaged_file_starts_from_the_backup(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / NAME).write_bytes(b"damaged")

    def add(state: DashboardState) -> None:
        state.total_tokens += 100

    assert store_in(tmp_path).update(add).total_tokens == 101
    assert kept(tmp_path) == [b"damaged"]


def test_damage_is_left_to_the_writer_that_holds_the_lock(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2)
    (tmp_path / NAME).write_bytes(b"damaged")
    with filelock.FileLock(store.lock_path):
        assert store.load().total_tokens == 1
        assert (tmp_path / NAME).read_bytes() == b"damaged"


def test_what_cannot_be_read_is_never_taken_for_nothing(tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere.json")
    store = store_in(tmp_path)

    for use in (store.load, lambda: store.save(state_with(1)), lambda: store.update(print)):
        with pytest.raises(StorageError, match=r"cannot read .*no whole backup"):
            use()
    assert (tmp_path / NAME).is_symlink()


def test_what_cannot_be_read_gives_way_to_a_whole_backup(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()

    assert store_in(tmp_path).load().total_tokens == 1
    assert [path.is_dir() for path in (tmp_path / "quarantine").iterdir()] == [True]


class ReadOnlyFs(OsFileSystem):
    """A disk that takes nothing more."""

    def replace(self, source: Path, target: Path) -> None:
        raise OSError(errno.EROFS, "read-only")


def test_a_failed_save_leaves_the_former_state(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    store = store_in(tmp_path, fs=ReadOnlyFs())

    with pytest.raises(OSError, match="read-only"):
        store.save(state_with(2))
    assert store.load().total_tokens == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_damage_that_cannot_be_moved_away_does_not_keep_from_reading(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / NAME).write_bytes(b"damaged")
    store = store_in(tmp_path, fs=ReadOnlyFs())

    assert store.load().total_tokens == 1
    with pytest.raises(OSError, match="read-only"):
        store.save(state_with(3))
    assert (tmp_path / NAME).read_bytes() == b"damaged"


# A daemon's directory.


def daemons(directory: Path) -> Path:
    path = directory / NAME
    path.write_bytes(encode(empty("daemon's", T0), server_id="srv-1"))
    shutil.copy(path, directory / (NAME + ".bak"))
    return path


def test_a_daemons_directory_is_read_and_not_written(tmp_path: Path) -> None:
    path = daemons(tmp_path)
    before = path.read_bytes()
    store = store_in(tmp_path)

    assert store.load().project_name == "daemon's"
    for use in (lambda: store.save(state_with(1)), lambda: store.update(print)):
        with pytest.raises(DaemonOwnedError, match="srv-1"):
            use()
    assert path.read_bytes() == before


@pytest.mark.parametrize("also", [False, True])
def test_a_daemons_damaged_file_is_left_to_the_daemon(tmp_path: Path, also: bool) -> None:
    path = daemons(tmp_path)
    damaged = path.read_bytes().replace(b'"version":1', b'"version":0')
    path.write_bytes(damaged)
    if also:
        (tmp_path / (NAME + ".bak")).write_bytes(damaged)
    store = store_in(tmp_path)

    assert store.load().project_name == ("p" if also else "daemon's")
    with pytest.raises(DaemonOwnedError):
        store.save(state_with(1))
    assert path.read_bytes() == damaged
    assert kept(tmp_path) == []


def test_reading_a_daemons_directory_leaves_nothing_there(tmp_path: Path) -> None:
    path = daemons(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    before = sorted(os.listdir(tmp_path))
    store_in(tmp_path).load()

    assert sorted(os.listdir(tmp_path)) == before


def test_a_daemons_newer_file_is_refused(tmp_path: Path) -> None:
    path = daemons(tmp_path)
    covered = path.read_bytes().rpartition(b',"checksum"')[0].replace(b'"format":1', b'"format":2')
    path.write_bytes(covered + b',"checksum":"crc32:%08x"}}\n' % zlib.crc32(covered))

    for use in (store_in(tmp_path).load, lambda: store_in(tmp_path).update(print)):
        with pytest.raises(NewerFormatError, match="newer version"):
            use()
    assert kept(tmp_path) == []
