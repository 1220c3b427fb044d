"""Which runs there were, and whose: turns of the main thread, and subagents."""

from __future__ import annotations

import msgspec
import pytest

from tallymark.events import ARTIFACTS_MAX, EVENT_BYTES_MAX, SessionEnd
from tests.claude_files import Files, Line, answer, api_error, asks, result_of, said, seconds
from tests.transcript_lines import assistant, tool_result, user

# Runs.


def test_a_run_is_from_the_prompt_to_the_last_response(files: Files) -> None:
    lines = [said("go"), asks("a"), tool_result("toolu_1"), answer("b", 40)]
    files.write("one", *lines, {"type": "system", "subtype": "other"}, said("more"))
    (run,) = files.runs()
    assert (run.started_at, run.ended_at, run.at) == (seconds(0), seconds(30), seconds(30))
    assert run.duration_seconds == 30.0
    assert (run.agent_name, run.model_used, run.status) == (
        "claude-code",
        "claude-opus-4-6",
        "success",
    )
    assert (run.input_tokens, run.output_tokens) == (14, 45)
    assert (run.cwd, run.git_branch, run.source) == ("/home/dev/orchard", "main", "claude-code")
    assert run.event_id == run.run_id == run.dedupe_key == "claude-code:run:msg_a:req_a"


@pytest.mark.parametrize(
    "between",
    [
        said("<local-command-stdout>Bye</local-command-stdout>"),
        said("<bash-input>ls</bash-input>"),
        said("Caveat") | {"isMeta": True},
        said("This session is being continued") | {"isCompactSummary": True},
        tool_result("toolu_1"),
    ],
)
def test_what_is_no_prompt_begins_no_run(files: Files, between: Line) -> None:
    files.write("one", said("go"), asks("a"), between, answer("b"))
    assert len(files.runs()) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        said("more"),
        said("<command-message>review</command-message>"),
        said("<task-notification>done</task-notification>"),
        user([{"type": "image"}, {"type": "text", "text": "look"}]),
    ],
)
def test_every_prompt_begins_a_run(files: Files, prompt: Line) -> None:
    files.write("one", said("go"), answer("a"), prompt, answer("b"))
    assert [run.started_at for run in files.runs()] == [seconds(0), seconds(20)]


INTERRUPTED = user([{"type": "text", "text": "[Request interrupted by user for tool use]"}])
STOPPED = {"type": "system", "subtype": "stop_hook_summary"}


@pytest.mark.parametrize(
    ("lines", "status", "message", "session"),
    [
        ([answer("a")], "success", "", "complete"),
        ([asks("a")], "blocked", "stopped before the agent answered", "continue"),
        ([asks("a"), tool_result("toolu_1"), STOPPED], "success", "", "complete"),
        ([asks("a"), INTERRUPTED], "blocked", "interrupted by a person", "continue"),
        ([asks("a"), INTERRUPTED, answer("b")], "success", "", "complete"),
        ([answer("a"), api_error("529 busy")], "error", "529 busy", "error"),
        ([api_error("529 busy")], "error", "529 busy", "error"),
        ([api_error("529 busy"), answer("a")], "success", "", "complete"),
    ],
)
def test_how_a_run_and_its_session_ended(
    files: Files, lines: list[Line], status: str, message: str, session: str
) -> None:
    files.write("one", said("go"), *lines)
    (run,) = files.runs()
    assert (run.status, run.error_message) == (status, message)
    (end,) = (event for event in files.events() if isinstance(event, SessionEnd))
    assert (end.status, end.at) == (session, seconds(10 * len(lines)))


def test_what_claude_code_says_itself_is_no_response(files: Files) -> None:
    files.write("one", said("go"), assistant("m", "", "<synthetic>", {"input_tokens": 0}))
    report = files.plan().report
    assert report.sessions == []
    assert report.sessions_unanswered == 1
    assert report.faults.counts == {"assistant: written by Claude Code itself, not by a model": 1}


def test_artifacts_are_what_tools_say_they_made(files: Files) -> None:
    commit = {"stdout": "[feature/x 1a2b3c4] Fix\n[main (root-commit) abcdef0] Start\n[x] no"}
    files.write(
        "one",
        asks("a"),
        tool_result("t", {"filePath": "/home/dev/orchard/src/a.py", "structuredPatch": []}),
        tool_result("t", {"filePath": "/etc/hosts", "structuredPatch": [1]}),
        tool_result("t", {"filePath": "/home/dev/orchard/only-read.py"}),
        tool_result("t", commit),
        tool_result("t", {"filePath": "/home/dev/orchard/src/a.py", "structuredPatch": []}),
        answer("b"),
    )
    assert files.runs()[0].artifacts == [
        "file:src/a.py",
        "file:/etc/hosts",
        "commit:1a2b3c4",
        "commit:abcdef0",
    ]


# Subagents.


def test_artifacts_are_found_in_whichever_copy_has_them(files: Files) -> None:
    made = tool_result("t", {"filePath": "/x/y", "structuredPatch": []})
    files.write("1/one", said("go"), answer("a"))
    files.write("2/one", said("go"), answer("a"), made)
    files.write("3/one", said("go"), answer("a"))
    assert [run.artifacts for run in files.runs()] == [["file:/x/y"]]


