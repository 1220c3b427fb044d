"""One transcript, line by line: what counts, and what is not understood."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tallymark.events import Usage
from tallymarkd.sources import claude_transcript
from tallymarkd.sources.claude_lines import TokenCount
from tests.claude_files import START, Files, Line, answer, api_error, said, seconds
from tests.transcript_lines import tool_result

# Responses.


def test_a_response_counts_once_with_its_last_line(files: Files) -> None:
    files.write("one", said("go"), answer("a", 1), answer("a", 30), answer("a", 20))
    usage = next(event for event in files.events() if isinstance(event, Usage))
    assert usage.output_tokens == 20
    assert usage.at == seconds(30)
    assert usage.dedupe_key == "anthropic:msg_a:req_a"
    assert usage.attrs == {"request_id": "req_a", "version": "2.1.39"}


def test_a_response_without_request_id_is_known_by_its_message(files: Files) -> None:
    line = answer("a")
    del line["requestId"]
    files.write("one", line)
    assert {event.dedupe_key for event in files.events() if isinstance(event, Usage)} == {
        "anthropic:msg_a"
    }


def test_input_includes_the_cache(files: Files) -> None:
    line = answer("a", 4)
    line["message"]["usage"] |= {
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 20,
    }
    files.write("one", line)
    usage = next(event for event in files.events() if isinstance(event, Usage))
    assert usage.input_tokens == 127
    assert (usage.cache_read_tokens, usage.cache_write_tokens) == (100, 20)


def test_a_response_without_usage_is_reported(files: Files) -> None:
    line = answer("a")
    line["message"]["usage"] = None
    files.write("one", said("go"), line)
    assert files.usages() == []
    assert files.plan().report.responses_without_usage == 1
    assert [run.input_tokens for run in files.runs()] == [0]


# What is not understood.


def test_a_line_that_is_too_long_is_skipped(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude_transcript, "LINE_BYTES_MAX", 2048)
    files.write("one", said("go"), answer("a"), said("x" * 9000), answer("b"))
    assert files.usages() == ["msg_a", "msg_b"]
    report = files.plan().report
    assert sum(report.faults.counts.values()) == 1
    assert report.lines == 4


def test_odd_fields_do_not_cost_a_line_its_tokens(files: Files) -> None:
    odd: Line = {"gitBranch": 5, "version": [1], "cwd": {"a": 1}, "uuid": 7, "toolUseResult": 3}
    files.write("one", said("go") | odd, answer("a") | odd)
    assert files.usages() == ["msg_a"]
    assert files.plan().report.faults.counts == {}


@pytest.mark.parametrize("content", ["text", [{"type": 7}], [None], {"a": 1}])
def test_content_of_any_kind_does_not_cost_a_response_its_tokens(
    files: Files, content: Any
) -> None:
    line = answer("a", 12)
    line["message"]["content"] = content
    files.write("one", said("go"), line)
    assert files.plan().report.tokens == TokenCount(7, 0, 0, 12)


@pytest.mark.parametrize("cut", [r"\ud83d", r"\uDE00", r"\ud83d\ud83d\ude00", r"\\\udbff x"])
def test_text_that_was_cut_inside_a_character_is_no_obstacle(files: Files, cut: str) -> None:
    line = answer("a", type="text", text="CUT")
    result = tool_result("t", {"stdout": "[main 1a2b3c4] CUT"})
    path = files.write("one", said("CUT"), line, result)
    raw = path.read_bytes().replace(b"CUT", cut.encode())
    path.write_bytes(raw)
    os.utime(path, (0, 0))
    assert [run.artifacts for run in files.runs()] == [["commit:1a2b3c4"]]
    assert files.usages() == ["msg_a"]
    assert files.plan().report.faults.counts == {}


def test_a_whole_character_and_an_escaped_backslash_stay_as_they_are(files: Files) -> None:
    text = r"\ud83d and \ud83d\ude00 and \\ud83d"
    path = files.write("one", said("go"), api_error("TEXT"))
    path.write_bytes(path.read_bytes().replace(b"TEXT", text.encode()))
    os.utime(path, (0, 0))
    assert files.runs()[0].error_message == "\ufffd and \U0001f600 and \\ud83d"


def test_a_line_that_a_crash_tore_costs_only_itself(files: Files) -> None:
    """What was written on after the crash stands in the same line."""
    path = files.write("one", said("go"), answer("a", 1), answer("b", 2), answer("c", 4))
    raws = path.read_bytes().split(b"\n")
    torn = raws[1][: raws[1].index(b'"output_tokens"')] + raws[2]
    path.write_bytes(b"\n".join([raws[0], torn, *raws[3:]]))
    os.utime(path, (START.timestamp(), START.timestamp()))

    plan = files.plan()

    assert plan.report.faults.counts == {"not JSON": 1}
    assert plan.report.responses == 2
    assert plan.report.tokens.output == 6


def test_an_object_in_a_line_that_is_not_json_is_no_line(files: Files) -> None:
    inner = json.dumps(answer("b", 2)).encode()
    files.write("one", said("go"), answer("a", 1), b'{"broken: ' + inner + b"}")
    plan = files.plan()

    assert plan.report.responses == 1
