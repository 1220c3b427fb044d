"""What an import of transcripts found and gives, in figures."""

from __future__ import annotations

from datetime import datetime

import msgspec

from tallymarkd.sources.claude_items import Faults
from tallymarkd.sources.claude_lines import TokenCount


class AgentCount(msgspec.Struct):
    """One agent's share of a session."""

    runs: int = 0
    responses: int = 0
    tokens: TokenCount = TokenCount()


class SessionReport(msgspec.Struct, kw_only=True):
    """One session: what is given, and what waits for the next import.

    ``responses_without_usage`` have no tokens anywhere in the files; they belong
    to their run and count nothing. ``live`` says that the session may go on.
    """

    session_id: str
    project: str
    started_at: datetime
    ended_at: datetime
    live: bool
    runs: int = 0
    runs_by_status: dict[str, int] = {}
    responses: int = 0
    tokens: TokenCount = TokenCount()
    agents: dict[str, AgentCount] = {}
    runs_waiting: int = 0
    responses_waiting: int = 0
    responses_without_usage: int = 0

    def add_response(self, agent: str, tokens: TokenCount) -> None:
        """Count a response that is given."""
        share = self.agents.setdefault(agent, AgentCount())
        share.responses += 1
        share.tokens = share.tokens + tokens
        self.responses += 1
        self.tokens = self.tokens + tokens

    def add_run(self, agent: str, status: str) -> None:
        """Count a run that is given."""
        self.agents.setdefault(agent, AgentCount()).runs += 1
        self.runs += 1
        self.runs_by_status[status] = self.runs_by_status.get(status, 0) + 1


class ImportReport:
    """The whole import. ``sessions`` are those in which a model answered;
    ``faults`` are lines, or parts of lines, that were not understood;
    ``unreadable`` says for each file that could not be read why."""

    def __init__(self, *, faults: Faults) -> None:
        self.faults = faults
        self.files = 0
        self.lines = 0
        self.unreadable: dict[str, str] = {}
        self.sessions: list[SessionReport] = []
        self.sessions_unanswered = 0

    @property
    def runs(self) -> int:
        """Runs that are given."""
        return sum(session.runs for session in self.sessions)

    @property
    def responses(self) -> int:
        """Responses that are given."""
        return sum(session.responses for session in self.sessions)

    @property
    def tokens(self) -> TokenCount:
        """Tokens of the responses that are given."""
        return sum((session.tokens for session in self.sessions), TokenCount())

    @property
    def runs_waiting(self) -> int:
        """Runs whose end has not been written yet."""
        return sum(session.runs_waiting for session in self.sessions)

    @property
    def responses_waiting(self) -> int:
        """Responses that may still grow, or whose agent is not known yet."""
        return sum(session.responses_waiting for session in self.sessions)

    @property
    def responses_without_usage(self) -> int:
        """Responses of which no line says what they used."""
        return sum(session.responses_without_usage for session in self.sessions)

    @property
    def agents(self) -> dict[str, AgentCount]:
        """Each agent's share of the whole, by name."""
        total: dict[str, AgentCount] = {}
        for session in self.sessions:
            for name, share in session.agents.items():
                found = total.setdefault(name, AgentCount())
                found.runs += share.runs
                found.responses += share.responses
                found.tokens = found.tokens + share.tokens
        return dict(sorted(total.items()))
