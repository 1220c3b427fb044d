"""Nonsense over HTTP: smuggled requests, huge heads and bodies, and events."""

from __future__ import annotations

from tallymarkd.server.http import BODY_BYTES_MAX, HEADER_BYTES_MAX
from tests.nonsense import PROJECT, Nonsense

READ = "cannot read the request: "
POST = f"POST /v1/events?project={PROJECT} HTTP/1.1\r\nHost: x\r\n".encode()
HIDDEN = POST + b'Content-Length: 36\r\n\r\n{"type":"usage","agent_name":"hid"}\n\n'
"""A good request, where no reader may find one."""


def ask(line: bytes, *headers: bytes) -> bytes:
    """A request without a body, after which the connection closes."""
    return b"\r\n".join([line + b" HTTP/1.1", b"Host: x", b"Connection: close", *headers, b"", b""])


def post(head: bytes, body: bytes = b"") -> bytes:
    """A request with these headers."""
    return POST + head + b"\r\n\r\n" + body


def plain(body: bytes) -> bytes:
    """A request as it should be, with this body, after which the connection closes."""
    return post(b"Connection: close\r\nContent-Length: %d" % len(body), body)


REQUESTS = [
    Nonsense("two lengths", post(b"Content-Length: 2\r\nContent-Length: 3", b"{}" + HIDDEN),
             http=(400, READ + "conflicting Content-Length headers")),
    Nonsense("two lengths in one", post(b"Content-Length: 2, 3", b"{}" + HIDDEN),
             http=(400, READ + "conflicting Content-Length headers")),
    Nonsense("length and chunks", post(b"Content-Length: 5\r\nTransfer-Encoding: chunked",
                                       b"0\r\n\r\n" + HIDDEN),
             http=(400, "cannot tell where the body ends: it has both a length and chunks")),
    Nonsense("chunks and length", post(b"Transfer-Encoding: chunked\r\nContent-Length: 5",
                                       b"0\r\n\r\n" + HIDDEN),
             http=(400, "cannot tell where the body ends: it has both a length and chunks")),
    Nonsense("length with a sign", post(b"Content-Length: +2", b"{}" + HIDDEN),
             http=(400, READ + "bad Content-Length")),
    Nonsense("length below 0", post(b"Content-Length: -2", b"{}" + HIDDEN),
             http=(400, READ + "bad Content-Length")),
    Nonsense("length in hex", post(b"Content-Length: 0x2", b"{}" + HIDDEN),
             http=(400, READ + "bad Content-Length")),
    Nonsense("length of 5000 digits", post(b"Content-Length: " + b"9" * 5000, HIDDEN),
             http=(400, READ + "bad Content-Length")),
    Nonsense("space before the colon", post(b"Content-Length : 2", b"{}" + HIDDEN),
             http=(400, READ + "illegal header line")),
    Nonsense("coding unknown", post(b"Transfer-Encoding: xchunked", b"0\r\n\r\n" + HIDDEN),
             http=(501, READ + "Only Transfer-Encoding: chunked is supported")),
    Nonsense("chunks twice", post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                                  b"0\r\n\r\n" + HIDDEN),
             http=(501, READ + "multiple Transfer-Encoding headers")),
    Nonsense("folded header", post(b"A: b\r\n c\r\nContent-Length: 2", b"{}" + HIDDEN),
             http=(400, READ + "a header goes on in the next line")),
    Nonsense("folded coding", post(b"Transfer-Encoding:\r\n chunked", b"0\r\n\r\n" + HIDDEN),
             http=(400, READ + "a header goes on in the next line")),
    Nonsense("bare LF", post(b"A: b\nContent-Length: 2", b"{}" + HIDDEN),
             http=(400, READ + "a line ends without CR")),
    Nonsense("bare LF only", post(b"Content-Length: 2").replace(b"\r", b"") + b"{}" + HIDDEN,
             http=(400, READ + "a line ends without CR")),
    Nonsense("bare CR", post(b"A: b\rContent-Length: 2", b"{}" + HIDDEN),
             http=(400, READ + "illegal header line")),
    Nonsense("NUL in a header", post(b"A: b\0c\r\nContent-Length: 2", b"{}" + HIDDEN),
             http=(400, READ + "illegal header line")),
    Nonsense("chunk that is no number", post(b"Transfer-Encoding: chunked", b"zz\r\n" + HIDDEN),
             http=(400, READ + "illegal chunk header")),
    Nonsense("chunk of 2^84 bytes", post(b"Transfer-Encoding: chunked", b"f" * 21 + b"\r\n"),
             http=(400, READ + "illegal chunk header")),
    Nonsense("chunk longer than told",
             post(b"Transfer-Encoding: chunked", b"2\r\n{}}\r\n0\r\n\r\n"),
             http=(400, READ)),
    Nonsense("two hosts", post(b"Host: y\r\nContent-Length: 2", b"{}" + HIDDEN),
             http=(400, READ + "Found multiple Host: headers")),
    Nonsense("no host", b"GET /v1/health HTTP/1.1\r\n\r\n" + HIDDEN,
             http=(400, READ + "Missing mandatory Host: header")),
    Nonsense("HTTP/0.9", b"GET /v1/health\r\n\r\n" + HIDDEN,
             http=(400, READ + "illegal request line")),
    Nonsense("HTTP/2.0 as a text", b"GET /v1/health HTTP/2.0\r\nHost: x\r\n\r\n",
             http=(505, "cannot speak this version of HTTP: 1.1 is right")),
    Nonsense("mail", b"HELO localhost\r\n\r\n", http=(400, READ + "illegal request line")),
    Nonsense("huge header", post(b"A: " + b"a" * HEADER_BYTES_MAX, HIDDEN),
             http=(431, "cannot take a head of ")),
    Nonsense("huge request line", ask(b"GET /" + b"a" * HEADER_BYTES_MAX),
             http=(431, "cannot take a head of ")),
    Nonsense("a header without end", POST + b"A: " + b"a" * 20 * HEADER_BYTES_MAX,
             http=(431, READ + "Receive buffer too long")),
    Nonsense("ten thousand headers", post(b"\r\n".join([b"A: b"] * 10_000)),
             http=(431, "cannot take a head of ")),
    Nonsense("body too long", post(b"Content-Length: %d" % (BODY_BYTES_MAX + 1)),
             http=(413, f"cannot take a body over {BODY_BYTES_MAX} bytes")),
    Nonsense("half a request", POST + b"Content-Length: 50\r\n\r\n{", silent=True),
    Nonsense("half a head", POST, silent=True),
    Nonsense("a way that is not there", ask(b"GET /etc/passwd"),
             http=(404, "cannot find /etc/passwd")),
    Nonsense("delete", ask(b"DELETE /v1/state?project=p"),
             http=(405, "cannot DELETE /v1/state: use GET")),
]  # fmt: skip

