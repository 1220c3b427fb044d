"""The header of a spool: whose it is, and for whom. Pure bytes.

Integers are little-endian::

    offset size field
         0    8 magic          "TLYMKSPL"
         8    2 format         version of whoever wrote it
        10    2 oldest_reader  oldest version that may read it
        12    4 version_crc    CRC-32 of bytes 0..11
        16    8 salt           random; the magic of this file's records
        24   16 producer       UUID
        40    8 created_ns     nanoseconds since 1970
        48    8 first_seq      the seq of the first batch that was spooled
        56    4 project_bytes  length of the project's name
        60    4 server_bytes   length of the server's id
        64    4 sockets_bytes  length of the sockets' paths
        68      project        UTF-8
         …      server_id      of the daemon it had spoken to; empty where to none
         …      sockets        where the daemon was looked for, joined by zero bytes
         …    4 crc            CRC-32 of everything before
         …      zeros to 4096
      4096      records (tallymark.record)
"""

from __future__ import annotations

import itertools
import struct
import uuid
import zlib
from dataclasses import dataclass

from tallymark.errors import DamagedError, NewerFormatError, StorageError

MAGIC = b"TLYMKSPL"
FORMAT = 1
OLDEST_READER = 1
RECORDS_OFFSET = 4096

_version = struct.Struct("<8sHH")
_fields = struct.Struct("<8s16sQQIII")
_crc = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class SpoolHeader:
    """Whose spool it is, and for whom: for the daemon with this ``server_id``; where
    none is named, for one at these ``sockets``."""

    producer: str
    project: str
    server_id: str = ""
    sockets: tuple[str, ...] = ()
    first_seq: int = 1
    salt: bytes = b""
    created_ns: int = 0


def encode_header(header: SpoolHeader) -> bytes:
    """The first ``RECORDS_OFFSET`` bytes of the file.

    Raises ``StorageError`` for texts that have no room in them: no reader would take it.
    """
    texts = [
        encode_text(text) for text in (header.project, header.server_id, "\0".join(header.sockets))
    ]
    version = _version.pack(MAGIC, FORMAT, OLDEST_READER)
    body = (
        version
        + _crc.pack(zlib.crc32(version))
        + _fields.pack(
            header.salt,
            uuid.UUID(header.producer).bytes,
            header.created_ns,
            header.first_seq,
            *map(len, texts),
        )
        + b"".join(texts)
    )
    over = len(body) + _crc.size - RECORDS_OFFSET
    if over > 0:
        raise StorageError(
            f"cannot begin a spool: the project's name and the sockets' paths are {over} bytes "
            "too long for its header; choose a shorter socket path"
        )
    return (body + _crc.pack(zlib.crc32(body))).ljust(RECORDS_OFFSET, b"\0")


def decode_header(data: bytes) -> SpoolHeader:
    """Raises ``NewerFormatError``, before anything else is believed, and ``DamagedError``."""
    head = _version.size + _crc.size
    if len(data) < RECORDS_OFFSET or data[: len(MAGIC)] != MAGIC:
        raise DamagedError("it does not begin as a spool does")
    if zlib.crc32(data[: _version.size]) != _crc.unpack_from(data, _version.size)[0]:
        raise DamagedError("the version in its header does not verify")
    _, version, oldest = _version.unpack_from(data)
    if oldest > FORMAT:
        raise NewerFormatError(
            f"it was written in format {version} and needs a reader of {oldest}; "
            f"this version reads {FORMAT}"
        )
    salt, producer, created_ns, first_seq, *lengths = _fields.unpack_from(data, head)
    ends = list(itertools.accumulate(lengths, initial=head + _fields.size))
    end = ends[-1]
    if end + _crc.size > RECORDS_OFFSET or zlib.crc32(data[:end]) != _crc.unpack_from(data, end)[0]:
        raise DamagedError("its header does not verify")
    texts = [decode_text(data[start:stop]) for start, stop in itertools.pairwise(ends)]
    project, server_id, sockets = texts
    return SpoolHeader(
        producer=str(uuid.UUID(bytes=producer)),
        project=project,
        server_id=server_id,
        sockets=tuple(sockets.split("\0")) if sockets else (),
        first_seq=first_seq,
        salt=salt,
        created_ns=created_ns,
    )


def encode_text(text: str) -> bytes:
    """Text as it stands in a spool; any text, also what no UTF-8 can be."""
    return text.encode("utf-8", "surrogatepass")


def decode_text(data: bytes) -> str:
    """The text that ``encode_text`` was given. Raises ``DamagedError`` for anything else."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise DamagedError(f"it holds text that is none: {error}") from None