def test_artifacts_never_make_an_event_too_large(files: Files) -> None:
    paths = [f"/srv/{number:05}/{'x' * 3000}" for number in range(30)]
    made = [tool_result("t", {"filePath": path, "structuredPatch": []}) for path in paths]
    short = [tool_result("t", {"filePath": f"/{n}", "structuredPatch": []}) for n in range(2000)]
    files.write("long", answer("a"), *made)
    files.write("many", answer("b"), *short, sessionId="two")
    long, many = sorted(files.runs(), key=lambda run: run.run_id)
    assert long.artifacts == [f"file:{path}" for path in paths[: len(long.artifacts)]]
    assert 0 < len(msgspec.msgpack.encode(long)) < EVENT_BYTES_MAX // 2
    assert len(many.artifacts) == ARTIFACTS_MAX


def test_a_subagent_has_the_type_it_was_asked_for_and_its_parent(files: Files) -> None:
    files.write("one", said("go"), asks("a", subagent_type="Explore"), result_of("a1"), answer("b"))
    lines = [said("look"), asks("c"), answer("d")]
    files.write("one/subagents/agent-a1", *lines, agentId="a1", isSidechain=True)
    runs = {run.agent_name: run for run in files.runs()}
    assert runs.keys() == {"claude-code", "Explore"}
    assert runs["Explore"].parent_run_id == runs["claude-code"].run_id
    assert runs["Explore"].attrs == {"agent_id": "a1", "version": "2.1.39"}
    assert runs["Explore"].output_tokens == 10


def test_a_completed_subagent_may_end_with_a_tool_call(files: Files) -> None:
    files.write("one", said("go"), asks("a", subagent_type="Explore"), result_of("a1"), answer("b"))
    files.write("one/subagents/agent-a1", said("look"), asks("c"), agentId="a1")
    assert {run.agent_name: run.status for run in files.runs()} == {
        "claude-code": "success",
        "Explore": "success",
    }


@pytest.mark.parametrize(
    ("agent_id", "agent"),
    [("a1", "subagent"), ("acompact-0f1e2d", "compact"), ("aprompt_suggestion-0f1e", None)],
)
def test_an_agent_that_nobody_names(files: Files, agent_id: str, agent: str | None) -> None:
    files.write(f"agent-{agent_id}", said("look"), answer("c"), agentId=agent_id)
    assert [run.agent_name for run in files.runs()] == [agent or "prompt-suggestion"]


def test_a_compaction_is_known_at_once(files: Files) -> None:
    files.write("one", said("go"), answer("a"), live=True)
    files.write("one/subagents/agent-acompact-0f", said("sum up"), answer("c"))
    assert files.usages() == ["msg_c"]


def test_a_subagent_whose_type_is_not_known_yet_waits(files: Files) -> None:
    main = [said("go"), asks("a", subagent_type="Plan"), answer("b")]
    files.write("one", *main, live=True)
    files.write("one/subagents/agent-a1", said("look"), answer("c"), agentId="a1")
    assert files.usages() == ["msg_a"]
    files.write("one", *main[:2], result_of("a1"), main[2], live=True)
    assert files.usages() == ["msg_a", "msg_c"]


def test_progress_or_a_description_names_a_subagent_too(files: Files) -> None:
    progress = {
        "type": "progress",
        "parentToolUseID": "toolu_1",
        "data": {"type": "agent_progress", "agentId": "a1"},
    }
    files.write("one", said("go"), asks("a", subagent_type="Plan"), progress, answer("b"))
    files.write("one/subagents/agent-a1", said("look"), answer("c"), agentId="a1")
    path = files.write("one/subagents/agent-a2", said("look"), answer("d"), agentId="a2")
    path.with_suffix(".meta.json").write_text('{"agentType":"Explore","toolUseId":"toolu_1"}')
    runs = {run.agent_name: run for run in files.runs()}
    assert runs.keys() == {"claude-code", "Plan", "Explore"}
    assert runs["Explore"].parent_run_id == runs["Plan"].parent_run_id != ""


def test_a_compaction_belongs_to_the_turn_that_was_going_on(files: Files) -> None:
    main = [said("go"), asks("a"), {"type": "system"}, {"type": "system"}, answer("b")]
    compaction = (said("sum up") | {"timestamp": seconds(25).isoformat()}, answer("c"))
    files.write("one", *main, live=True)
    files.write("one/subagents/agent-acompact-1", *compaction)
    # Whether the turn is still going on then is not known before it ends.
    assert files.runs() == []
    files.write("one", *main)
    runs = {run.agent_name: run for run in files.runs()}
    assert runs["compact"].parent_run_id == runs["claude-code"].run_id
    files.write("one", *main[:2])
    assert {run.parent_run_id for run in files.runs()} == {""}


def test_older_versions_write_a_subagent_into_the_main_file(files: Files) -> None:
    side = {"isSidechain": True}
    files.write(
        "one",
        said("go"),
        asks("a"),
        said("look") | side | {"uuid": "s1", "parentUuid": None},
        said("look too") | side | {"uuid": "t1", "parentUuid": None},
        answer("c") | side | {"uuid": "s2", "parentUuid": "s1"},
        answer("d") | side | {"uuid": "t2", "parentUuid": "t1"},
        answer("b"),
    )
    runs = {run.run_id.split(":")[2]: run for run in files.runs()}
    assert {name: run.agent_name for name, run in runs.items()} == {
        "msg_a": "claude-code",
        "msg_c": "subagent",
        "msg_d": "subagent",
    }
    assert runs["msg_c"].parent_run_id == runs["msg_a"].run_id
