"""Answers to questions, from durable state only (``server.desk.Answers``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from tallymarkd.core.engine import Engine
from tallymarkd.core.overview import overview
from tallymarkd.core.project_state import snapshot
from tallymarkd.health import Vitals
from tallymarkd.server.desk import Condition

PROBE_SECONDS = 5.0
"""How long a deep health check waits for its probe."""


@dataclass(slots=True)
class BooksAnswers:
    """Answers out of the books. Loop thread only."""

    vitals: Vitals
    engine: Engine

    def projects(self) -> bytes:
        """See ``Answers``."""
        books = self.engine.books
        return msgspec.json.encode(
            [overview(snapshot(state)) for _, state in sorted(books.projects.items())]
        )

    def state(self, project: str) -> bytes | None:
        """See ``Answers``."""
        state = self.engine.books.projects.get(project)
        return None if state is None else msgspec.json.encode(snapshot(state))

    def health(self, deep: bool, done: Callable[[Condition], None]) -> None:
        """See ``Answers``."""
        if not deep:
            done(self.vitals.condition())
            return
        answered = False

        def answer(problem: str) -> None:
            nonlocal answered
            if not answered:
                answered = True
                timer.cancel()
                done(self.vitals.condition(probe_failed=problem))

        timer = asyncio.get_running_loop().call_later(
            PROBE_SECONDS, answer, f"nothing was durable within {PROBE_SECONDS:g} s"
        )
        self.engine.probe(lambda error: answer("" if error is None else str(error)))
