from __future__ import annotations

import json
import zlib

import pytest

from tallymark.errors import DamagedError
from tallymarkd.storage.sealed import seal, verify_seal

PARTS = [b'{"a":1,', b'"b":{"c":2']


def sealed() -> bytes:
    return b"".join(seal(PARTS, b"}}"))


def test_the_seal_is_the_last_member() -> None:
    body = sealed()
    checksum = f"crc32:{zlib.crc32(b''.join(PARTS)):08x}"
    assert json.loads(body) == {"a": 1, "b": {"c": 2, "checksum": checksum}}
    assert body.endswith(b',"checksum":"' + checksum.encode() + b'"}}\n')
    verify_seal(body, b"}}")


def test_the_parts_may_be_cut_anywhere() -> None:
    whole = b"".join(PARTS)
    for at in range(len(whole)):
        assert b"".join(seal([whole[:at], whole[at:]], b"}}")) == sealed()


def test_no_byte_can_change_unseen() -> None:
    body = sealed()
    for at in range(len(body)):
        broken = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        with pytest.raises(DamagedError):
            verify_seal(broken, b"}}")


def test_no_byte_can_go_or_come_unseen() -> None:
    body = sealed()
    for at in range(len(body)):
        for broken in (body[:at], body[at + 1 :], body[:at] + body[at + 1 :]):
            with pytest.raises(DamagedError):
                verify_seal(broken, b"}}")
    with pytest.raises(DamagedError):
        verify_seal(body + b"\n", b"}}")


@pytest.mark.parametrize(
    "body", [b"", b"}}\n", b"{}", b'{"a":1}}\n', b'{"checksum":"crc32:00000000"}}\n']
)
def test_without_a_seal_there_is_none(body: bytes) -> None:
    with pytest.raises(DamagedError, match="no checksum|does not hold"):
        verify_seal(body, b"}}")


def test_the_closing_must_be_the_one_expected() -> None:
    with pytest.raises(DamagedError):
        verify_seal(sealed(), b"}")
