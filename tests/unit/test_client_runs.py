"""Runs: what they record, how they nest, and that nothing given to them can hurt."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest

from tallymark.batching import Batcher
from tallymark.checking import check_event
from tallymark.events import EVENT_DEPTH_MAX, Event, EventBase, RunEnd, RunStart, RunStatus
from tallymark.runs import Run, current_run
from tests.derived import Count, Dollars, Text


class Fake:
    """A client's recording, kept in a list."""

    def __init__(self, incarnation: str = "one") -> None:
        self.incarnation = incarnation
        self.place = ("/work/spotter", "host-1", 4242)
        self.source = "test"
        self.outer_run_id = ""
        self.events: list[EventBase] = []
        self.ignored: list[str] = []
        self._ids = iter(range(1, 10_000))

    def new_id(self) -> str:
        return f"{self.incarnation}-{next(self._ids)}"

    def default_session(self) -> str:
        return "default-session"

    def environment_for(self, session_id: str, run_id: str) -> dict[str, str]:
        return {"session": session_id, "run": run_id}

    def put(self, event: EventBase) -> bool:
        self.events.append(event)
        return True

    def ignore(self, topic: str, message: str) -> None:
        assert message.startswith("tallymark")
        self.ignored.append(topic)

    @property
    def ends(self) -> list[RunEnd]:
        return [event for event in self.events if isinstance(event, RunEnd)]

    @property
    def end(self) -> RunEnd:
        (end,) = self.ends
        return end

    @property
    def starts(self) -> list[RunStart]:
        return [event for event in self.events if isinstance(event, RunStart)]


@pytest.fixture
def fake() -> Iterator[Fake]:
    yield Fake()
    assert current_run() is None


def test_a_run_is_recorded_when_it_begins_and_when_it_ends(fake: Fake) -> None:
    before = datetime.now(UTC)
    attrs = {"tool": "bash"}
    with Run(
        fake,
        "coding",
        ticket_key="AI-46",
        model="claude-sonnet-4-5",
        session_id="s-1",
        git_branch="main",
        attrs=attrs,
    ) as run:
        assert len(fake.events) == 1
        run.add_tokens(input_tokens=1000, output_tokens=2000)
        run.add_tokens(input_tokens=500, cache_read_tokens=400, cache_write_tokens=100)
        run.add_cost(0.25)
        run.add_cost(0.5)
        run.add_artifact("commit:abc123")
        run.add_artifact("pr:#42")
    after = datetime.now(UTC)
    start, end = fake.starts[0], fake.end
    assert end.started_at is not None
    assert end.ended_at is not None
    assert end.duration_seconds is not None
    assert before <= end.started_at <= end.ended_at <= after + timedelta(milliseconds=1)
    assert end.ended_at - end.started_at == timedelta(seconds=end.duration_seconds)
    assert end == RunEnd(
        event_id=run.run_id,
        at=end.ended_at,
        agent_name="coding",
        session_id="s-1",
        run_id=run.run_id,
        source="test",
        attrs=attrs,
        ticket_key="AI-46",
        started_at=end.started_at,
        ended_at=end.ended_at,
        duration_seconds=end.duration_seconds,
        input_tokens=1500,
        output_tokens=2000,
        cache_read_tokens=400,
        cache_write_tokens=100,
        estimated_cost_usd=0.75,
        cost_source="reported",
        artifacts=["commit:abc123", "pr:#42"],
        model_used="claude-sonnet-4-5",
        cwd="/work/spotter",
        git_branch="main",
        host="host-1",
    )
    assert start == RunStart(
        event_id=start.event_id,
        at=end.started_at,
        agent_name="coding",
        session_id="s-1",
        run_id=run.run_id,
        source="test",
        attrs=attrs,
        ticket_key="AI-46",
        model_used="claude-sonnet-4-5",
        cwd="/work/spotter",
        git_branch="main",
        host="host-1",
        pid=4242,
    )
    assert start.event_id != run.run_id


def test_a_run_need_not_be_announced(fake: Fake) -> None:
    with Run(fake, "coding", announce=False):
        assert fake.events == []
    assert fake.end.status == "success"


