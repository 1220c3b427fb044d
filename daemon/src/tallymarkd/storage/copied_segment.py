"""What to copy of a segment that may still be written, or whose writer died."""

from __future__ import annotations

from tallymark.errors import DamagedError
from tallymarkd.storage.segment import RECORDS_OFFSET, Gap, decode_header, walk


def worth_copying(data: bytes, *, needed_lsn: int | None) -> bytes:
    """The file's bytes without the blocks allocated ahead.

    With ``needed_lsn`` somebody is writing it: it is cut before the first bytes that do
    not verify. Of what was written while it was read, a later record may have been seen
    and an earlier one not, which recovery would have to take for a loss. Only what is
    needed and does not verify stays, so that it is found. Without, torn bytes stay too.

    Raises ``NewerFormatError``.
    """
    try:
        header = decode_header(data).header
    except DamagedError:
        return data
    end, last_lsn = RECORDS_OFFSET, header.prev_last_lsn
    for item in walk(data, header.salt):
        if isinstance(item, Gap):
            if needed_lsn is not None and last_lsn >= needed_lsn:
                break
        else:
            last_lsn = item.last_lsn
        end = item.end
    return data[:end]
