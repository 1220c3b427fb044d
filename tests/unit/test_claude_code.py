"""An import of Claude Code transcripts: what is found, what is given, what waits."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from tallymark.events import RunEnd, SessionEnd, SessionStart, Usage
from tallymarkd.sources import claude_transcript
from tallymarkd.sources.claude_code import ImportPlan, read_transcripts
from tallymarkd.sources.claude_files import find_transcripts, transcript_bytes
from tallymarkd.sources.claude_lines import TokenCount
from tests.claude_files import (
    LATER,
    LINE_SECONDS,
    START,
    Files,
    Line,
    answer,
    asks,
    result_of,
    said,
    seconds,
)
from tests.conftest import ROOT
from tests.transcript_lines import tool_result

FIXTURE = ROOT / "tests" / "fixtures" / "claude-code"


# Recorded and made-up transcripts, against the figures in their README.


def finished(root: Path) -> ImportPlan:
    return read_transcripts(
        find_transcripts(root, {}),
        now=LATER,
        project="spotter",
        project_of=os.path.basename,
        modified=lambda _: 0.0,
    )


def test_the_recorded_transcripts_have_the_figures_of_their_readme(shared_data: Path) -> None:
    plan = finished(shared_data)
    assert plan.projects == ["spotter"]
    figures = {
        session.session_id[:8]: (
            session.responses,
            session.tokens.input - session.tokens.cache_read - session.tokens.cache_write,
            session.tokens.cache_read,
            session.tokens.cache_write,
            session.tokens.output,
        )
        for session in plan.report.sessions
    }
    assert figures == {
        "258c7280": (156, 198, 14_972_534, 394_137, 38_908),
        "491e126e": (12, 1_576, 427_286, 25_842, 1_586),
        "4d5611e5": (152, 233, 12_387_553, 559_475, 28_899),
        "d6e0bada": (4, 54, 88_231, 17_696, 212),
    }
    assert plan.report.responses == 324
    assert plan.report.tokens == TokenCount(28_874_815, 27_875_604, 997_150, 69_605)
    assert {name: share.responses for name, share in plan.report.agents.items()} == {
        "Explore": 12,
        "claude-code": 307,
        "claude-code-guide": 3,
        "compact": 2,
    }
    assert plan.report.lines == 3673
    assert plan.report.faults.counts == {}
    given = [event for _, event in plan.events() if isinstance(event, Usage)]
    assert sum(usage.output_tokens for usage in given) == 69_605


def test_the_fixture_has_the_figures_of_its_readme() -> None:
    plan = finished(FIXTURE)
    shares = {
        (session.session_id[:8], name): (share.runs, share.responses, share.tokens.input)
        + (share.tokens.output,)
        for session in plan.report.sessions
        for name, share in session.agents.items()
    }
    assert shares == {
        ("5d0f3a52", "claude-code"): (2, 5, 50_791, 635),
        ("5d0f3a52", "Explore"): (1, 2, 10_705, 135),
        ("5d0f3a52", "compact"): (1, 1, 16_505, 320),
        ("a7c41e90", "claude-code"): (1, 1, 7_206, 240),
        ("c2b9d7f4", "claude-code"): (1, 1, 8_009, 33),
    }
    assert plan.report.tokens == TokenCount(93_216, 72_150, 21_030, 1_363)
    assert plan.report.lines == 58
    assert plan.report.faults.counts == {"not JSON": 1}
    runs = {e.run_id.split(":")[2]: e for _, e in plan.events() if isinstance(e, RunEnd)}
    assert runs["msg_o1"].artifacts == ["file:rows/pears.txt", "commit:4f2a9c1"]
    assert runs["msg_o1"].duration_seconds == 39.0
    assert runs["msg_e1"].parent_run_id == runs["msg_c1"].parent_run_id == runs["msg_o1"].run_id
    assert {name: run.status for name, run in runs.items() if run.status != "success"} == {
        "msg_o5": "blocked",
        "msg_l1": "error",
    }
    ends = [event for _, event in plan.events() if isinstance(event, SessionEnd)]
    assert [end.status for end in ends] == ["continue", "complete", "error"]
    starts = [event for _, event in plan.events() if isinstance(event, SessionStart)]
    assert [start.session_type for start in starts] == [
        "initializer",
        "continuation",
        "initializer",
    ]


# Reading.


def test_a_file_that_cannot_be_read_is_reported(files: Files, tmp_path: Path) -> None:
    path = files.write("one", said("go"), answer("a"))
    plan = read_transcripts(
        [path, tmp_path / "gone.jsonl"], now=LATER, project="p", project_of=os.path.basename
    )
    assert plan.report.unreadable == {str(tmp_path / "gone.jsonl"): "No such file or directory"}
    assert plan.report.files == 1
    assert plan.report.responses == 1


def test_progress_adds_up_to_the_bytes_of_all_files(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claude_transcript, "PROGRESS_BYTES", 100)
    files.write("one", said("go"), answer("a"), answer("a"))
    files.write("two", said("go"))
    seen: list[int] = []
    files.plan(on_progress=seen.append)
    assert sum(seen) == transcript_bytes(find_transcripts(files.root, {})) > 500
    assert len(seen) > 4


# What waits.


def test_the_last_response_of_a_live_file_waits_with_its_run(files: Files) -> None:
    lines = [said("go"), asks("a"), tool_result("toolu_1"), answer("b")]
    files.write("one", *lines, live=True)
    assert files.usages() == ["msg_a"]
    assert files.runs() == []
    report = files.plan().report
    assert (report.responses_waiting, report.runs_waiting) == (1, 1)
    assert not any(isinstance(event, SessionEnd) for event in files.events())
    waiting = next(event for event in files.events() if isinstance(event, Usage))
    files.write("one", *lines, live=False)
    assert files.usages() == ["msg_a", "msg_b"]
    assert [run.run_id for run in files.runs()] == [waiting.run_id]
    assert any(isinstance(event, SessionEnd) for event in files.events())


def test_a_prompt_alone_does_not_make_the_response_before_it_final(files: Files) -> None:
    files.write("one", said("go"), answer("a"), said("and"), live=True)
    assert files.usages() == []
    files.write("one", said("go"), answer("a"), said("and"), answer("b"), live=True)
    assert files.usages() == ["msg_a"]
    assert len(files.runs()) == 1


def test_a_live_turn_that_is_said_to_have_ended_is_given(files: Files) -> None:
    ended = {"type": "system", "subtype": "turn_duration"}
    files.write("one", said("go"), answer("a"), ended, live=True)
    assert files.usages() == ["msg_a"]
    assert len(files.runs()) == 1
    files.write("one", said("go"), answer("a"), ended, answer("b"), live=False)
    assert len(files.runs()) == 2


@pytest.mark.parametrize(("age", "given"), [(3599.0, 0), (3600.0, 1), (-60.0, 0)])
def test_a_file_is_finished_when_untouched_for_an_hour(
    files: Files, age: float, given: int
) -> None:
    files.write("one", said("go"), answer("a"))
    plan = files.plan(modified=lambda _: LATER.timestamp() - age)
    assert plan.report.runs == given
    assert files.plan(modified=lambda _: LATER.timestamp(), idle_seconds=0).report.runs == 1


def test_a_file_that_was_copied_just_now_is_finished(files: Files) -> None:
    path = files.write("one", said("go"), answer("a"))
    written = seconds(LINE_SECONDS)

    def runs_when(age: timedelta) -> int:
        now = written + age
        os.utime(path, (now.timestamp(), now.timestamp()))
        return files.plan(now=now).report.runs

    assert runs_when(timedelta(hours=23, minutes=59)) == 0
    assert runs_when(timedelta(hours=24)) == 1


def test_a_line_that_is_being_written_is_no_fault(files: Files) -> None:
    path = files.write("one", said("go"), answer("a"), live=True)
    with path.open("ab") as file:
        file.write(b'{"type":"assist')
    os.utime(path, (LATER.timestamp(), LATER.timestamp()))
    assert files.plan().report.faults.counts == {}
    os.utime(path, (START.timestamp(), START.timestamp()))
    report = files.plan().report
    assert report.faults.counts == {"not JSON": 1}
    assert report.faults.first == {"not JSON": f"{path}:3"}


def test_a_copied_response_waits_while_its_original_grows(files: Files) -> None:
    files.write("one", said("go"), answer("a", 1), live=True)
    fork = {"forkedFrom": {"sessionId": "one", "messageUuid": "x"}}
    copied = [said("go") | fork, answer("a", 1) | fork, said("other"), answer("b")]
    files.write("two", *copied, live=False, sessionId="two")
    assert files.usages() == ["msg_b"]
    files.write("one", said("go"), answer("a", 1), answer("a", 50))
    by_session = {s.session_id: s.tokens.output for s in files.plan().report.sessions}
    assert by_session == {"one": 50, "two": 5}


def test_a_file_is_asked_for_its_age_after_it_was_read(files: Files) -> None:
    path = files.write("one", said("go"), answer("a", 1))

    def grown_meanwhile(_: Path) -> float:
        assert progress, "asked before the file was read"
        return LATER.timestamp()

    progress: list[int] = []
    plan = files.plan(modified=grown_meanwhile, on_progress=progress.append)
    assert plan.report.responses == 0
    assert path.exists()


# Sessions.


def test_a_session_in_two_files_is_one(files: Files) -> None:
    one = [said("go"), asks("a", tool="t"), answer("b", 3)]
    files.write("moved/one", one[0], one[1], answer("b", 1))
    late = {"timestamp": seconds(40).isoformat()}
    files.write("one", *one, answer("c") | late, uuid=None)
    (run,) = files.runs()
    assert (run.output_tokens, run.ended_at) == (13, seconds(40))
    (session,) = files.plan().report.sessions
    assert (session.session_id, session.responses, session.runs) == ("one", 3, 1)
    kinds = [type(event) for event in files.events()]
    assert kinds.count(SessionStart) == kinds.count(SessionEnd) == 1


@pytest.mark.parametrize("way", ["kept", "told", "silent"])
def test_copied_history_counts_where_it_was_first(files: Files, way: str) -> None:
    files.write("zzz", said("go"), asks("a"), answer("b", 70), sessionId="zzz")
    mark: Line = {"sessionId": "zzz" if way == "kept" else "new"}
    if way == "told":
        mark["forkedFrom"] = {"sessionId": "zzz", "messageUuid": "x"}
    copied = [line | mark for line in (said("go"), asks("a"), answer("b", 1))]
    files.write("new", *copied, said("other"), answer("c"), sessionId="new")
    by_session = {s.session_id: (s.responses, s.runs) for s in files.plan().report.sessions}
    assert by_session == {"zzz": (2, 1), "new": (1, 1)}
    starts = {e.session_id: e for e in files.events() if isinstance(e, SessionStart)}
    assert starts["zzz"].at == START
    assert starts["new"].at == seconds(30)
    kinds = {name: start.session_type for name, start in starts.items()}
    assert kinds == {"zzz": "initializer", "new": "continuation"}


def test_a_fork_that_says_so_may_end_before_its_original(files: Files) -> None:
    files.write("zzz", said("go"), answer("a"), said("on"), answer("b"), sessionId="zzz")
    fork = {"forkedFrom": {"sessionId": "zzz", "messageUuid": "x"}}
    files.write("new", said("go") | fork, answer("a") | fork, answer("c"), sessionId="new")
    assert {e.session_id for e in files.events() if e.dedupe_key.startswith("anthropic:msg_a")} == {
        "zzz"
    }


def test_a_copy_that_goes_on_without_a_prompt_goes_on_with_the_run(files: Files) -> None:
    files.write("zzz", said("go"), answer("a"), sessionId="zzz")
    lines = [said("go"), answer("a", 1), answer("b")]
    files.write("new", *lines, sessionId="new", live=True)
    assert files.usages() == ["msg_a"]
    assert files.runs() == []
    files.write("new", *lines, sessionId="new")
    (run,) = files.runs()
    assert (run.session_id, run.output_tokens, run.ended_at) == ("zzz", 10, seconds(20))
    usages = [event for event in files.events() if isinstance(event, Usage)]
    assert {usage.run_id for usage in usages} == {run.run_id}
    assert [usage.session_id for usage in usages] == ["zzz", "new"]


def test_all_of_a_session_is_of_the_project_of_its_first_directory(files: Files) -> None:
    moved = answer("b") | {"cwd": "/home/dev/orchard-worktrees/pears"}
    files.write("one", said("go"), asks("a", subagent_type="Plan"), result_of("a1"), moved)
    files.write("one/subagents/agent-a1", said("x"), answer("c"), agentId="a1", cwd="/tmp/else")
    asked: list[str] = []

    def orchard(cwd: str) -> str:
        asked.append(cwd)
        return "orchard"

    plan = files.plan(project_of=orchard)
    assert {project for project, _ in plan.events()} == {"orchard"}
    assert asked == ["/home/dev/orchard"]
    named = files.plan(project="mine", project_of=_not_asked)
    assert {project for project, _ in named.events()} == {"mine"}


def _not_asked(cwd: str) -> str:
    raise AssertionError(f"asked for the project of {cwd}")


def test_a_session_without_directory_is_of_an_unknown_project(files: Files) -> None:
    files.write("one", said("go"), answer("a"), cwd=None)
    assert files.plan(project_of=_not_asked).projects == ["unknown"]


def test_the_end_of_a_session_that_goes_on_is_another_end(files: Files) -> None:
    def end() -> str:
        return next(e.dedupe_key for e in files.events() if isinstance(e, SessionEnd))

    files.write("one", said("go"), answer("a"))
    first = end()
    assert first == end()
    files.write("one", said("go"), answer("a"), said("more"), answer("b"))
    assert end() != first