def test_without_a_cost_none_is_claimed(fake: Fake) -> None:
    with Run(fake, "coding"):
        pass
    assert fake.end.estimated_cost_usd is None
    assert fake.end.cost_source == ""
    with Run(fake, "coding") as run:
        run.add_cost(0)
    assert fake.ends[1].estimated_cost_usd == 0.0


def test_an_exception_makes_an_error_and_goes_on(fake: Fake) -> None:
    with pytest.raises(ValueError, match="boom"), Run(fake, "coding"):
        raise ValueError("boom")
    assert (fake.end.status, fake.end.error_message) == ("error", "ValueError: boom")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), "error", "KeyboardInterrupt"),
        (SystemExit(3), "error", "SystemExit: 3"),
        (SystemExit(0), "success", ""),
        (SystemExit(None), "success", ""),
        (GeneratorExit(), "success", ""),
        (ValueError("half \ud800 pair"), "error", "ValueError: half ? pair"),
    ],
)
def test_ends_of_other_kinds(fake: Fake, error: BaseException, status: str, message: str) -> None:
    with pytest.raises(type(error)), Run(fake, "coding"):
        raise error
    assert (fake.end.status, fake.end.error_message) == (status, message)


@pytest.mark.parametrize(("said", "recorded"), [("timeout", "timeout"), ("success", "error")])
def test_an_exception_after_a_status_was_set(fake: Fake, said: Any, recorded: str) -> None:
    def work() -> None:
        with Run(fake, "coding") as run:
            run.set_status(said)
            raise TimeoutError("too slow")

    with pytest.raises(TimeoutError):
        work()
    assert (fake.end.status, fake.end.error_message) == (recorded, "TimeoutError: too slow")


def test_an_error_without_an_exception(fake: Fake) -> None:
    with Run(fake, "coding") as run:
        run.set_error("tests fail")
    assert (fake.end.status, fake.end.error_message) == ("error", "tests fail")


def test_blocked_with_a_reason(fake: Fake) -> None:
    with Run(fake, "coding") as run:
        run.set_error("waits for review")
        run.set_status("blocked")
    assert (fake.end.status, fake.end.error_message) == ("blocked", "waits for review")


def test_usage_of_a_response_is_added_and_names_the_model(fake: Fake) -> None:
    usage = {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 5}
    with Run(fake, "coding") as run:
        run.add_usage({"model": "claude-haiku-4-5", "usage": usage})
        run.add_usage({"model": "another", "usage": usage})
    end = fake.end
    assert (end.input_tokens, end.output_tokens, end.cache_read_tokens) == (200, 10, 180)
    assert end.model_used == "claude-haiku-4-5"


def test_a_given_model_stands(fake: Fake) -> None:
    with Run(fake, "coding", model="given") as run:
        run.add_usage({"model": "other", "usage": {"input_tokens": 1, "output_tokens": 1}})
    assert fake.end.model_used == "given"


@pytest.mark.parametrize(
    ("method", "args", "kwargs", "topic"),
    [
        ("add_tokens", (), {"input_tokens": -1}, "tokens"),
        ("add_tokens", (), {"input_tokens": "5"}, "tokens"),
        ("add_tokens", (), {"output_tokens": 5.5}, "tokens"),
        ("add_tokens", (), {"output_tokens": None}, "tokens"),
        ("add_tokens", (), {"cache_read_tokens": True}, "tokens"),
        ("add_tokens", (), {"input_tokens": 10**13}, "tokens"),
        ("add_usage", (None,), {}, "usage"),
        ("add_usage", ({"input_tokens": "x"},), {}, "usage"),
        ("add_cost", (-1,), {}, "cost"),
        ("add_cost", (float("nan"),), {}, "cost"),
        ("add_cost", ("1",), {}, "cost"),
        ("add_cost", (10**7,), {}, "cost"),
        ("add_artifact", ("",), {}, "artifact"),
        ("add_artifact", (None,), {}, "artifact"),
        ("set_status", ("splendid",), {}, "status"),
        ("set_status", (["error"],), {}, "status"),
    ],
)
def test_what_makes_no_sense_is_counted_and_changes_nothing(
    fake: Fake, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], topic: str
) -> None:
    with Run(fake, "coding") as run:
        run.add_tokens(input_tokens=7)
        getattr(run, method)(*args, **kwargs)
    assert fake.ignored == [topic]
    end = fake.end
    assert (end.input_tokens, end.output_tokens, end.estimated_cost_usd) == (7, 0, None)
    assert (end.status, end.artifacts) == ("success", [])


