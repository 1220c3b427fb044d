"""EIO from the real fdatasync: some of what ``make torture`` does in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault import eio, lying_fsync, strace
from tests.fault.eio import drop, read_failure
from tests.fault.strace import Call, read_log

needs_strace = pytest.mark.skipif(bool(strace.cannot_trace()), reason=strace.cannot_trace())
needs_a_lie = pytest.mark.skipif(bool(lying_fsync.cannot_lie()), reason=lying_fsync.cannot_lie())

LOG = """\
11 pwrite64(9</s/journal/1.seg>, ""..., 100, 8192) = 100
11 fdatasync(9</s/journal/1.seg>) = 0
11 pwrite64(9</s/journal/1.seg>, ""..., 50, 8292) = 50
11 fdatasync(9</s/journal/1.seg> <unfinished ...>
12 pwrite64(7</s/journal/2.seg>, ""..., 50, 8192) = 50
11 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)
11 fdatasync(9</s/journal/1.seg>) = 0
11 +++ exited with 74 +++
"""


@needs_strace
def test_eio_on_some_fdatasync_calls_acknowledges_and_tries_nothing(tmp_path: Path) -> None:
    outcome = eio.ordeal(tmp_path, calls=14, step=6)
    assert outcome.passed, outcome.lines()
    assert outcome.tried == 3


@needs_a_lie
def test_an_fdatasync_that_lies_is_not_believed(tmp_path: Path) -> None:
    outcome = lying_fsync.ordeal(tmp_path, tries=2)
    assert outcome.passed, outcome.lines()


def test_the_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(LOG)

    calls = read_log(log)

    assert [call.name for call in calls] == [
        "pwrite64", "fdatasync", "pwrite64", "fdatasync", "pwrite64", "fdatasync",
    ]  # fmt: skip
    assert [call.error for call in calls] == ["", "", "", "EIO", "", ""]
    failure = read_failure(calls)
    assert (failure.failed, failure.syncs_before, failure.tried_again) == ("EIO", 1, 1)
    assert failure.dropped == {Path("/s/journal/1.seg"): 8292}


def test_what_was_not_synced_is_dropped(tmp_path: Path) -> None:
    segment = tmp_path / "1.seg"
    segment.write_bytes(b"s" * 10 + b"u" * 5)
    arguments = f"9<{segment}>, ..., 5, 10) = 5"
    failed = Call("fdatasync", segment, f"9<{segment}>)", "EIO")

    assert drop(read_failure([Call("pwrite64", segment, arguments), failed])) == 5

    assert segment.read_bytes() == b"s" * 10 + bytes(5)
