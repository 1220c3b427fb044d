from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from tallymark.protocol.messages import Ack, Publish
from tallymarkd.sources.claude_transcript import read_transcript
from tests.claude_files import Files, said
from tests.conftest import ROOT
from tests.fake_daemon import FakeDaemon
from tests.speed import with_enough_time
from tests.tallymark_command import Tallymark

FIXTURE = ROOT / "tests" / "fixtures" / "claude-code"
COMMAND = ["import", "claude-code"]


def all_known(publish: Publish) -> Ack:
    return Ack(through_seq=publish.seq, duplicate=publish.count)


def test_every_event_reaches_the_daemon_each_project_from_its_own_producer(
    tallymark: Tallymark,
) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        done = tallymark(*COMMAND, str(FIXTURE), "--json")
        projects = [hello.project for hello in daemon.hellos if hello.producer]
        usages = [event for event in daemon.events if event["type"] == "usage"]
        runs = [event for event in daemon.events if event["type"] == "run.end"]
        daemon.wait(lambda: all(each.goodbye for each in daemon.producers.values()))
    assert done.code == 0
    assert projects == ["lighthouse", "orchard"]
    assert len(usages) == 10
    assert len(runs) == 6
    assert sum(event["input_tokens"] for event in usages) == 93_216
    assert sum(event["output_tokens"] for event in usages) == 1_363
    assert {event["source"] for event in daemon.events} == {"claude-code"}
    assert {event["agent_name"] for event in runs} == {"claude-code", "Explore", "compact"}
    assert done.json["events"] == {
        "stored": len(daemon.events), "already_known": 0, "rejected": {}
    }  # fmt: skip


def test_the_figures_as_json(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket):
        result = tallymark(*COMMAND, str(FIXTURE), "--json").json
    total = result["total"]
    assert (total["sessions"], total["runs"], total["responses"]) == (3, 6, 10)
    assert total["input_tokens"] == 93_216
    assert total["cache_read_tokens"] == 72_150
    assert total["cache_write_tokens"] == 21_030
    assert total["output_tokens"] == 1_363
    assert total["unpriced_usages"] == 0
    assert total["cost_usd"] > 0
    for share in ("sessions", "agents"):
        rows = result[share].values() if share == "agents" else result[share]
        rows = list(rows)
        assert sum(row["input_tokens"] for row in rows) == 93_216
        assert sum(row["responses"] for row in rows) == 10
        assert sum(row["cost_usd"] for row in rows) == pytest.approx(total["cost_usd"])
    assert result["not_understood"] == {"not JSON": 1}


def test_the_figures_as_tables(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket):
        done = tallymark(*COMMAND, str(FIXTURE))
    lines = [line.split() for line in done.out.splitlines()]
    assert ["5d0f3a52", "4", "8", "78,001"] in [line[:4] for line in lines]
    total = next(line for line in lines if line[:1] == ["total"])
    assert total[1:7] == ["6", "10", "93,216", "72,150", "21,030", "1,363"]
    assert total[8] == "0"
    assert ["Explore", "1", "2", "10,705"] in [line[:4] for line in lines]
    assert done.out.splitlines()[-1].startswith("lighthouse, orchard: ")
    assert done.out.endswith(" events stored, 0 already known\n")
    assert "1 line not understood: not JSON; the first is " in done.err


