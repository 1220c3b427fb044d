from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tallymark.protocol.messages import Reason
from tallymark.record import Kind
from tallymarkd.server.desk import Condition, Desk
from tallymarkd.server.http import BODY_BYTES_MAX, HEADER_BYTES_MAX, HttpConversation
from tests.conversation_parts import FakeAnswers, FakeTransport, make_desk
from tests.daemon_parts import UID, Bench, publish, run_end, until

EVENTS = "/v1/events?project=spotter"
NDJSON = {"Content-Type": "application/x-ndjson"}


@dataclass
class Response:
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    """A plain request with a length."""
    fields = {"Host": "localhost", **(headers or {})}
    if body:
        fields["Content-Length"] = str(len(body))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {each}" for name, each in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def split_responses(data: bytes, *, head: bool = False) -> list[Response]:
    """Responses in a stream. ``head``: they have no bodies."""
    found: list[Response] = []
    while data:
        top, data = data.split(b"\r\n\r\n", 1)
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        length = 0 if head else int(headers.get("content-length", 0))
        body, data = data[:length], data[length:]
        assert len(body) == length, "the response is cut short"
        _, status, reason = first.split(" ", 2)
        found.append(Response(int(status), reason, headers, body))
    return found


class Talk:
    """One HTTP conversation over a fake transport."""

    def __init__(self, desk: Desk) -> None:
        ids = iter(range(1, 10_000))
        self.closed: list[HttpConversation] = []
        self.conversation = HttpConversation(
            desk, UID, self.closed.append, lambda: f"made-{next(ids)}"
        )
        self.transport = FakeTransport()
        self.conversation.connection_made(self.transport)
        self._read = 0

    def send(self, data: bytes) -> None:
        assert self.transport.is_reading(), "a paused transport gives no data"
        self.conversation.data_received(data)

    def says(self, *, head: bool = False) -> list[Response]:
        data = bytes(self.transport.written[self._read :])
        self._read = len(self.transport.written)
        return split_responses(data, head=head)

    def ask(self, *args: Any, **options: Any) -> Response:
        """Send a request that is answered at once."""
        self.send(request(*args, **options))
        (response,) = self.says()
        return response

    async def turn(self) -> None:
        """Let the conversation go on to the next request."""
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench() as found:
        yield found


def run(test: Callable[[], Any]) -> None:
    async def main() -> None:
        await test()

    asyncio.run(main())


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


# Events.


def test_one_event_is_answered_when_it_is_durable(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))

        talk.send(request("POST", EVENTS, json.dumps(run_end(1)).encode()))
        assert talk.says() == []
        assert not talk.transport.reading
        bench.settle()

        (response,) = talk.says()
        assert response.status == 200
        assert response.headers["content-type"] == "application/json"
        assert response.json == {"stored": 1, "duplicate": 0, "event_ids": ["run-1"]}
        assert bench.events_of() == ["run-1"]
        assert talk.transport.reading
        assert not talk.transport.closed

    run(test)