def test_more_cached_tokens_than_input_cost_only_the_cache_figures(fake: Fake) -> None:
    with Run(fake, "coding") as run:
        run.add_tokens(input_tokens=10, output_tokens=5, cache_read_tokens=11)
    end = fake.end
    assert (end.input_tokens, end.output_tokens, end.cache_read_tokens) == (10, 5, 0)
    assert fake.ignored == ["cache"]


def test_artifacts_are_bounded_so_that_the_run_is_not_refused(fake: Fake) -> None:
    with Run(fake, "coding") as run:
        for number in range(1100):
            run.add_artifact(f"file:{number}")
        run.add_artifact("file:" + "x" * 50_000)
    assert len(fake.end.artifacts) == 1000
    assert len(fake.ignored) == 101
    with Run(fake, "coding") as run:
        for number in range(20):
            run.add_artifact(f"file:{number}" + "x" * 4000)
    assert 3 < len(fake.ends[1].artifacts) < 10


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "attrs",
    [
        {"x": object()},
        {"x": "y" * 20_000},
        ["no", "dict"],
        "text",
        {1j: 1},
        {1: 2},
        {None: 2},
        {"m": {None: 2}},
        {"m": {(1, 2): 2}},
        nested(EVENT_DEPTH_MAX),
        nested(10_000),
    ],
)
def test_attrs_that_cannot_travel_are_left_out(fake: Fake, attrs: Any) -> None:
    with Run(fake, "coding", attrs=attrs):
        pass
    assert fake.end.attrs is None
    assert fake.ignored == ["attrs"]


@pytest.mark.parametrize("attrs", [{}, {"m": {1: 2}}, {"x": {1}}, nested(EVENT_DEPTH_MAX - 1)])
def test_attrs_that_the_daemon_takes_are_kept(fake: Fake, attrs: Any) -> None:
    with Run(fake, "coding", attrs=attrs):
        pass
    for event in fake.events:
        check_event(msgspec.msgpack.encode(event), "p")
        assert event.attrs is not None
    assert fake.ignored == []


def test_attrs_are_those_of_the_beginning(fake: Fake) -> None:
    attrs: dict[str, Any] = {"tool": "bash", "tags": [1]}
    with Run(fake, "coding", attrs=attrs):
        attrs["later"] = "x"
        attrs["tags"].append(2)
    assert fake.end.attrs == {"tool": "bash", "tags": [1]}


@pytest.mark.parametrize(
    ("name", "expected"), [("", "unnamed"), (None, "unnamed"), (5, "5"), ("x" * 600, None)]
)
def test_names_of_all_kinds(fake: Fake, name: Any, expected: str | None) -> None:
    with Run(fake, name, ticket_key=None, model=5, session_id=7):  # type: ignore[arg-type]
        pass
    end = fake.end
    assert len(end.agent_name) <= 512
    if expected is not None:
        assert end.agent_name == expected
    assert (end.ticket_key, end.model_used, end.session_id) == ("", "5", "7")


def test_values_of_derived_types_are_recorded(fake: Fake) -> None:
    """What refuses to be encoded would take the run and all its tokens with it."""
    attrs = {"tool": Text("bash"), Text("cost"): Dollars(0.5)}
    run = Run(
        fake,
        Text("coding"),
        ticket_key=Text("AI-1"),
        model=Text("gpt-5"),
        session_id=Text("s-1"),
        git_branch=Text("main"),
        attrs=attrs,
    )
    with run:
        run.add_tokens(input_tokens=Count(7), output_tokens=Count(5))
        run.add_cost(Dollars(0.25))
        run.add_artifact(Text("pr:#1"))
        run.set_error(Text("no"))
        run.set_status(cast(RunStatus, Text("blocked")))
    arrays, lost = Batcher(100).encode(fake.events)
    assert lost == []
    start, end = msgspec.msgpack.decode(arrays[0][0], type=list[Event])
    assert isinstance(start, RunStart)
    assert isinstance(end, RunEnd)
    for event in (start, end):
        assert (event.agent_name, event.ticket_key) == ("coding", "AI-1")
        assert (event.session_id, event.model_used, event.git_branch) == ("s-1", "gpt-5", "main")
        assert event.attrs == {"tool": "bash", "cost": 0.5}
    assert (end.input_tokens, end.output_tokens, end.estimated_cost_usd) == (7, 5, 0.25)
    assert (end.artifacts, end.error_message, end.status) == (["pr:#1"], "no", "blocked")


