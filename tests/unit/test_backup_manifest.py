from __future__ import annotations

from pathlib import Path

import pytest

from tallymark.errors import DamagedError, NewerFormatError, PathError
from tallymark.fs import OsFileSystem
from tallymarkd.core.backup_manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    decode_manifest,
    encode_manifest,
    read_manifest,
)
from tallymarkd.storage.sealed import seal
from tests.daemon_parts import SERVER_ID


def manifest(*paths: str) -> Manifest:
    return Manifest(
        version="0.1.0",
        server_id=SERVER_ID,
        state_dir="/var/lib/tallymark",
        begun_at="2026-01-02T12:00:00.000Z",
        finished_at="2026-01-02T12:00:01.000Z",
        live=True,
        durable_lsn=41,
        end_lsn=43,
        events=40,
        files=[FileEntry(path=path, size_bytes=3, sha256="ab" * 32) for path in paths],
    )


def test_what_is_written_is_read() -> None:
    given = manifest("state/server.json", "state/journal/000000000001.seg")

    assert decode_manifest(encode_manifest(given)) == given
    assert given.size_bytes == 6


def test_every_flipped_byte_is_found() -> None:
    body = encode_manifest(manifest("state/server.json"))
    for at in range(len(body)):
        damaged = bytearray(body)
        damaged[at] ^= 1
        with pytest.raises(DamagedError):
            decode_manifest(bytes(damaged))


def test_a_newer_one_is_refused_before_the_rest_is_believed() -> None:
    body = b"".join(seal([b'{"format":2,"backup":"of another shape"'], b"}"))

    with pytest.raises(NewerFormatError, match="format 2; this version reads 1"):
        decode_manifest(body)


@pytest.mark.parametrize("text", ['{"backup":{}', '{"format":1,"backup":{}', '{"format":"x"'])
def test_what_is_sealed_and_no_manifest_is_damaged(text: str) -> None:
    with pytest.raises(DamagedError):
        decode_manifest(b"".join(seal([text.encode()], b"}")))


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "state/../../x", "server.json", "state", "", "../state/x"]
)
def test_a_path_that_leads_elsewhere_is_damaged(path: str) -> None:
    with pytest.raises(DamagedError, match="which is no file of a backup"):
        decode_manifest(encode_manifest(manifest(path)))


def test_a_directory_without_one_is_no_backup(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(PathError, match=f"cannot restore {path}: it is no backup"):
            read_manifest(OsFileSystem(), path)


def test_the_file_at_fault_is_named(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_bytes(encode_manifest(manifest()))
    assert read_manifest(OsFileSystem(), tmp_path) == manifest()

    path.write_bytes(encode_manifest(manifest())[:-3])
    with pytest.raises(DamagedError, match=f"cannot restore {path}: "):
        read_manifest(OsFileSystem(), tmp_path)

    path.write_bytes(b"".join(seal([b'{"format":7'], b"}")))
    with pytest.raises(NewerFormatError, match=f"{path} has format 7; .*; install the version"):
        read_manifest(OsFileSystem(), tmp_path)