def test_the_same_event_again_is_a_duplicate(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        for duplicate in (0, 1, 1):
            talk.send(request("POST", EVENTS, json.dumps(run_end(1)).encode()))
            bench.settle()
            (response,) = talk.says()
            assert response.json["duplicate"] == duplicate

    run(test)


def test_an_event_without_an_id_is_told_which_it_got(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        talk.send(request("POST", EVENTS, line(type="usage") + line(type="usage"), NDJSON))
        bench.settle()

        assert talk.says()[0].json == {
            "stored": 2,
            "duplicate": 0,
            "event_ids": ["made-1", "made-2"],
        }

    run(test)


@pytest.mark.parametrize(
    "content_type", ["application/x-ndjson", "Application/X-NDJSON; charset=utf-8"]
)
def test_many_events_of_several_projects(bench: Bench, content_type: str) -> None:
    async def test() -> None:
        body = b"".join(line(**run_end(number, project=f"p{number % 2}")) for number in range(1, 6))
        talk = Talk(make_desk(bench))

        talk.send(request("POST", "/v1/events", body, {"Content-Type": content_type}))
        bench.settle()

        (response,) = talk.says()
        assert (response.status, response.json["stored"]) == (200, 5)
        assert bench.events_of("p0") == ["run-2", "run-4"]
        assert bench.events_of("p1") == ["run-1", "run-3", "run-5"]

    run(test)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (line(type="usage", input_tokens=-1), "invalid_field"),
        (line(type="usage", cache_read_tokens=1), "cache_exceeds_input"),
        (line(type="usage", event_id="i" * 513), "id_too_long"),
        (line(type="run.end"), "missing_field"),
        (line(type="usage", source="x" * 70_000), "too_large"),
        (line(agent_name="coding"), "invalid_field"),
        (line(type=[]), "invalid_field"),
        (b"{oops\n", "malformed"),
        (line(type="usage", project=7), "invalid_field"),
        (line(type="usage", attrs={"deep": [[[[{}]]]], "n": 2**70}), "malformed"),
    ],
)
def test_one_bad_event_and_nothing_is_stored(bench: Bench, bad: bytes, code: str) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        good = line(type="usage", dedupe_key="k1")

        response = talk.ask("POST", EVENTS, good + good + bad + good, NDJSON)

        assert response.status == 422
        assert "nothing was stored" in response.json["error"]
        (fault,) = response.json["faults"]
        assert (fault["index"], fault["code"]) == (2, code)
        assert fault["message"]
        bench.settle()
        assert bench.log.of_kind(Kind.BATCH, Kind.TOMBSTONE) == []

        await talk.turn()
        talk.send(request("POST", EVENTS, good, NDJSON))
        bench.settle()
        assert talk.says()[0].json["stored"] == 1

    run(test)


def test_every_fault_is_named_with_its_index(bench: Bench) -> None:
    async def test() -> None:
        body = b"".join(
            [
                line(type="usage", project="a", input_tokens=-1),
                line(type="usage", project="b"),
                line(type="usage", project="b", input_tokens=-1),
                line(type="session.end", project="a"),
            ]
        )

        response = Talk(make_desk(bench)).ask("POST", "/v1/events", body, NDJSON)

        found = {(fault["index"], fault["code"]) for fault in response.json["faults"]}
        assert found == {(0, "invalid_field"), (2, "invalid_field"), (3, "missing_field")}

    run(test)


def test_an_event_needs_a_project(bench: Bench) -> None:
    async def test() -> None:
        response = Talk(make_desk(bench)).ask("POST", "/v1/events", line(type="usage"))

        assert response.status == 422
        assert response.json["faults"][0]["code"] == "missing_field"
        assert "project" in response.json["faults"][0]["message"]

    run(test)


def test_a_post_without_a_body_is_refused(bench: Bench) -> None:
    async def test() -> None:
        response = Talk(make_desk(bench)).ask("POST", EVENTS)

        assert response.status == 422
        assert response.json["faults"][0]["code"] == "malformed"

    run(test)


def test_a_chunked_body_is_read(bench: Bench) -> None:
    async def test() -> None:
        body = json.dumps(run_end(1)).encode()
        talk = Talk(make_desk(bench))
        talk.send(request("POST", EVENTS, headers={"Transfer-Encoding": "chunked"}))
        for part in (body[:10], body[10:]):
            talk.send(b"%x\r\n%s\r\n" % (len(part), part))
        talk.send(b"0\r\n\r\n")
        bench.settle()

        assert talk.says()[0].json["stored"] == 1

    run(test)


def test_expect_100_continue_is_answered_before_the_body(bench: Bench) -> None:
    async def test() -> None:
        body = json.dumps(run_end(1)).encode()
        whole = request("POST", EVENTS, body, {"Expect": "100-continue"})
        talk = Talk(make_desk(bench))

        talk.send(whole[: -len(body)])
        assert talk.transport.written.startswith(b"HTTP/1.1 100 ")
        talk.says()
        talk.send(body)
        bench.settle()

        assert talk.says()[0].status == 200

    run(test)


