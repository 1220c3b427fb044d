"""Answers to questions, from durable state only (``server.desk.Answers``)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from tallymarkd._version import __version__
from tallymarkd.core.engine import Engine
from tallymarkd.core.holds import Held, Holds
from tallymarkd.core.overview import overview
from tallymarkd.core.project_state import snapshot
from tallymarkd.health import Vitals, condition
from tallymarkd.server.desk import Condition

PROBE_SECONDS = 4.0
"""How long a deep health check waits for its probe: less than the 5 s for which the library
waits for an answer, so that it hears of a probe that failed."""

log = logging.getLogger("tallymarkd")


@dataclass(slots=True)
class BooksAnswers:
    """Answers out of the books. Loop thread only."""

    vitals: Vitals
    engine: Engine
    holds: Holds
    owns: Callable[[int], bool]
    """Whether a user is the daemon's own, or root."""

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
            done(condition(self.vitals))
            return
        answered = False

        def answer(problem: str) -> None:
            nonlocal answered
            if not answered:
                answered = True
                timer.cancel()
                done(condition(self.vitals, probe_failed=problem))

        timer = asyncio.get_running_loop().call_later(
            PROBE_SECONDS, answer, f"nothing was durable within {PROBE_SECONDS:g} s"
        )
        self.engine.probe(lambda error: answer("" if error is None else str(error)))

    def hold(self, uid: int, done: Callable[[bytes, str], None]) -> Callable[[], None]:
        """See ``Answers``."""
        if not self.owns(uid):
            done(b"", "cannot hold history: only the daemon's own user and root may")
            return lambda: None

        def ready() -> None:
            # What was acknowledged before the question is durable, and so at most this.
            held = Held(
                durable_lsn=self.vitals.journal.durable_lsn,
                state_dir=str(self.vitals.settings.state_dir),
                server_id=self.engine.books.server.server_id,
                version=__version__,
            )
            log.info("no history is retired while a backup is taken")
            done(msgspec.json.encode(held), "")

        return self.holds.take(ready)