# Nesting.


def test_a_nested_run_is_linked_and_shares_the_session(fake: Fake) -> None:
    with Run(fake, "outer", session_id="s-9") as outer:
        assert current_run() is outer
        with Run(fake, "inner") as inner:
            assert current_run() is inner
        with Run(fake, "other", session_id="s-10") as other:
            pass
        assert current_run() is outer
    ends = {end.agent_name: end for end in fake.ends}
    assert ends["inner"].parent_run_id == outer.run_id
    assert (inner.session_id, ends["inner"].session_id) == ("s-9", "s-9")
    assert (other.session_id, ends["other"].parent_run_id) == ("s-10", outer.run_id)
    assert ends["outer"].parent_run_id == ""


def test_a_run_of_another_client_is_linked_but_keeps_its_own_session(fake: Fake) -> None:
    other = Fake("two")
    with Run(fake, "outer", session_id="s-9") as outer, Run(other, "inner"):
        pass
    assert other.end.parent_run_id == outer.run_id
    assert other.end.session_id == "default-session"


def test_a_top_level_run_belongs_to_the_process_that_started_this_one(fake: Fake) -> None:
    fake.outer_run_id = "r-of-parent"
    with Run(fake, "outer") as outer, Run(fake, "inner"):
        pass
    inner, top = fake.ends
    assert top.parent_run_id == "r-of-parent"
    assert inner.parent_run_id == outer.run_id


def test_a_childs_environment(fake: Fake) -> None:
    with Run(fake, "coding", session_id="s-1") as run:
        assert run.environment() == {"session": "s-1", "run": run.run_id}