# When it cannot be.


def test_when_the_disk_is_full_the_answer_is_503_and_the_next_try_stores_once(
    bench: Bench,
) -> None:
    """Nobody but HTTP speaks to this daemon: it has to try to find out that there is room."""

    async def test() -> None:
        talk = Talk(make_desk(bench))
        body = json.dumps(run_end(1)).encode()
        bench.log.full = True
        for _ in range(2):
            talk.send(request("POST", EVENTS, body))
            bench.settle()
            (response,) = talk.says()
            assert response.status == 503
            assert "No space left" in response.json["error"]
            assert int(response.headers["retry-after"]) > 0
            await talk.turn()

        bench.log.full = False
        talk.send(request("POST", EVENTS, body))
        bench.settle()

        (response,) = talk.says()
        assert (response.status, response.json["stored"]) == (200, 1)
        assert bench.events_of() == ["run-1"]

    run(test)


def test_a_request_to_two_projects_is_answered_once_when_the_disk_is_full(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        bench.log.full = True
        body = line(**run_end(1, project="a")) + line(**run_end(2, project="b"))

        talk.send(request("POST", "/v1/events", body, NDJSON))
        bench.settle()

        assert [response.status for response in talk.says()] == [503]

    run(test)


def test_an_overloaded_daemon_takes_no_events() -> None:
    async def test() -> None:
        with Bench(unacknowledged_total_bytes_max=10) as bench:
            alice = bench.join()
            bench.engine.publish(alice.producer, alice.link, publish(1, run_end(1)), 10)

            response = Talk(make_desk(bench)).ask("POST", EVENTS, line(type="usage"))

            assert (response.status, "retry-after" in response.headers) == (503, True)

    run(test)


def test_one_post_cannot_bring_more_projects_than_there_is_room_for() -> None:
    async def test() -> None:
        with Bench(projects_max=2) as bench:
            talk = Talk(make_desk(bench))
            body = b"".join(line(**run_end(n, project=f"p{n}")) for n in range(3))

            assert talk.ask("POST", EVENTS, body, NDJSON).status == 503

            bench.settle()
            assert not bench.books.projects

    run(test)


def test_at_the_limit_of_projects_a_new_one_comes_later() -> None:
    async def test() -> None:
        with Bench(projects_max=1) as bench:
            talk = Talk(make_desk(bench))
            talk.send(request("POST", EVENTS, line(**run_end(1))))
            bench.settle()
            assert talk.says()[0].status == 200
            await talk.turn()

            body = line(**run_end(2)) + line(**run_end(3, project="other"))
            assert talk.ask("POST", EVENTS, body, NDJSON).status == 503
            await talk.turn()
            talk.send(request("POST", EVENTS, line(**run_end(2))))
            bench.settle()

            assert talk.says()[0].status == 200
            assert bench.events_of() == ["run-1", "run-2"]

    run(test)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_refused(bench: Bench, announced: bool) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        if announced:
            fields = {"Content-Length": str(BODY_BYTES_MAX + 1), "Expect": "100-continue"}
            talk.send(request("POST", EVENTS, headers=fields))
        else:
            talk.send(request("POST", EVENTS, headers={"Transfer-Encoding": "chunked"}))
            for _ in range(17):
                if talk.transport.closed:
                    break
                talk.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")

        (response,) = talk.says()
        assert response.status == 413
        assert str(BODY_BYTES_MAX) in response.json["error"]
        assert response.headers["connection"] == "close"
        assert talk.transport.closed

    run(test)


def test_a_body_of_the_largest_size_is_taken(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        one = line(type="odd", event_id="x", text="y" * 900)
        body = one * (BODY_BYTES_MAX // len(one))
        body += b" " * (BODY_BYTES_MAX - len(body))

        talk.send(request("POST", EVENTS, body, NDJSON))
        bench.settle()

        (response,) = talk.says()
        assert (response.status, response.json["stored"]) == (200, 1)
        assert response.json["duplicate"] == BODY_BYTES_MAX // len(one) - 1

    run(test)


# Reading.


def test_the_state_of_a_project(bench: Bench) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        answers.states["my project"] = b'{"project_name":"my project"}'
        talk = Talk(make_desk(bench, answers))

        response = talk.ask("GET", "/v1/state?project=my%20project")
        assert (response.status, response.body) == (200, answers.states["my project"])
        response = talk.ask("GET", "/v1/state?project=nowhere")
        assert (response.status, "nowhere" in response.json["error"]) == (404, True)
        assert response.reason == "Not Found"
        response = talk.ask("GET", "/v1/state")
        assert (response.status, "?project=" in response.json["error"]) == (400, True)

    run(test)


@pytest.mark.parametrize(
    ("status", "taking", "code"),
    [("ok", True, 200), ("degraded", True, 200), ("degraded", False, 503), ("failing", False, 503)],
)
def test_health_is_200_while_events_are_taken(
    bench: Bench, status: Any, taking: bool, code: int
) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        reasons = [] if status == "ok" else [Reason(code="why", message="m", remedy="r")]
        answers.condition = Condition(status, reasons, {"version": "9"}, taking)

        response = Talk(make_desk(bench, answers)).ask("GET", "/v1/health")

        assert response.status == code
        assert response.json == {
            "status": status,
            "reasons": [{"code": "why", "message": "m", "remedy": "r"}] if reasons else [],
            "version": "9",
        }

    run(test)


@pytest.mark.parametrize("deep", ["1", "true", "yes"])
def test_deep_health_waits_for_the_probe(bench: Bench, deep: str) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        talk = Talk(make_desk(bench, answers))
        talk.send(request("GET", f"/v1/health?deep={deep}"))
        assert talk.says() == []

        answers.waiting[0](answers.condition)

        assert [response.status for response in talk.says()] == [200]

    run(test)


def test_head_is_get_without_the_body(bench: Bench) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        answers.states["spotter"] = b'{"a":1}'
        talk = Talk(make_desk(bench, answers))

        talk.send(request("HEAD", "/v1/state?project=spotter"))
        (response,) = talk.says(head=True)
        assert (response.status, response.headers["content-length"]) == (200, "7")
        talk.send(request("HEAD", EVENTS))
        assert talk.says(head=True)[0].status == 405
        assert talk.ask("GET", "/v1/state?project=spotter").body == b'{"a":1}'

    run(test)


@pytest.mark.parametrize(
    ("method", "target", "status", "allow"),
    [
        ("GET", EVENTS, 405, "POST"),
        ("PUT", EVENTS, 405, "POST"),
        ("POST", "/v1/health", 405, "GET"),
        ("DELETE", "/v1/state?project=spotter", 405, "GET"),
        ("OPTIONS", "*", 404, None),
        ("GET", "/", 404, None),
        ("GET", "/v1/events/", 404, None),
        ("GET", "/v2/health", 404, None),
        ("CONNECT", "elsewhere:80", 404, None),
    ],
)
def test_what_is_not_there(
    bench: Bench, method: str, target: str, status: int, allow: str | None
) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))

        response = talk.ask(method, target)

        assert response.status == status
        assert response.headers.get("allow") == allow
        assert "cannot " in response.json["error"]

    run(test)


@pytest.mark.parametrize(
    "target", ["//[", "//[::1", "http://[x/v1/health", "/%ff%00", "/v1/health?%ff=%"]
)
def test_an_odd_address_is_no_reason_to_break(bench: Bench, target: str) -> None:
    async def test() -> None:
        assert Talk(make_desk(bench)).ask("GET", target).status in (200, 400, 404)

    run(test)


def test_a_path_may_be_written_in_other_ways(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))

        assert talk.ask("GET", "/v1/%68ealth").status == 200
        assert talk.ask("GET", "http://localhost/v1/health?deep=no").status == 200

    run(test)


