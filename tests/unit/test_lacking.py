from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tallymark.fs import OsFileSystem
from tallymark.record import NO_PRODUCER, Kind
from tallymarkd.core.backup_manifest import Manifest
from tallymarkd.core.lacking import PRODUCERS_TOLD_MAX, Lacking
from tallymarkd.storage.survey import survey
from tests.daemon_parts import PRODUCERS, a_record, usage
from tests.state_dirs import Core

NOW = datetime(2026, 1, 3, 12, tzinfo=UTC)


def lacking(*, live: bool = True, end_lsn: int = 0) -> Lacking:
    manifest = Manifest(
        version="0.2", server_id="", state_dir="/s", begun_at="2026-01-02T12:00:00.000Z",
        finished_at="", live=live, durable_lsn=end_lsn, end_lsn=end_lsn, events=0, files=[],
    )  # fmt: skip
    return Lacking(manifest, NOW)


def test_of_too_many_producers_the_rest_is_told_together(tmp_path: Path) -> None:
    core = Core(tmp_path / "state")
    for number in range(PRODUCERS_TOLD_MAX + 2):
        core.put(usage(f"key-{number}"), producer=str(uuid.UUID(int=number + 1)))
    core.put(usage("key-0"), producer=str(uuid.UUID(int=10**6)))
    core.crash()

    told = lacking(end_lsn=0).shown_by(survey(OsFileSystem(), core.layout.journal))

    assert len(told) == PRODUCERS_TOLD_MAX + 1
    assert [each.events for each in told] == [1] * PRODUCERS_TOLD_MAX + [2]
    assert all(each.restored for each in told)
    assert [each.producer for each in told].count(NO_PRODUCER) == 1


def test_the_seqs_of_a_producer_are_all_told_and_the_events_that_were_stored(
    tmp_path: Path,
) -> None:
    core = Core(tmp_path / "state")
    core.put(usage("a"))
    end = core.journal.durable_lsn
    core.put(usage("a"))
    core.put(usage("b"), usage("b"), usage(input_tokens=-1))
    core.put(usage("a"), producer=PRODUCERS[1])
    core.put(usage("a"))
    core.crash()

    (told,) = lacking(end_lsn=end).shown_by(survey(OsFileSystem(), core.layout.journal))

    assert (told.from_seq, told.through_seq, told.events) == (2, 4, 1)
    assert (told.from_lsn, told.through_lsn) == (end + 1, core.acknowledged[-1].lsn)


def test_a_record_that_does_not_say_is_counted_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = survey(OsFileSystem(), tmp_path)
    record = a_record(Kind.BATCH, b"\xc1", lsn=7, count=3)
    monkeypatch.setattr(type(found), "records", lambda self, after_lsn: [record])

    (told,) = lacking().shown_by(found)

    assert (told.events, told.from_lsn, told.through_lsn) == (3, 7, 9)


@pytest.mark.parametrize("live", [True, False])
def test_where_nothing_shows_it(live: bool) -> None:
    told = lacking(live=live, end_lsn=5).unknown(9)

    assert [(each.from_lsn, each.through_lsn, each.events) for each in told] == [(6, 9, 0)] * live