def test_threads_have_runs_of_their_own(fake: Fake) -> None:
    seen: list[Run | None] = []
    with Run(fake, "outer"):
        thread = threading.Thread(target=lambda: seen.append(current_run()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_tasks_of_one_loop_do_not_mix(fake: Fake) -> None:
    async def work(name: str) -> None:
        async with Run(fake, name) as outer:
            await asyncio.sleep(0)
            async with Run(fake, f"{name}-inner") as inner:
                await asyncio.sleep(0)
                assert current_run() is inner
            assert current_run() is outer

    async def main() -> None:
        await asyncio.gather(*(work(str(n)) for n in range(10)))

    asyncio.run(main())
    ends = {end.agent_name: end for end in fake.ends}
    for n in range(10):
        assert ends[f"{n}-inner"].parent_run_id == ends[str(n)].run_id


def test_a_run_left_in_another_context_still_ends(fake: Fake) -> None:
    run = Run(fake, "coding")
    contextvars.copy_context().run(run.__enter__)
    run.__exit__(None, None, None)
    assert fake.end.status == "success"


def test_a_run_that_was_open_when_the_process_forked_is_the_parents(fake: Fake) -> None:
    with Run(fake, "coding") as run:
        fake.incarnation = "the child's"
        with Run(fake, "in the child"):
            pass
    assert [end.agent_name for end in fake.ends] == ["in the child"]
    assert fake.end.parent_run_id == run.run_id


TOLD: list[Callable[[Run], None]] = [
    lambda run: run.add_tokens(input_tokens=1000),
    lambda run: run.add_usage({"input_tokens": 5, "output_tokens": 5}),
    lambda run: run.add_cost(1.0),
    lambda run: run.add_artifact("commit:late"),
    lambda run: run.set_status("timeout"),
    lambda run: run.set_error("late"),
]


def test_what_is_told_to_a_run_that_has_ended_is_counted(fake: Fake) -> None:
    with Run(fake, "coding") as run:
        run.add_artifact("commit:early")
    before = msgspec.msgpack.encode(fake.end)
    for tell in TOLD:
        tell(run)
    assert fake.ignored == ["not_open"] * len(TOLD)
    assert msgspec.msgpack.encode(fake.end) == before
    with run:
        pass
    assert (fake.ends[1].input_tokens, fake.ends[1].status) == (0, "success")


def test_what_a_forked_child_tells_its_parents_run_is_counted(fake: Fake) -> None:
    with Run(fake, "coding") as run:
        fake.incarnation = "the child's"
        for tell in TOLD:
            tell(run)
        assert fake.ignored == ["not_open"] * len(TOLD)
        fake.incarnation = "one"
    assert (fake.end.input_tokens, fake.end.status, fake.end.artifacts) == (0, "success", [])


def test_what_is_told_before_it_begins_is_recorded(fake: Fake) -> None:
    run = Run(fake, "coding")
    run.add_tokens(input_tokens=5)
    with run:
        run.add_tokens(input_tokens=6)
    assert (fake.end.input_tokens, fake.ignored) == (11, [])


# Used again, and as decorators.


def test_the_same_object_again_is_another_run(fake: Fake) -> None:
    run = Run(fake, "coding")
    planned = run.run_id
    with run:
        run.add_tokens(input_tokens=5)
        run.set_error("no")
    with run:
        pass
    first, second = fake.ends
    assert first.run_id == planned
    assert second.run_id != first.run_id
    assert (second.input_tokens, second.status, second.error_message) == (0, "success", "")


def test_entered_again_while_open_it_stays_one_run(fake: Fake) -> None:
    with Run(fake, "coding") as run:
        with run as same:
            same.add_tokens(input_tokens=5)
        assert fake.ends == []
        run.add_tokens(input_tokens=6)
    assert (fake.end.input_tokens, fake.end.run_id) == (11, run.run_id)
    assert fake.ignored == ["entered"]


def test_left_without_being_entered_it_records_nothing(fake: Fake) -> None:
    run = Run(fake, "coding")
    run.__exit__(None, None, None)
    assert fake.events == []
    with run:
        pass
    assert fake.end.run_id == run.run_id


def test_a_function_is_a_run_for_each_call(fake: Fake) -> None:
    @Run(fake, "coding", ticket_key="AI-1", announce=False)
    def double(number: int, *, plus: int = 0) -> int:
        """Doubles."""
        run = current_run()
        assert run is not None
        run.add_tokens(input_tokens=number)
        return 2 * number + plus

    assert [double(1), double(2, plus=1)] == [2, 5]
    assert (double.__name__, double.__doc__) == ("double", "Doubles.")
    assert [end.input_tokens for end in fake.ends] == [1, 2]
    assert len({end.run_id for end in fake.ends}) == 2
    assert {end.ticket_key for end in fake.ends} == {"AI-1"}


def test_a_function_that_calls_itself_nests(fake: Fake) -> None:
    @Run(fake, "coding")
    def down(depth: int) -> None:
        if depth:
            down(depth - 1)

    down(2)
    inner, middle, outer = fake.ends
    assert inner.parent_run_id == middle.run_id
    assert middle.parent_run_id == outer.run_id


def test_a_functions_exception(fake: Fake) -> None:
    @Run(fake, "coding")
    def fail() -> None:
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail()
    assert fake.end.status == "error"


def test_a_coroutine_function_is_a_run_while_it_is_awaited(fake: Fake) -> None:
    @Run(fake, "coding")
    async def work(number: int) -> int:
        await asyncio.sleep(0)
        assert current_run() is not None
        return number

    async def main() -> tuple[int, int]:
        assert fake.events == []
        return await asyncio.gather(work(1), work(2))

    assert list(asyncio.run(main())) == [1, 2]
    assert len(fake.ends) == 2


def test_a_generator_is_a_run_from_its_first_step_to_its_last(fake: Fake) -> None:
    @Run(fake, "coding")
    def work() -> Iterator[int]:
        run = current_run()
        assert run is not None
        yield 1
        run.add_tokens(input_tokens=5)
        raise ValueError("boom")

    steps = work()
    assert fake.events == []
    assert next(steps) == 1
    with pytest.raises(ValueError):
        next(steps)
    assert (fake.end.input_tokens, fake.end.status) == (5, "error")
    assert fake.end.error_message == "ValueError: boom"


def test_a_cancelled_coroutine_is_an_error(fake: Fake) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        @Run(fake, "coding")
        async def wait() -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert (fake.end.status, fake.end.error_message) == ("error", "CancelledError")


def test_nothing_is_logged_by_a_run_itself(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Run(fake, "coding") as run:
        run.set_status("nonsense")  # type: ignore[arg-type]
    assert not caplog.messages
