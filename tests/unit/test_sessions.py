"""Sessions as blocks and decorators: what belongs to them, and how they end."""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tallymark import AsyncClient, Client, current_run
from tests.derived import Text
from tests.fake_daemon import FakeDaemon

SECONDS = 60.0


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    for name in ("SESSION_ID", "PARENT_RUN_ID"):
        monkeypatch.delenv(f"TALLYMARK_{name}", raising=False)
    with FakeDaemon(tmp_path / "s.sock") as running:
        yield running
        assert running.wrong == []


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client("p", socket=daemon.path, exit_timeout_seconds=SECONDS) as made:
        yield made


def events(client: Client, daemon: FakeDaemon, kind: str) -> list[dict[str, Any]]:
    client.flush(SECONDS)
    return [event for event in daemon.events if event["type"] == kind]


def sessions_of_runs(client: Client, daemon: FakeDaemon) -> dict[str, str]:
    return {each["agent_name"]: each["session_id"] for each in events(client, daemon, "run.end")}


def test_a_block_is_a_session_and_runs_belong_to_it(daemon: FakeDaemon, client: Client) -> None:
    with client.track_session("initializer") as session:
        assert session.session_id
        with client.track_agent("inside"):
            pass
        with client.track_agent("elsewhere", session_id="s-9"):
            pass
    with client.track_agent("after"):
        pass
    begin, own = events(client, daemon, "session.start")
    assert (begin["session_id"], begin["session_type"]) == (session.session_id, "initializer")
    (end,) = events(client, daemon, "session.end")
    assert end["session_id"] == session.session_id
    assert sessions_of_runs(client, daemon) == {
        "inside": session.session_id, "elsewhere": "s-9", "after": own["session_id"]
    }  # fmt: skip


def test_the_innermost_of_session_and_run_counts(daemon: FakeDaemon, client: Client) -> None:
    with client.track_session() as outer, client.track_agent("a"):
        with client.track_agent("b"):
            pass
        with client.track_session() as inner:
            with client.track_agent("c"), client.track_agent("d"):
                pass
            with client.track_agent("e", session_id="s-9"), client.track_agent("f"):
                pass
        with client.track_agent("g"):
            pass
    assert sessions_of_runs(client, daemon) == {
        "a": outer.session_id, "b": outer.session_id, "c": inner.session_id,
        "d": inner.session_id, "e": "s-9", "f": "s-9", "g": outer.session_id,
    }  # fmt: skip


def test_a_session_of_another_client_is_not_ours(daemon: FakeDaemon, client: Client) -> None:
    with (
        Client("q", socket=daemon.path, exit_timeout_seconds=SECONDS) as other,
        other.track_session() as theirs,
        client.track_session() as ours,
        other.track_agent("theirs") as their_run,
        client.track_agent("ours") as our_run,
    ):
        pass
    assert our_run.session_id == ours.session_id
    assert their_run.session_id == theirs.session_id


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("boom"), "error"),
        (KeyboardInterrupt(), "error"),
        (SystemExit(1), "error"),
        (SystemExit(0), None),
        (GeneratorExit(), None),
    ],
)
def test_an_exception_ends_it_as_an_error_and_goes_on(
    daemon: FakeDaemon, client: Client, error: BaseException, status: str | None
) -> None:
    with pytest.raises(type(error)), client.track_session():
        raise error
    (end,) = events(client, daemon, "session.end")
    assert end.get("status") == status  # complete is the default


def test_it_may_be_continued(daemon: FakeDaemon, client: Client) -> None:
    with client.track_session() as session:
        session.set_status(Text("continue"))  # type: ignore[arg-type]
        session.set_status("splendid")  # type: ignore[arg-type]
    (end,) = events(client, daemon, "session.end")
    assert end["status"] == "continue"
    assert client.stats().ignored == {"session_status": 1}
    session.set_status("error")
    assert client.stats().ignored == {"session_status": 1, "not_open": 1}


def test_the_same_object_again_is_another_session(daemon: FakeDaemon, client: Client) -> None:
    session = client.track_session()
    session.__exit__(None, None, None)
    with session:
        first = session.session_id
        with session:
            assert session.session_id == first
        session.set_status("error")
    with session:
        pass
    starts = [each["session_id"] for each in events(client, daemon, "session.start")]
    assert starts == [first, session.session_id]
    ends = [each.get("status") for each in events(client, daemon, "session.end")]
    assert ends == ["error", None]


def test_a_function_is_a_session_for_each_call(daemon: FakeDaemon, client: Client) -> None:
    @client.track_session("continuation")
    @client.track_agent("coding")
    def work(number: int) -> int:
        """Works."""
        assert current_run() is not None
        return 2 * number

    assert [work(1), work(2)] == [2, 4]
    assert (work.__name__, work.__doc__) == ("work", "Works.")
    starts = [each["session_id"] for each in events(client, daemon, "session.start")]
    assert len(set(starts)) == 2
    assert [each["session_id"] for each in events(client, daemon, "run.end")] == starts


def test_a_childs_environment(daemon: FakeDaemon, client: Client) -> None:
    with client.track_session() as session:
        found = session.environment()
        assert found["TALLYMARK_SESSION_ID"] == session.session_id
        assert found["TALLYMARK_PARENT_RUN_ID"] == ""
        with client.track_agent("a") as run:
            assert session.environment()["TALLYMARK_PARENT_RUN_ID"] == run.run_id


def test_left_in_another_context_it_still_ends(daemon: FakeDaemon, client: Client) -> None:
    session = client.track_session()
    contextvars.copy_context().run(session.__enter__)
    session.__exit__(None, None, None)
    assert len(events(client, daemon, "session.end")) == 1


def test_a_session_that_was_open_in_a_fork_is_the_parents(
    daemon: FakeDaemon, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client.track_session():
        monkeypatch.setattr(client._delivery, "producer", f"the child's of {os.getpid()}")
    assert events(client, daemon, "session.end") == []


def test_with_asyncio_sessions_of_tasks_do_not_mix(daemon: FakeDaemon) -> None:
    async def main() -> None:
        async with AsyncClient("p", socket=daemon.path, exit_timeout_seconds=SECONDS) as client:

            async def work(name: str) -> None:
                async with client.track_session("initializer") as session:
                    await asyncio.sleep(0)
                    async with client.track_agent(name) as run:
                        await asyncio.sleep(0)
                    assert run.session_id == session.session_id

            @client.track_session()
            async def decorated() -> None:
                await asyncio.sleep(0)
                async with client.track_agent("decorated"):
                    pass

            await asyncio.gather(*(work(str(number)) for number in range(5)), decorated())
            await client.flush(SECONDS)

    asyncio.run(main())
    starts = [each["session_id"] for each in daemon.events if each["type"] == "session.start"]
    ends = [each["session_id"] for each in daemon.events if each["type"] == "session.end"]
    runs = [each["session_id"] for each in daemon.events if each["type"] == "run.end"]
    assert len(set(starts)) == 6
    assert sorted(starts) == sorted(ends) == sorted(runs)