def test_what_is_known_already_is_counted_and_is_well(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.answer = all_known
        done = tallymark(*COMMAND, str(FIXTURE))
        count = len(daemon.events)
    assert done.code == 0
    assert done.out.endswith(f": 0 events stored, {count} already known\n")


def test_a_rejected_event_is_told_and_is_1(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.answer = lambda publish: Ack(
            through_seq=publish.seq, rejected=1, reasons={"too_large": 1}
        )
        done = tallymark(*COMMAND, str(FIXTURE), "--project", "p")
    assert done.code == 1
    assert "1 rejected" in done.out
    assert "tallymarkd rejected 1 event: too_large" in done.err


def test_one_project_for_everything(tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYMARK_PROJECT", "variable")
    with FakeDaemon(tallymark.socket) as daemon:
        assert tallymark(*COMMAND, str(FIXTURE), "--json").json["projects"] == ["variable"]
        done = tallymark(*COMMAND, str(FIXTURE), "--json", "--project", "option")
        assert done.json["projects"] == ["option"]
        projects = [hello.project for hello in daemon.hellos if hello.producer]
    assert projects == ["variable", "option"]


def test_without_a_path_it_reads_where_claude_code_writes(
    tallymark: Tallymark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(FIXTURE, tmp_path / "config" / "projects")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "config"))
    with FakeDaemon(tallymark.socket):
        assert tallymark(*COMMAND, "--json").json["total"]["responses"] > 0


def test_nothing_to_import_is_said(tallymark: Tallymark, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with FakeDaemon(tallymark.socket):
        done = tallymark(*COMMAND, str(tmp_path / "empty"))
        missing = tallymark(*COMMAND, str(tmp_path / "missing"))
    assert (done.code, done.out) == (0, "")
    assert done.err == f"nothing to import: there is no transcript in {tmp_path / 'empty'}\n"
    assert missing.code == 2
    assert "missing: No such file" in missing.err


def test_what_is_no_transcript_is_said_and_is_1(tallymark: Tallymark, tmp_path: Path) -> None:
    other = tmp_path / "passwd"
    other.write_text("root:x:0:0\nada:x:1:1\n")
    with FakeDaemon(tallymark.socket) as daemon:
        done = tallymark(*COMMAND, str(other))
        as_json = tallymark(*COMMAND, str(other), "--json")
        assert daemon.events == []
    assert (done.code, done.out) == (1, "")
    first, second = done.err.splitlines()
    assert first == (
        f"tallymark: cannot import Claude Code transcripts: in {other} is none; give a "
        "transcript of Claude Code, or a directory of them"
    )
    assert second == f"  2 lines not understood: not JSON; the first is {other}:1"
    assert as_json.code == 1
    assert as_json.json["not_understood"] == {"not JSON": 2}


def test_a_session_in_which_nobody_answered_is_a_transcript(
    tallymark: Tallymark, tmp_path: Path
) -> None:
    Files(tmp_path).write("one", said("do"), b"{broken}")
    with FakeDaemon(tallymark.socket):
        done = tallymark(*COMMAND, str(tmp_path))
    assert (done.code, done.out) == (0, "no project: 0 events stored, 0 already known\n")


def test_who_does_not_use_claude_code_is_told_what_it_is_for(
    tallymark: Tallymark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path / "nowhere"))
    done = tallymark(*COMMAND)
    assert done.code == 2
    assert f"from {tmp_path / 'nowhere' / 'projects'}: No such file" in done.err
    assert "this is for users of Claude Code" in done.err
    assert "tallymark import claude-code PATH" in done.err


def test_without_a_daemon_it_ends_at_once_with_1(tallymark: Tallymark) -> None:
    done = tallymark(*COMMAND, str(FIXTURE))
    assert (done.code, done.out) == (1, "")
    first, second, _, remedy = done.err.splitlines()
    assert first == "tallymark: cannot import Claude Code transcripts"
    assert second.startswith("  cannot reach tallymarkd at ")
    assert "it is not running" in second
    assert "tallymark service install" in remedy


def test_disabled_is_refused(tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYMARK_DISABLED", "1")
    done = tallymark(*COMMAND, str(FIXTURE))
    assert done.code == 2
    assert "TALLYMARK_DISABLED" in done.err


def test_a_daemon_killed_in_between_is_waited_for(tallymark: Tallymark) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.cuts_before_ack = 3
        done = tallymark(*COMMAND, str(FIXTURE), "--project", "p", "--json")
        names = [event["event_id"] for event in daemon.events]
        producers = len(daemon.producers)
        assert daemon.wrong == []
    assert done.code == 0
    assert producers == 1
    assert len(set(names)) == len(names)
    assert sum(done.json["total"][kind] for kind in ("runs", "responses")) == 16


def test_a_daemon_that_stays_away_is_1_and_importing_again_is_harmless(
    tallymark: Tallymark,
) -> None:
    with FakeDaemon(tallymark.socket) as daemon:
        daemon.acks = False
        done = with_enough_time(
            lambda seconds: tallymark(*COMMAND, str(FIXTURE), "--timeout", f"{seconds}"),
            lambda _: daemon.events,
        )
    assert (done.code, done.out) == (1, "")
    assert "cannot import all Claude Code transcripts: " in done.err
    assert "importing again is harmless" in done.err


def test_only_so_much_is_on_its_way_at_one_time(
    tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallymarkd.cli.recording.PENDING_EVENTS_MAX", 4)
    with FakeDaemon(tallymark.socket) as daemon:
        done = tallymark(*COMMAND, str(FIXTURE), "--project", "p", "--json")
        batches = [
            len(msgspec.msgpack.decode(batch.events))
            for batch in daemon.producer.batches.values()
            if isinstance(batch, Publish)
        ]
    assert done.code == 0
    assert max(batches) <= 4
    assert sum(batches) == done.json["events"]["stored"]


def test_a_file_that_cannot_be_read_is_told_and_is_1(
    tallymark: Tallymark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *rest: object) -> object:
        if path.name.startswith("c2b9d7f4"):
            raise PermissionError(13, "Permission denied", str(path))
        return read_transcript(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("tallymarkd.sources.claude_code.read_transcript", fail)
    with FakeDaemon(tallymark.socket):
        done = tallymark(*COMMAND, str(FIXTURE))
    assert done.code == 1
    assert "total" in done.out
    assert ".jsonl: Permission denied" in done.err


def test_the_recorded_transcripts_give_their_figures(
    tallymark: Tallymark, shared_data: Path
) -> None:
    with FakeDaemon(tallymark.socket):
        done = tallymark(*COMMAND, str(shared_data), "--project", "spotter", "--json")
    total = done.json["total"]
    assert total["responses"] == 324
    assert total["output_tokens"] == 69_605
    assert total["input_tokens"] == 28_874_815
    assert set(done.json["agents"]) == {"claude-code", "Explore", "claude-code-guide", "compact"}
