"""The async client: same names, nothing blocks the loop, cancelling loses nothing."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import tallymark
from tallymark import AsyncClient, Client
from tallymark.errors import ConnectError, DeliveryError, FlushTimeout, RefusedError, UsageError
from tallymark.events import Usage
from tallymark.intake import Waiter
from tests.fake_daemon import FakeDaemon, until
from tests.unit.test_questions import STATE

FLUSH_SECONDS = 60.0
ROUNDS = 200

Work = Callable[[AsyncClient, FakeDaemon], Awaitable[None]]


async def go_round(*tasks: asyncio.Task[Any]) -> None:
    """Let the loop go round while these wait for the daemon; who blocks it has ended by then."""
    for _ in range(ROUNDS):
        await asyncio.sleep(0)
    for task in tasks:
        assert not task.done(), f"it waited and the loop with it: {task}"


def run(tmp_path: Path, work: Work, **settings: Any) -> FakeDaemon:
    """Do the work with a client and a daemon; nothing may be wrong after it."""

    async def main() -> FakeDaemon:
        with FakeDaemon(tmp_path / "s.sock") as daemon:
            async with AsyncClient(
                "p", socket=daemon.path, **({"exit_timeout_seconds": FLUSH_SECONDS} | settings)
            ) as client:
                await work(client, daemon)
            assert not daemon.wrong
            return daemon

    return asyncio.run(main())


def test_the_names_are_the_blocking_clients() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(AsyncClient) == public(Client)
    for name in sorted(public(Client) | {"__init__"}):
        ours, theirs = getattr(AsyncClient, name), getattr(Client, name)
        if inspect.isfunction(theirs):
            assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters, name


def test_emit_flush_and_close(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        assert client.project == "p"
        assert await client.emit(Usage(event_id="1"))
        assert await client.emit({"type": "other", "event_id": "2"})
        await client.flush(FLUSH_SECONDS)
        assert len(daemon.events) == 2
        await client.emit(Usage(event_id="3"))

    daemon = run(tmp_path, work, linger_seconds=3600)
    assert [event["event_id"] for event in daemon.events] == ["1", "2", "3"]
    assert daemon.producer.goodbye


def test_durable(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        await asyncio.gather(
            *(client.emit(Usage(event_id=str(n)), durable=True) for n in range(50))
        )
        assert len(daemon.events) == 50
        with pytest.raises(UsageError):
            await client.emit(Usage(attrs={"x": object()}), durable=True)
        assert client.stats().acknowledged == 50

    run(tmp_path, work)


def test_runs_and_sessions(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        session_id = await client.start_session("continuation")
        async with (
            client.track_agent("outer", session_id=session_id) as outer,
            client.track_agent("inner") as inner,
        ):
            inner.add_tokens(input_tokens=5)
        await client.end_session(session_id, "complete")

        @client.track_agent("decorated", session_id=session_id)
        async def decorated() -> None:
            tallymark.current_run().add_tokens(output_tokens=7)  # type: ignore[union-attr]

        await decorated()
        await client.flush(FLUSH_SECONDS)
        ends = {e["agent_name"]: e for e in daemon.events if e["type"] == "run.end"}
        assert ends["inner"]["parent_run_id"] == outer.run_id
        assert ends["inner"]["session_id"] == session_id
        assert ends["decorated"]["output_tokens"] == 7

    run(tmp_path, work)


def test_flush_in_vain(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        daemon.acks = False
        await client.emit(Usage())
        with pytest.raises(FlushTimeout, match=r"within 0\.02 s: 1 events") as told:
            await client.flush(0.02)
        assert told.value.pending_events == 1
        daemon.resume_acks()
        await client.flush(FLUSH_SECONDS)
        await client.flush(0)

    run(tmp_path, work)


def test_a_cancelled_flush_leaves_everything_pending(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        daemon.acks = False
        tasks = [
            asyncio.create_task(client.emit(Usage(event_id=str(n)), durable=True))
            for n in range(10)
        ]
        await asyncio.to_thread(daemon.wait, lambda: len(daemon.events) == 10)
        for task in tasks[:9]:
            task.cancel()
        done = await asyncio.gather(*tasks[:9], return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in done)
        daemon.resume_acks()
        assert await tasks[9]
        assert len(daemon.events) == 10
        assert client.stats().acknowledged == 10

    run(tmp_path, work)


def test_cancelled_before_it_begins_it_records_nothing_twice(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        for number in range(100):
            task = asyncio.create_task(client.emit(Usage(event_id=str(number)), durable=True))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await client.flush(FLUSH_SECONDS)
        ids = [event["event_id"] for event in daemon.events]
        assert len(ids) == len(set(ids)) == client.stats().acknowledged
        assert len(ids) >= 50

    run(tmp_path, work)


def test_a_cancelled_close_goes_on(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        daemon.acks = False
        await client.emit(Usage())
        await asyncio.to_thread(daemon.wait, lambda: daemon.events)
        task = asyncio.create_task(client.close(FLUSH_SECONDS))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        daemon.resume_acks()
        await asyncio.to_thread(daemon.wait, lambda: daemon.producer.goodbye)

    run(tmp_path, work)


def test_those_who_gave_up_waiting_are_not_kept(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        waiters: list[Waiter] = []
        watch = client._delivery.watch

        def keep(notify: Callable[[], object], *, durable: bool = False) -> Waiter:
            waiters.append(watch(notify, durable=durable))
            return waiters[-1]

        client._delivery.watch = keep  # type: ignore[method-assign]
        daemon.acks = False
        await client.emit(Usage())
        with pytest.raises(FlushTimeout):
            await client.flush(0.001)
        task = asyncio.create_task(client.emit(Usage(), durable=True))
        await go_round(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        daemon.resume_acks()
        await client.flush(FLUSH_SECONDS)
        assert [waiter.abandoned for waiter in waiters] == [True, True, False]

    run(tmp_path, work)


def test_an_emit_that_is_cancelled_while_it_waits_for_room_has_taken_nothing(
    tmp_path: Path,
) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        daemon.acks = False
        await client.emit(Usage(event_id="1"))
        task = asyncio.create_task(client.emit(Usage(event_id="2"), durable=True))
        await go_round(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        daemon.resume_acks()
        await client.flush(FLUSH_SECONDS)
        assert [event["event_id"] for event in daemon.events] == ["1"]

    run(tmp_path, work, queue_events_max=1)


def test_a_daemon_that_stands_still_does_not_stop_the_loop(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        daemon.reading.clear()
        for _ in range(200):
            await client.emit(Usage(attrs={"x": "y" * 60_000}))
        with pytest.raises(FlushTimeout):
            await client.flush(0.05)
        with pytest.raises(DeliveryError):
            await client.health(timeout=0.05)
        waiting = [
            asyncio.create_task(client.flush(FLUSH_SECONDS)),
            asyncio.create_task(client.emit(Usage(), durable=True, timeout=FLUSH_SECONDS)),
            asyncio.create_task(client.health(timeout=FLUSH_SECONDS)),
            asyncio.create_task(client.dump(timeout=FLUSH_SECONDS)),
            asyncio.create_task(client.projects(timeout=FLUSH_SECONDS)),
        ]
        await go_round(*waiting)
        daemon.replies = {"state": [STATE], "projects": [b"[]"]}
        daemon.reading.set()
        await asyncio.gather(*waiting)

    run(tmp_path, work)


def test_neither_does_a_full_queue_nor_the_end(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        daemon.acks = False
        for _ in range(3):
            await client.emit(Usage())
        more = asyncio.create_task(client.emit(Usage(), durable=True, timeout=FLUSH_SECONDS))
        await go_round(more)
        daemon.resume_acks()
        assert await more
        daemon.acks = False
        await client.emit(Usage())
        end = asyncio.create_task(client.close(FLUSH_SECONDS))
        await go_round(end)
        daemon.resume_acks()
        await end
        assert len(daemon.events) == 5

    run(tmp_path, work, queue_events_max=3)


def test_asking(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        daemon.replies = {"state": [STATE], "projects": [b"[]"]}
        state, projects, health = await asyncio.gather(
            client.dump(), client.projects(), client.health(deep=True)
        )
        assert (state.project_name, projects, health.status) == ("p", [], "ok")

    run(tmp_path, work)


def test_refused(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        daemon.refusal = "wrong_user"
        await client.emit(Usage())
        for _ in range(2):
            with pytest.raises(RefusedError):
                await client.flush(FLUSH_SECONDS)
        with pytest.raises(RefusedError):
            await client.emit(Usage(), durable=True)

    run(tmp_path, work)


def test_durable_in_vain_is_still_pending(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        daemon.acks = False
        with pytest.raises(FlushTimeout, match="must not be emitted again") as told:
            await client.emit(Usage(event_id="1"), durable=True, timeout=0.02)
        assert told.value.pending_events == 1
        until(lambda: daemon.events)
        daemon.resume_acks()
        await client.flush(FLUSH_SECONDS)
        assert [event["event_id"] for event in daemon.events] == ["1"]

    run(tmp_path, work)


def test_a_full_queue_and_a_durable_event(tmp_path: Path) -> None:
    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        daemon.acks = False
        for _ in range(3):
            assert await client.emit(Usage())
        assert not await client.emit(Usage())
        with pytest.raises(DeliveryError, match="not taken, and may be emitted again") as told:
            await client.emit(Usage(), durable=True, timeout=0.01)
        # That would say that it is pending.
        assert not isinstance(told.value, FlushTimeout)
        until(lambda: len(daemon.events) == 3)
        daemon.resume_acks()
        assert await client.emit(Usage(), durable=True, timeout=FLUSH_SECONDS)
        assert len(daemon.events) == 4

    run(tmp_path, work, queue_events_max=3)


def test_several_loops_one_after_the_other(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s.sock") as daemon:
        client = AsyncClient("p", socket=daemon.path)
        for number in range(3):
            asyncio.run(client.emit(Usage(event_id=str(number)), durable=True))
        asyncio.run(client.close(FLUSH_SECONDS))
        assert [event["event_id"] for event in daemon.events] == ["0", "1", "2"]


def test_a_loop_that_is_gone_when_the_ack_comes(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s.sock") as daemon:
        daemon.acks = False
        client = AsyncClient("p", socket=daemon.path)
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(client.emit(Usage(), durable=True), 0.05))
        daemon.resume_acks()
        until(lambda: client.stats().acknowledged == 1)
        asyncio.run(client.emit(Usage(), durable=True))
        asyncio.run(client.close(FLUSH_SECONDS))


def test_disabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYMARK_DISABLED", "1")

    async def work(client: AsyncClient, daemon: FakeDaemon) -> None:
        assert not await client.emit(Usage())
        assert not await client.emit(Usage(), durable=True)
        await client.flush()
        with pytest.raises(ConnectError):
            await client.dump()

    assert not run(tmp_path, work).hellos
