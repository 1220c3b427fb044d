"""Makes trees of Claude Code transcripts that know their own figures.

A ``World`` is what a machine's agents wrote, line by line with the time of
writing, and what is true of it. It can be put on disk as it stood at any
moment: files are cut there, and touched when their last line was written.
Everything comes from one seed.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tallymarkd.sources.claude_lines import TokenCount
from tests.transcript_lines import (
    AGENT_TYPES,
    BROKEN,
    BROKEN_USAGE,
    MODELS,
    SYNTHETIC,
    RunTruth,
    Truth,
    Written,
    assistant,
    tool_result,
    user,
)

EPOCH = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
DIRECTORIES = ("/home/dev/orchard", "/home/dev/lighthouse")
IDLE = timedelta(hours=1)


@dataclass
class Told:
    """A session that was made, for others to copy from."""

    session: str
    path: str
    cwd: str
    ended: datetime
    sources: list[Told]

    def over_before(self, at: datetime) -> bool:
        """Whether this and all that it copied from had ended by then."""
        return self.ended < at and all(source.over_before(at) for source in self.sources)


class World:
    """Files by their path below the root, and what is true of them."""

    def __init__(self, seed: int, *, sessions: int = 3, broken: bool = True) -> None:
        self.random = random.Random(seed)
        self.broken = broken
        self.files: dict[str, list[Written]] = {}
        self.notes: dict[str, bytes] = {}
        self.truth = Truth()
        told: list[Told] = []
        for index in range(sessions):
            base = self.random.choice(told) if told and self.random.random() < 0.5 else None
            told.append(_Teller(self, index).tell(base))

    def moments(self) -> list[datetime]:
        """Every time at which something was written."""
        return sorted({line.at for lines in self.files.values() for line in lines})

    def end(self) -> datetime:
        """When the last line was written."""
        return self.moments()[-1]

    def write(self, root: Path, until: datetime | None = None, *, torn: bool = False) -> None:
        """Put the files on disk as they stood at ``until``; ``torn`` leaves half of
        the line that was written next."""
        for name, lines in self.files.items():
            there = [line for line in lines if until is None or line.at <= until]
            path = root / name
            if not there:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = b"".join(line.raw + b"\n" for line in there)
            touched = there[-1].at
            if torn and until is not None and len(there) < len(lines):
                following = lines[len(there)].raw
                raw += following[: len(following) // 2]
                touched = until
            path.write_bytes(raw)
            os.utime(path, (touched.timestamp(), touched.timestamp()))
            if name in self.notes:
                path.with_suffix(".meta.json").write_bytes(self.notes[name])


class _Teller:
    """Tells one session, with its subagents, into the files of a world."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.random = world.random
        self.session = self.fresh("session")
        self.cwd = self.random.choice(DIRECTORIES)
        self.path = f"-home-dev/{self.session}.jsonl"
        self.version = self.random.choice(("1.0.60", "2.0.55", "2.1.39"))
        self.at = EPOCH + timedelta(hours=index * self.random.choice((0.1, 3)))
        self.answered = self.at
        self.agent_id = ""
        self.sidechain = ""

    def fresh(self, kind: str) -> str:
        """An id that no other thing has."""
        return f"{kind}-{self.random.getrandbits(64):016x}"

    def tell(self, base: Told | None) -> Told:
        """A whole session; with ``base`` one that begins with its history."""
        if base is not None:
            self.copy(base)
        else:
            self.put({"type": "file-history-snapshot"}, envelope=False)
            self.put({"type": "progress", "data": {"type": "hook_progress"}})
        for _ in range(self.random.randint(1, 4)):
            self.turn()
            self.wait(1, self.random.choice((30, 9000)))
            if self.random.random() < 0.2:
                self.move()
                self.turn()
        return Told(self.session, self.path, self.cwd, self.at, [base] if base else [])

    def copy(self, base: Told) -> None:
        """Begin with the history of ``base``, whole or cut anywhere, also in a response."""
        written = self.world.files[base.path]
        begin = self.random.choice(written).at
        self.at = max(self.at, begin)
        there = [line for line in written if line.at <= self.at]
        if self.random.random() < 0.5:
            there = there[: self.random.randint(1, len(there))]
        self.cwd = base.cwd
        ways = ["kept", "told"] + (["silent"] if base.over_before(self.at) else [])
        way = self.random.choice(ways)
        self.wait(2, 20)
        for line in there:
            raw = line.raw if way == "kept" else self.rewritten(line.raw, base, way)
            self.count_fault(line.raw)
            self.world.files.setdefault(self.path, []).append(Written(self.at, raw))
        resumed = {"type": "hook_progress", "hookEvent": "SessionStart"}
        self.put({"type": "progress", "data": resumed}, at_once=True)

    def rewritten(self, raw: bytes, base: Told, way: str) -> bytes:
        """A line of history under the new session's id."""
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            return raw
        if not isinstance(line, dict) or "sessionId" not in line:
            return raw
        line["sessionId"] = self.session
        if way == "told":
            line["forkedFrom"] = {"sessionId": base.session, "messageUuid": line["uuid"]}
        return json.dumps(line).encode()

    def count_fault(self, raw: bytes) -> None:
        """A broken line that is copied is one more broken line."""
        for kind, broken in BROKEN:
            if raw == broken:
                self.world.truth.faults[kind] += 1
        if b'"broken-usage"' in raw:
            self.world.truth.faults["assistant: usage not understood"] += 1
        if b'"<synthetic>"' in raw and b"isApiErrorMessage" not in raw:
            self.world.truth.faults[SYNTHETIC] += 1

    def move(self) -> None:
        """Go on in a second file, which may begin with what the first one has."""
        before = self.world.files[self.path]
        self.wait(1, 3)
        self.path = f"-home-dev-moved-{self.fresh('to')}/{self.session}.jsonl"
        if self.random.random() < 0.5:
            for line in before:
                self.count_fault(line.raw)
                self.world.files.setdefault(self.path, []).append(Written(self.at, line.raw))
        self.put({"type": "progress", "data": {"type": "hook_progress"}})

    def turn(self) -> None:
        """A prompt and what comes of it. The first response names the run."""
        started = self.prompt("please look into it")
        count = self.random.randint(0, 4)
        status = "success"
        name = ""
        for index in range(count):
            final = index == count - 1
            asks = not final or self.random.random() < 0.1
            response = self.response("claude-code", asks_tool=asks)
            name = name or response
            status = "blocked" if asks else "success"
            if not final:
                self.between(name)
        ended = self.answered
        ending = self.random.random()
        if count and ending < 0.1:
            self.put(user([{"type": "text", "text": "[Request interrupted by user]"}]))
            status = "blocked"
        elif ending < 0.2:
            error = self.api_error()
            name, status, ended = name or error, "error", self.at
        elif count and ending < 0.5:
            self.put({"type": "system", "subtype": "turn_duration", "durationMs": 1000})
            status = "success"
        elif ending < 0.6:
            self.synthetic()
        if name:
            run = RunTruth("claude-code", self.session, status, "", started, ended)
            self.world.truth.runs[name] = run

    def prompt(self, text: str) -> datetime:
        """What a person asks, and when, with the lines around it that are no prompt."""
        if self.random.random() < 0.2:
            self.put(user("<command-name>/model</command-name>"))
            self.put(user("<local-command-stdout>Set model</local-command-stdout>"))
        content: Any = text if self.random.random() < 0.7 else [{"type": "text", "text": text}]
        self.put(user(content))
        asked = self.at
        if self.random.random() < 0.2:
            self.put(user("<local-command-stdout>Bye</local-command-stdout>"))
        if self.random.random() < 0.2:
            self.put({**user("Base directory for this skill: …"), "isMeta": True})
        return asked

    def between(self, run: str) -> None:
        """What may stand between two responses of a turn."""
        chance = self.random.random()
        if chance < 0.25:
            self.subagent(run)
        elif chance < 0.4:
            self.compaction(run)
        elif chance < 0.45:
            self.move()
        self.breakage()
        self.put(tool_result(self.fresh("toolu")))

    def response(self, agent: str, *, asks_tool: bool, task: dict[str, Any] | None = None) -> str:
        """One model response in one or more lines, its usage growing; gives its name."""
        message_id = self.fresh("msg")
        request_id = self.fresh("req") if self.random.random() < 0.95 else ""
        name = f"{message_id}:{request_id}" if request_id else message_id
        fixed = {
            "input_tokens": self.random.randint(0, 50),
            "cache_read_input_tokens": self.random.choice((0, self.random.randint(1, 90_000))),
            "cache_creation_input_tokens": self.random.choice((None, 0, 1234)),
        }
        output = 0
        lines = self.random.randint(1, 4)
        model = self.random.choice(MODELS)
        for index in range(lines):
            output += self.random.choice((0, 1, self.random.randint(0, 900)))
            block: dict[str, Any] = {"type": "text", "text": "…"}
            if index == lines - 1 and asks_tool:
                block = task or {"type": "tool_use", "id": self.fresh("toolu"), "name": "Bash"}
            line = assistant(message_id, request_id, model, {**fixed, "output_tokens": output})
            line["message"]["content"] = [block]
            self.put(line)
            self.answered = self.at
            if self.random.random() < 0.2:
                self.put({"type": "progress", "data": {"type": "hook_progress"}})
            if self.world.broken and self.random.random() < 0.1:
                self.broken_usage(message_id, request_id, model)
                self.answered = self.at
        read = fixed["cache_read_input_tokens"] or 0
        written = fixed["cache_creation_input_tokens"] or 0
        total = (fixed["input_tokens"] or 0) + read + written
        tokens = TokenCount(total, read, written, output)
        self.world.truth.responses[name] = (self.session, agent, tokens)
        return name

    def broken_usage(self, message_id: str, request_id: str, model: str) -> None:
        """A line of the response whose usage makes no sense."""
        usage = self.random.choice(BROKEN_USAGE)
        line = assistant(message_id, request_id, model, usage)
        line["slug"] = "broken-usage"
        self.put(line)
        self.world.truth.faults["assistant: usage not understood"] += 1

    def api_error(self) -> str:
        """An API error in place of a response; gives the name it would give a run."""
        line = assistant(self.fresh("error"), "", "<synthetic>", {"input_tokens": 0})
        line["isApiErrorMessage"] = True
        line["message"]["content"] = [{"type": "text", "text": "API Error: 529 overloaded"}]
        self.put(line)
        return str(line["message"]["id"])

    def synthetic(self) -> None:
        """A line that Claude Code wrote in the model's place."""
        self.put(assistant(self.fresh("none"), "", "<synthetic>", {"input_tokens": 0}))
        self.world.truth.faults[SYNTHETIC] += 1

    def breakage(self) -> None:
        """Perhaps a line that cannot be understood."""
        if self.world.broken and self.random.random() < 0.3:
            kind, raw = self.random.choice(BROKEN)
            self.wait(0, 1)
            self.world.files.setdefault(self.path, []).append(Written(self.at, raw))
            self.world.truth.faults[kind] += 1

    def subagent(self, run: str) -> None:
        """A subagent with a file of its own, or in older versions inside the main file."""
        agent_type = self.random.choice(AGENT_TYPES)
        tool_id = self.fresh("toolu")
        task = {
            "type": "tool_use",
            "id": tool_id,
            "name": self.random.choice(("Task", "Agent")),
            "input": {"subagent_type": agent_type, "prompt": "go"},
        }
        self.response("claude-code", asks_tool=True, task=task)
        if self.version.startswith("1."):
            self.thread(run, "subagent", sidechain=self.fresh("side"))
            self.put(tool_result(tool_id))
            return
        agent_id = f"a{self.random.getrandbits(28):07x}"
        known = self.random.choice(("result", "progress", "note"))
        if known == "progress":
            progress = {"type": "agent_progress", "agentId": agent_id}
            self.put({"type": "progress", "parentToolUseID": tool_id, "data": progress})
        note = json.dumps({"agentType": agent_type, "toolUseId": tool_id}).encode()
        self.thread(run, agent_type, agent_id, note=note if known == "note" else None)
        self.put(tool_result(tool_id, {"agentId": agent_id, "status": "completed"}))

    def compaction(self, run: str) -> None:
        """The main thread's history is summed up; its turn goes on."""
        self.thread(run, "compact", f"acompact-{self.random.getrandbits(24):06x}")
        self.put({"type": "system", "subtype": "compact_boundary"})
        self.put({**user("This session is being continued"), "isCompactSummary": True})

    def thread(
        self,
        run: str,
        agent: str,
        agent_id: str = "",
        *,
        sidechain: str = "",
        note: bytes | None = None,
    ) -> None:
        """The lines of a subagent."""
        outer = self.path
        if agent_id:
            folder = self.path.removesuffix(".jsonl")
            self.path = f"{folder}/subagents/agent-{agent_id}.jsonl"
            if note is not None:
                self.world.notes[self.path] = note
        self.agent_id, self.sidechain = agent_id, sidechain
        self.put(user("find out"))
        started = self.at
        first = ""
        for index in range(self.random.randint(1, 3)):
            if index:
                self.put(tool_result(self.fresh("toolu")))
            name = self.response(agent, asks_tool=False)
            first = first or name
        self.agent_id, self.sidechain = "", ""
        self.path = outer
        self.world.truth.runs[first] = RunTruth(
            agent, self.session, "success", run, started, self.answered
        )

    def wait(self, low: float, high: float) -> None:
        """Let time pass; seconds."""
        self.at += timedelta(milliseconds=self.random.randint(int(low * 1000), int(high * 1000)))

    def put(self, line: dict[str, Any], *, envelope: bool = True, at_once: bool = False) -> None:
        """Write one line to the present file."""
        if not at_once:
            self.wait(0, self.random.choice((1, 60)))
        if envelope:
            uuid = self.fresh("uuid")
            line = {
                **line,
                "uuid": uuid,
                "sessionId": self.session,
                "timestamp": self.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "isSidechain": bool(self.agent_id or self.sidechain),
                "cwd": self.cwd,
                "gitBranch": "main",
                "version": self.version,
            }
            if self.agent_id:
                line["agentId"] = self.agent_id
            if self.sidechain:
                line["parentUuid"] = self.sidechain
                self.sidechain = uuid
        raw = json.dumps(line, ensure_ascii=False).encode()
        self.world.files.setdefault(self.path, []).append(Written(self.at, raw))
        if envelope:
            self.world.truth.session_cwd.setdefault(self.session, self.cwd)
