"""Small transcripts, written line by line for one test."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tallymark.events import Event, RunEnd, Usage
from tallymarkd.sources.claude_code import ImportPlan, read_transcripts
from tallymarkd.sources.claude_files import find_transcripts
from tests.transcript_lines import assistant, tool_result, user

START = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
LATER = START + timedelta(hours=20)
LINE_SECONDS = 10

Line = dict[str, Any]


def said(text: str) -> Line:
    return user(text)


def answer(name: str, output: int = 5, /, **block: Any) -> Line:
    line = assistant(f"msg_{name}", f"req_{name}", "claude-opus-4-6", {"input_tokens": 7})
    line["message"]["usage"]["output_tokens"] = output
    line["message"]["content"] = [block or {"type": "text", "text": "…"}]
    return line


def asks(name: str, tool: str = "toolu_1", **given: str) -> Line:
    return answer(name, type="tool_use", id=tool, name="Task", input=given)


class Files:
    """Transcripts below one directory. Line n of each was written 10 n seconds after START."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = LATER

    def write(self, name: str, *lines: Line | bytes, live: bool = False, **common: Any) -> Path:
        path = self.root / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        raws = []
        for number, line in enumerate(lines):
            at = (START + timedelta(seconds=LINE_SECONDS * number)).isoformat()
            whole = {"timestamp": at, "sessionId": "one", "uuid": f"{name}-{number}"}
            whole |= {"cwd": "/home/dev/orchard", "gitBranch": "main", "version": "2.1.39"}
            raws.append(
                line if isinstance(line, bytes) else json.dumps(whole | common | line).encode()
            )
        path.write_bytes(b"\n".join(raws) + b"\n")
        touched = (self.now if live else START).timestamp()
        os.utime(path, (touched, touched))
        return path

    def plan(self, **given: Any) -> ImportPlan:
        options: dict[str, Any] = {"now": self.now, "project_of": os.path.basename} | given
        return read_transcripts(find_transcripts(self.root, {}), **options)

    def events(self) -> list[Event]:
        return [event for _, event in self.plan().events()]

    def runs(self) -> list[RunEnd]:
        return [event for event in self.events() if isinstance(event, RunEnd)]

    def usages(self) -> list[str]:
        found = (event for event in self.events() if isinstance(event, Usage))
        return [usage.dedupe_key.split(":")[1] for usage in found]


def seconds(count: int) -> datetime:
    return START + timedelta(seconds=count)


def api_error(text: str) -> Line:
    line = assistant("uuid-of-error", "", "<synthetic>", {"input_tokens": 0})
    line["message"]["content"] = [{"type": "text", "text": text}]
    return line | {"isApiErrorMessage": True}


def result_of(agent: str, tool: str = "toolu_1") -> Line:
    return tool_result(tool, {"agentId": agent, "status": "completed"})