# One connection, many requests.


def test_a_connection_is_kept_for_the_next_request(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        for number in range(5):
            assert talk.ask("GET", "/v1/health").status == 200
            await talk.turn()
            talk.send(request("POST", EVENTS, line(**run_end(number))))
            bench.settle()
            assert talk.says()[0].status == 200
            await talk.turn()
        assert not talk.transport.closed
        assert talk.transport.reading

    run(test)


def test_requests_in_one_go_are_answered_in_their_order(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        posts = [request("POST", EVENTS, line(**run_end(number))) for number in range(3)]
        health = request("GET", "/v1/health")
        talk.send(b"".join([health, posts[0], posts[1], health, posts[2], health]))

        answered: list[Response] = []
        for _ in posts:
            bench.settle()
            await talk.turn()
            answered += talk.says()

        kinds = ["stored" if "stored" in each.json else "health" for each in answered]
        assert kinds == ["health", "stored", "stored", "health", "stored", "health"]
        assert bench.events_of() == ["run-0", "run-1", "run-2"]

    run(test)


def test_a_long_row_of_requests_is_no_deep_stack(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        talk.send(request("GET", "/v1/health") * 2000)
        await talk.turn()

        assert len(talk.says()) == 2000

    run(test)


@pytest.mark.parametrize("wish", ["Connection: close\r\n", ""])
def test_a_client_that_wants_one_answer_gets_it_and_the_end(bench: Bench, wish: str) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        version = "1.1" if wish else "1.0"
        talk.send(f"GET /v1/health HTTP/{version}\r\nHost: x\r\n{wish}\r\n".encode())

        (response,) = talk.says()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert talk.transport.closed

    run(test)


def test_after_eof_the_answer_that_is_due_is_sent(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        talk.send(request("POST", EVENTS, line(**run_end(1))))

        assert talk.conversation.eof_received()
        bench.settle()

        assert [response.status for response in talk.says()] == [200]
        assert talk.transport.closed

    run(test)


def test_after_eof_with_nothing_due_the_socket_closes(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        talk.send(b"GET /v1/hea")

        assert not talk.conversation.eof_received()

    run(test)


def test_who_has_gone_is_not_answered_and_his_events_are_kept(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        talk.send(request("POST", EVENTS, line(**run_end(1))))
        talk.conversation.connection_lost(None)

        bench.settle()

        assert talk.says() == []
        assert talk.closed == [talk.conversation]
        assert bench.events_of() == ["run-1"]

    run(test)


def test_a_client_that_reads_no_answers_is_not_read_either(bench: Bench) -> None:
    async def test() -> None:
        answers = FakeAnswers()
        answers.states["spotter"] = bytes(1000)
        talk = Talk(make_desk(bench, answers))
        talk.conversation.pause_writing()

        talk.conversation.data_received(request("GET", "/v1/state?project=spotter") * 100)
        assert len(talk.transport.written) == 0
        assert not talk.transport.reading

        talk.conversation.resume_writing()
        await talk.turn()
        assert len(talk.says()) == 100
        assert talk.transport.reading

    run(test)


def test_who_reads_no_answers_at_all_is_cut_off(bench: Bench) -> None:
    async def test() -> None:
        talk, slow = (Talk(make_desk(bench, frame_timeout_seconds=0.01)) for _ in range(2))
        for each in (talk, slow):
            each.send(request("POST", EVENTS, line(**run_end(1))))  # no time counts meanwhile
            each.transport.buffered_bytes = 100_000
            each.conversation.pause_writing()
        slow.transport.buffered_bytes = 0
        slow.conversation.resume_writing()

        await until(lambda: talk.transport.aborted, "the end")

        assert not slow.transport.closed

    run(test)


@pytest.mark.parametrize("eof", [True, False])
def test_a_close_does_not_wait_for_who_does_not_read(bench: Bench, eof: bool) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench, frame_timeout_seconds=0.01))
        talk.transport.buffered_bytes = 100
        if eof:
            assert not talk.conversation.eof_received()
        else:
            talk.send(request("GET", "/v1/state", headers={"Connection": "close"}))
        assert talk.transport.closed

        await until(lambda: talk.transport.aborted, "the end")

    run(test)


def test_a_request_must_be_finished_in_time(bench: Bench) -> None:
    async def test() -> None:
        desk = make_desk(bench, frame_timeout_seconds=0.01)
        whole = request("POST", EVENTS, line(**run_end(1)))
        talks = [Talk(desk) for _ in range(3)]
        talks[1].send(whole[:10])
        talks[2].send(whole[:-1])

        await until(lambda: all(talk.transport.closed for talk in talks), "the end of patience")

    run(test)


def test_an_answer_may_take_longer(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench, frame_timeout_seconds=0.001))
        talk.send(request("POST", EVENTS, line(**run_end(1))))
        other = Talk(make_desk(bench, frame_timeout_seconds=0.002))
        await until(lambda: other.transport.closed, "a later timer")

        assert not talk.transport.closed
        bench.settle()
        assert talk.says()[0].status == 200

    run(test)


def test_when_the_daemon_stops_what_was_taken_is_answered(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        talk.send(request("POST", EVENTS, line(**run_end(1))))

        talk.conversation.stop_reading()
        bench.settle()

        (response,) = talk.says()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert talk.transport.closed
        idle = Talk(make_desk(bench))
        idle.conversation.stop_reading()
        idle.conversation.say_goodbye("the daemon is stopping")
        assert idle.transport.closed

    run(test)


def test_what_comes_while_the_daemon_stops_is_answered_with_503(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        talk.conversation.stop_reading()

        response = talk.ask("POST", EVENTS, line(**run_end(1)))

        assert response.status == 503
        assert response.headers["retry-after"] == "1"
        assert "the daemon is stopping" in response.json["error"]
        assert talk.transport.closed
        bench.settle()
        assert bench.events_of() == []

    run(test)


@pytest.mark.parametrize("length", [5, 60, 120])
def test_who_is_in_the_middle_when_the_daemon_stops_is_told(bench: Bench, length: int) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        talk.send(request("POST", EVENTS, line(**run_end(1)))[:length])
        talk.conversation.stop_reading()

        talk.conversation.say_goodbye("the daemon is stopping")

        (response,) = talk.says()
        assert (response.status, response.headers["connection"]) == (503, "close")
        assert talk.transport.closed

    run(test)


# What must not be believed.


@pytest.mark.parametrize(
    "head",
    [
        pytest.param("Host: x\r\nContent-Length: 2\r\nContent-Length: 3", id="two lengths"),
        pytest.param("Host: x\r\nContent-Length: 2, 3", id="two lengths in one"),
        pytest.param("Host: x\r\nContent-Length: +2", id="a sign"),
        pytest.param("Host: x\r\nContent-Length: -1", id="less than nothing"),
        pytest.param("Host: x\r\nContent-Length: 0x2", id="another base"),
        pytest.param("Host: x\r\nContent-Length: " + "9" * 5000, id="no such number"),
        pytest.param("Host: x\r\nContent-Length : 2", id="space before the colon"),
        pytest.param("Host: x\r\nTransfer-Encoding: gzip, chunked", id="two codings"),
        pytest.param("Host: x\r\nTransfer-Encoding: xchunked", id="an odd coding"),
        pytest.param(
            "Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", id="chunks twice"
        ),
        pytest.param("Host: x\r\nBad Name: 1", id="a space in a name"),
        pytest.param("Host: x\r\nA: b\rc", id="a bare CR"),
        pytest.param("Host: x\r\nA: b\0c", id="a NUL"),
        pytest.param("Host: x\r\nHost: y", id="two hosts"),
        pytest.param("A: b", id="no host"),
        pytest.param("Host: x\r\nContent-Length: 2\r\nA: b\r\n c", id="a folded header"),
        pytest.param("Host: x\r\nTransfer-Encoding:\r\n chunked", id="a folded coding"),
        pytest.param("Host: x\nContent-Length: 2", id="a bare LF"),
        pytest.param("Host: x\r\nContent-Length: 2\n", id="a bare LF at the end"),
    ],
)
def test_requests_that_could_be_read_in_two_ways_are_refused(bench: Bench, head: str) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        hidden = request("POST", EVENTS, line(**run_end(1)))

        talk.send(f"POST {EVENTS} HTTP/1.1\r\n{head}\r\n\r\n".encode("latin-1") + b"{}" + hidden)

        (response,) = talk.says()
        assert response.status in (400, 413, 501)
        assert talk.transport.closed
        bench.settle()
        assert bench.log.of_kind(Kind.BATCH) == []

    run(test)


@pytest.mark.parametrize("order", [1, -1])
def test_a_body_with_a_length_and_chunks_is_refused(bench: Bench, order: int) -> None:
    """Both ways to read it are whole: by length one request is left, by chunks another."""

    async def test() -> None:
        hidden = request("GET", "/v1/health")
        both = [f"Content-Length: {len(hidden) + 5}", "Transfer-Encoding: chunked"][::order]
        head = "\r\n".join([f"POST {EVENTS} HTTP/1.1", "Host: x", *both, "", ""])
        talk = Talk(make_desk(bench))

        talk.send(head.encode() + b"0\r\n\r\n" + hidden)
        await talk.turn()

        (response,) = talk.says()
        assert response.status == 400
        assert "both a length and chunks" in response.json["error"]
        assert talk.transport.closed

    run(test)


@pytest.mark.parametrize(
    "data",
    [
        b"GET\r\n\r\n",
        b"GET /v1/health\r\n\r\n",
        b"GET /v1/health HTTP/3\r\n\r\n",
        b"hello there\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\n" + b"A: " + b"b" * 20_000,
        b"G" * 20_000,
    ],
)
def test_what_is_no_request_is_refused_and_closed(bench: Bench, data: bytes) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))

        talk.send(data)

        (response,) = talk.says()
        assert 400 <= response.status < 500
        assert "cannot read the request" in response.json["error"]
        assert talk.transport.closed

    run(test)


@pytest.mark.parametrize("pieces", [1, 20_000], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(
    ("bytes_over", "status"), [(0, 200), (1, 431)], ids=["the largest", "one byte more"]
)
def test_a_head_has_a_largest_size(bench: Bench, pieces: int, bytes_over: int, status: int) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        plain = request("GET", "/v1/health", headers={"A": ""})
        padding = "a" * (HEADER_BYTES_MAX + bytes_over - len(plain))
        data = request("GET", "/v1/health", headers={"A": padding})
        size = -(-len(data) // pieces)

        for at in range(0, len(data), size):
            if not talk.transport.closed:
                talk.send(data[at : at + size])
        await talk.turn()

        (response,) = talk.says()
        assert response.status == status

    run(test)


def test_the_heads_of_a_row_of_requests_are_looked_at_one_by_one(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        good = request("GET", "/v1/health", headers={"A": "a" * 9000})

        talk.send(good + good + b"GET /v1/health HTTP/1.1\nHost: x\n\n")
        for _ in range(4):
            await talk.turn()

        assert [response.status for response in talk.says()] == [200, 200, 400]
        assert talk.transport.closed

    run(test)


@pytest.mark.parametrize("version", ["2.0", "0.9"])
def test_another_version_of_http_is_refused(bench: Bench, version: str) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))

        talk.send(f"GET /v1/health HTTP/{version}\r\nHost: x\r\n\r\n".encode())

        (response,) = talk.says()
        assert response.status == 505
        assert talk.transport.closed

    run(test)


def test_chunks_that_are_wrong_are_refused(bench: Bench) -> None:
    async def test() -> None:
        talk = Talk(make_desk(bench))
        talk.send(request("POST", EVENTS, headers={"Transfer-Encoding": "chunked"}))

        talk.send(b"zz\r\n")

        assert talk.says()[0].status == 400
        assert talk.transport.closed

    run(test)
