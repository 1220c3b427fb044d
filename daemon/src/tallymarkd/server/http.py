"""One conversation over HTTP/1.1, for shell scripts, other languages and health checks.

``POST /v1/events`` takes one JSON event, or many as ``application/x-ndjson``;
all or nothing. ``GET /v1/health`` and ``GET /v1/state?project=P`` read. A 2xx
answer to a POST means durable.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import h11
import msgspec

from tallymarkd._version import __version__
from tallymarkd.core.engine import PostResult
from tallymarkd.server.desk import Condition, Desk
from tallymarkd.server.outlet import GOODBYE_SECONDS, Outlet
from tallymarkd.server.posting import PostFault, read_events

BODY_BYTES_MAX = 1024 * 1024
"""Largest request body, as large as a frame of the other tongue."""

HEADER_BYTES_MAX = 16 * 1024

_LONE_LF = re.compile(rb"(?<!\r)\n")
_FOLD = re.compile(rb"\n[ \t]")

RETRY_SOON = [("retry-after", "1")]

JSON = "application/json"
NDJSON = "application/x-ndjson"


class HttpConversation(asyncio.Protocol):
    """Requests in, responses out, one at a time."""

    def __init__(
        self,
        desk: Desk,
        uid: int,
        on_close: Callable[[HttpConversation], None],
        new_id: Callable[[], str],
    ) -> None:
        self._desk = desk
        self._uid = uid
        self._on_close = on_close
        self._new_id = new_id
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._outlet: Outlet | None = None
        self._request: h11.Request | None = None
        self._head = bytearray()
        self._body = bytearray()
        self._busy = False
        self._choked = False
        self._ended = False
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._outlet = Outlet(transport, lambda: self._desk.settings.frame_timeout_seconds)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        if self._h11.their_state is h11.ERROR:
            return
        if self._request is None:
            self._head += data
        self._h11.receive_data(data)
        self._advance()

    def eof_received(self) -> bool:
        """An answer that is due is sent before the socket closes."""
        self._ended = True
        if not self._busy:
            self._close()
        return self._busy

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._outlet is not None:
            self._outlet.unwatch()
        self._transport = None
        self._on_close(self)

    def pause_writing(self) -> None:
        """The client does not read: take no further request of it."""
        self._choked = True
        self._set_reading()
        if self._outlet is not None:
            self._outlet.watch()

    def resume_writing(self) -> None:
        self._choked = False
        if self._outlet is not None and not self._gone:
            self._outlet.unwatch()
        self._set_reading()
        self._advance()

    def stop_reading(self) -> None:
        """Take nothing more; what was taken is still answered.

        A request that comes all the same is read, and answered with 503.
        """
        self._stopping = True

    def say_goodbye(self, reason: str) -> None:
        """The daemon stops: everything due has been sent, but to who is in the middle."""
        if (self._request is not None or self._head) and not self._busy and not self._gone:
            self._refuse(503, f"cannot take this: {reason}", RETRY_SOON)
        self._close(GOODBYE_SECONDS)

    # Requests.

    def _advance(self) -> None:
        """Take the requests that have come, one at a time."""
        while not (self._busy or self._choked or self._gone):
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                self._protocol_error(error)
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > BODY_BYTES_MAX:
                    self._refuse_body()
            elif isinstance(event, h11.EndOfMessage):
                self._end_of_request()
            elif isinstance(event, h11.ConnectionClosed):
                self._close()

    @property
    def _gone(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _begin(self, request: h11.Request) -> None:
        self._request = request
        self._body.clear()
        length = self._header("content-length")
        problem = self._problem_of_head(request)
        if problem is not None:
            self._refuse(*problem)
        elif length and self._header("transfer-encoding"):
            # Whoever stands between might take the other one (RFC 9112, 6.1).
            self._refuse(400, "cannot tell where the body ends: it has both a length and chunks")
        elif length and int(length) > BODY_BYTES_MAX:
            self._refuse_body()
        elif self._h11.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))

    def _problem_of_head(self, request: h11.Request) -> tuple[int, str] | None:
        """What h11 lets pass: what others may read in another way, and any size at once."""
        head = bytes(self._head[: len(self._head) - len(self._h11.trailing_data[0])])
        self._head.clear()
        if len(head) > HEADER_BYTES_MAX:
            return 431, f"cannot take a head of {len(head)} bytes: {HEADER_BYTES_MAX} are allowed"
        if not request.http_version.startswith(b"1."):
            return 505, "cannot speak this version of HTTP: 1.1 is right"
        if _LONE_LF.search(head):
            return 400, "cannot read the request: a line ends without CR"
        if _FOLD.search(head):
            return 400, "cannot read the request: a header goes on in the next line"
        return None

    def _refuse_body(self) -> None:
        self._refuse(413, f"cannot take a body over {BODY_BYTES_MAX} bytes")

    def _end_of_request(self) -> None:
        request = self._request
        assert request is not None
        self._stop_timer()
        self._busy = True
        self._set_reading()
        if self._stopping:
            self._unavailable("cannot take this: the daemon is stopping")
            return
        try:
            target = urlsplit(request.target.decode("ascii", "replace"))
        except ValueError as error:
            self._answer(400, _problem(f"cannot read the address: {error}"))
            return
        query = {name: values[-1] for name, values in parse_qs(target.query).items()}
        routes: dict[str, tuple[str, Callable[[dict[str, str]], None]]] = {
            "/v1/events": ("POST", self._post_events),
            "/v1/health": ("GET", self._get_health),
            "/v1/state": ("GET", self._get_state),
        }
        route = routes.get(unquote(target.path))
        method = request.method.decode("ascii")
        if route is None:
            paths = ", ".join(f"{verb} {path}" for path, (verb, _) in routes.items())
            self._answer(404, _problem(f"cannot find {target.path}: there are {paths}"))
        elif method != route[0] and not (method == "HEAD" and route[0] == "GET"):
            message = f"cannot {method} {target.path}: use {route[0]}"
            self._answer(405, _problem(message), [("allow", route[0])])
        else:
            route[1](query)

    def _post_events(self, query: dict[str, str]) -> None:
        engine = self._desk.engine
        if engine.overloaded:
            self._unavailable("cannot take events now: too much is waiting to be written")
            return
        many = self._header("content-type").partition(";")[0].strip().lower() == NDJSON
        try:
            posted = read_events(
                bytes(self._body), many=many, project=query.get("project", ""), new_id=self._new_id
            )
        except PostFault as fault:
            self._answer(422, _faults([fault.as_dict()]))
            return
        if not engine.room_for([name for name, _, _ in posted.batches]):
            self._unavailable("cannot take events of a new project: there are too many projects")
            return

        def done(result: PostResult | None, error: Exception | None) -> None:
            if result is None:
                self._unavailable(str(error))
            elif result.faults:
                self._answer(422, _faults([posted.fault(fault) for fault in result.faults]))
            else:
                self._answer(200, posted.stored(result.stored, result.duplicate))

        engine.post(posted.batches, self._uid, done)

    def _get_health(self, query: dict[str, str]) -> None:
        deep = query.get("deep", "") in ("1", "true", "yes")

        def done(condition: Condition) -> None:
            reasons = [msgspec.structs.asdict(reason) for reason in condition.reasons]
            body = {"status": condition.status, "reasons": reasons, **condition.report}
            self._answer(200 if condition.taking else 503, body)

        self._desk.answers.health(deep, done)

    def _get_state(self, query: dict[str, str]) -> None:
        project = query.get("project", "")
        if not project:
            self._answer(400, _problem("cannot show a state: add ?project=NAME"))
            return
        body = self._desk.answers.state(project)
        if body is None:
            message = f"cannot show project {project!r}: nothing is known of it"
            self._answer(404, _problem(message))
        else:
            self._answer(200, body)

    def _header(self, name: str) -> str:
        assert self._request is not None
        wanted = name.encode()
        return next((v.decode("latin-1") for n, v in self._request.headers if n == wanted), "")

    # Responses.

    def _answer(self, status: int, body: Any, headers: list[tuple[str, str]] | None = None) -> None:
        if self._transport is None:
            return
        data = body if isinstance(body, bytes) else msgspec.json.encode(body) + b"\n"
        fields = [
            ("content-type", JSON),
            ("content-length", str(len(data))),
            ("server", f"tallymarkd/{__version__}"),
            *(headers or []),
        ]
        if self._stopping or self._ended:
            fields.append(("connection", "close"))
        reason = HTTPStatus(status).phrase.encode()
        self._write(h11.Response(status_code=status, headers=fields, reason=reason))
        head = self._request is not None and self._request.method == b"HEAD"
        self._write(h11.Data(data=b"" if head else data))
        self._write(h11.EndOfMessage())
        self._next()

    def _unavailable(self, message: str) -> None:
        self._answer(503, _problem(message), RETRY_SOON)

    def _refuse(
        self, status: int, message: str, headers: list[tuple[str, str]] | None = None
    ) -> None:
        """Answer before the request is complete, and close."""
        self._busy = True
        self._ended = True
        self._answer(status, _problem(message), headers)

    def _protocol_error(self, error: h11.RemoteProtocolError) -> None:
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._ended = True
            problem = _problem(f"cannot read the request: {error}")
            self._answer(error.error_status_hint or 400, problem)
        self._close()

    def _next(self) -> None:
        """After an answer: the next request on this connection, or the end of it."""
        self._busy = False
        self._request = None
        if self._ended or self._stopping or self._h11.our_state is not h11.DONE:
            self._close()
            return
        if self._h11.their_state is not h11.DONE:
            self._close()
            return
        self._h11.start_next_cycle()
        self._head += self._h11.trailing_data[0]
        self._start_timer()
        self._set_reading()
        # What has come already is looked at later, so that a long row of
        # requests does not become a deep stack.
        asyncio.get_running_loop().call_soon(self._advance)

    def _set_reading(self) -> None:
        """Read while there is nothing to answer and the answers are taken."""
        if self._gone or self._transport is None:
            return
        if self._busy or self._choked:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _write(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data and self._outlet is not None and not self._gone:
            self._outlet.write(data)

    def _close(self, seconds: float | None = None) -> None:
        if self._outlet is not None:
            self._outlet.close(seconds)

    def _start_timer(self) -> None:
        self._stop_timer()
        seconds = self._desk.settings.frame_timeout_seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self._close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def refusal(status: int, message: str) -> bytes:
    """A whole response for who is not served at all, whatever he asks."""
    body = msgspec.json.encode(_problem(message)) + b"\n"
    fields = [("content-type", JSON), ("content-length", str(len(body))), ("connection", "close")]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        fields += RETRY_SOON
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in fields]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _problem(message: str) -> dict[str, Any]:
    return {"error": message}


def _faults(faults: list[dict[str, Any]]) -> dict[str, Any]:
    return {"error": "nothing was stored: see the faults", "faults": faults}
