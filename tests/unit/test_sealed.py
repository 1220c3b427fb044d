from __future__ import annotations

import json
import zlib

import pytest

from tallymark.errors import DamagedError, NewerFormatError
from tallymarkd.storage.sealed import (
    SealedDocument,
    decode_document,
    encode_document,
    seal,
    verify_seal,
)

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


class Shelf(SealedDocument, kw_only=True):
    books: list[str]


def test_a_document_comes_back_and_is_plain_json() -> None:
    body = encode_document(Shelf(format=2, books=["a"]))

    assert decode_document(body, Shelf, 2) == Shelf(format=2, books=["a"])
    assert json.loads(body)["books"] == ["a"]


def test_a_newer_document_is_refused_before_it_is_looked_into() -> None:
    body = b"".join(seal([b'{"format":3,"books":17'], b"}"))

    with pytest.raises(NewerFormatError, match="format 3; this version reads 2"):
        decode_document(body, Shelf, 2)


@pytest.mark.parametrize("inside", [b'{"format":2,"books":17', b'{"books":[]', b'{"format":2'])
def test_what_no_document_says_is_damage_though_the_seal_holds(inside: bytes) -> None:
    with pytest.raises(DamagedError):
        decode_document(b"".join(seal([inside], b"}")), Shelf, 2)