BAD_BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is no JSON: "),
    "NUL": (b"\0", "it is no JSON: invalid character (byte 0)"),
    "a byte order mark": (b'\xef\xbb\xbf{"type":"usage"}', "it is no JSON: invalid character"),
    "an array": (b'[{"type":"usage"}]', "it is no JSON object"),
    "more after it": (b'{"type":"usage"} x', "it is no JSON: trailing characters (byte 18)"),
    "cost NaN": (b'{"type":"usage","estimated_cost_usd":NaN}', "it is no JSON: invalid character"),
    "cost Infinity": (b'{"type":"usage","estimated_cost_usd":Infinity}', "it is no JSON: "),
    "cost 1e999": (b'{"type":"usage","estimated_cost_usd":1e999}', "Number out of range"),
    "a lone surrogate": (b'{"type":"usage","agent_name":"\\ud800"}', "it is no JSON: "),
    "a raw surrogate": (b'{"type":"usage","agent_name":"\xed\xa0\x80"}', "it is no JSON: 'utf-8'"),
    "deep": (b"[" * 100_000, "it is no JSON: "),
    "just too deep": (b'{"type":"usage","x":' + b"[" * 100 + b"]" * 100 + b"}", "nested deeper"),
    "tokens of 30 digits": (b'{"type":"usage","input_tokens":' + b"9" * 30 + b"}", "malformed"),
    "a number of 5000 digits": (b'{"type":"usage","x":' + b"9" * 5000 + b"}", "out of range"),
    "tokens a text": (b'{"type":"usage","input_tokens":"5"}', "Expected `int`, got `str`"),
    "id a number": (b'{"type":"usage","event_id":5}', "`event_id` must be a string"),
    "project a number": (b'{"type":"usage","project":5}', "`project` must be a string"),
    "no type": (b"{}", "Object missing required field `type`"),
    "too large": (b'{"type":"usage","x":"' + b"x" * 70_000 + b'"}', "at most 65536 are allowed"),
}

BODIES = [
    Nonsense(f"body: {name}", plain(body), http=(422, told))
    for name, (body, told) in BAD_BODIES.items()
]
