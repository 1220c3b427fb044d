"""Whatever bytes come over HTTP: never an exception, and whole answers only."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from tallymarkd.server.http import HttpConversation
from tests.conversation_parts import FakeTransport, make_desk
from tests.daemon_parts import UID, Bench

PIECES = st.sampled_from(
    [
        b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HEAD /v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/events?project=p HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n",
        b'{"type":"usage"}',
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET * HTTP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/state HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        b"Expect: 100-continue\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"\r\n",
        b"\0",
    ]
)


@settings(max_examples=80)
@given(
    pieces=st.lists(st.one_of(PIECES, st.binary(max_size=12)), max_size=8),
    cut=st.integers(1, 40),
)
def test_any_bytes_at_all(pieces: list[bytes], cut: int) -> None:
    data = b"".join(pieces)

    async def test() -> None:
        with Bench() as bench:
            talk = HttpConversation(make_desk(bench), UID, lambda _: None, lambda: "id")
            transport = FakeTransport()
            talk.connection_made(transport)
            for at in range(0, len(data), cut):
                for _ in range(9):
                    if transport.is_reading() or transport.closed:
                        break
                    bench.settle()
                    await asyncio.sleep(0)
                if transport.closed:
                    break
                talk.data_received(data[at : at + cut])
            bench.settle()
            await asyncio.sleep(0)
            talk.connection_lost(None)
            assert_whole(bytes(transport.written))

    asyncio.run(test())


def assert_whole(written: bytes) -> None:
    """Every answer begins as one, and none is inside another."""
    assert written == b"" or written.startswith(b"HTTP/1.1 ")
    assert written.count(b"HTTP/1.1 ") == written.count(b"server: tallymarkd") + written.count(
        b"HTTP/1.1 100 "
    )
