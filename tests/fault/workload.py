"""A daemon's life on one thread, recorded: every operation on the disk, and with
each what had been acknowledged before it.

Agents of three projects publish in groups; files are saved and segments retired
while they do; the disk is full for a while; the daemon is killed, stops in good
order, and starts again. All of it follows from a seed.
"""

from __future__ import annotations

import errno
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tallymark.fs import OsFileSystem
from tallymarkd.storage.index import KeyIndex
from tests.daemon_parts import run_end, usage
from tests.fault.account import Account, Agent, Batch, Event, Standing
from tests.fault.core import Conversation, Core, Died, come_back
from tests.faulty_fs import FaultyFs, Operation

PROJECTS = ("alpha", "beta", "gamma")
HISTORY_BYTES_MAX = 24 * 1024
TOKENS_MAX = 2**39
RECENT_KEYS = 8
"""How far back a repeated key goes: much less than the history that is kept."""

IndexState = tuple[int, tuple[tuple[int, int], ...]]
"""What ``index.sqlite`` holds: through which number, and (key, number) pairs."""


@dataclass
class Tape:
    """The record: ``operations`` that changed something, and for the moment before
    each (and after the last) the account's ``standings`` and the ``indexes``' number
    among ``index_states``. ``images`` are all states there were, by
    applied LSN. ``died`` when the daemon has ended its own process.
    """

    operations: list[Operation] = field(default_factory=list)
    standings: list[Standing] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    index_states: list[IndexState] = field(default_factory=list)
    images: dict[int, bytes] = field(default_factory=dict)
    agents: list[Agent] = field(default_factory=list)
    died: bool = False


class IndexWatch:
    """Sees what others commit to ``index.sqlite``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._version = -1

    def changed(self) -> IndexState | None:
        """The content, when it is another than at the last look."""
        if self._db is None:
            if not self._path.exists() or not self._path.stat().st_size:
                return None
            self._db = sqlite3.connect(
                f"file:{self._path}?mode=ro", uri=True, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return None
        try:
            state = read_index(self._db)
        except sqlite3.OperationalError:  # it is being made: no table yet
            return None
        self._version = version
        return state

    def close(self) -> None:
        """Look no more."""
        if self._db is not None:
            self._db.close()


def read_index(db: sqlite3.Connection) -> IndexState:
    """What an index holds."""
    keys = db.execute("SELECT key, lsn FROM keys ORDER BY key").fetchall()
    row = db.execute("SELECT value FROM meta WHERE name = 'through_lsn'").fetchone()
    return (row[0] if row else 0), tuple(keys)


class Recorder:
    """Makes the tape, as the hook of a ``FaultyFs``."""

    def __init__(self, fs: FaultyFs, root: Path) -> None:
        self.tape = Tape(index_states=[(0, ())])
        self.account = Account()
        self.core: Core | None = None
        self.during: Callable[[], object] = lambda: None
        self.died = False
        self.fs = fs
        self._index = IndexWatch(root / "index.sqlite")
        fs.before = self._before

    def _before(self, operation: Operation) -> None:
        if operation.changes:
            self.during()
            self._note()

    def _note(self) -> None:
        given = self.core.journal.next_lsn - 1 if self.core else 0
        tape = self.tape
        tape.standings.append(self.account.standing(given))
        state = self._index.changed()
        if state is not None and state != tape.index_states[-1]:
            tape.index_states.append(state)
        tape.indexes.append(len(tape.index_states) - 1)

    def finish(self) -> Tape:
        """The tape, whole."""
        self._note()
        self._index.close()
        tape = self.tape
        tape.operations = [each for each in self.fs.operations if each.changes]
        assert len(tape.standings) == len(tape.operations) + 1
        tape.agents = list(self.account.agents.values())
        tape.died = self.died
        return tape


class Workload:
    """Agents and a daemon, by chance."""

    def __init__(self, root: Path, seed: int) -> None:
        self.fs = FaultyFs(OsFileSystem())
        self._root = root
        self._choice = random.Random(seed)
        self._numbers = iter(range(10**9))
        self._recorder = Recorder(self.fs, root)
        self._account = self._recorder.account
        self._lives = 0
        self._keys: dict[str, list[str]] = {project: [] for project in PROJECTS}
        self._talks: dict[str, Conversation] = {}
        self._busy = False
        self._begin()

    # Lives.

    def _begin(self) -> None:
        """A daemon starts; agents come back and send again."""
        self._lives += 1
        self._recorder.core = None
        core = Core(
            self.fs, self._root, self._account, seed=self._lives,
            history_bytes_max=HISTORY_BYTES_MAX,
        )  # fmt: skip
        self._recorder.core = self.core = core
        self.core.images.update(self._recorder.tape.images)
        self._recorder.tape.images = core.images
        self._account.after_recovery(core.books)
        self._talks = come_back(core, self._account.agents.values())

    def kill(self) -> None:
        """SIGKILL in the middle of something, and a new daemon."""
        self._publish_some(3)
        self.core.abandon()
        self._begin()

    def restart(self) -> None:
        """A stop in good order, and a new daemon."""
        self.core.stop()
        self._begin()

    # What happens.

    def run(self, steps: int, fail_sync: int | None = None) -> Tape:
        """So many steps, with kills and a stop on the way; gives the tape.

        It ends early when the daemon does: the sync of the journal with the number
        ``fail_sync`` fails.
        """
        if fail_sync is not None:
            self.fs.fail("sync_data", errno.EIO, skip=fail_sync)
        try:
            self._live(steps)
        except (Died, OSError):  # in the committer, or in a recovery
            self._recorder.died = True
        self.core.abandon()
        return self._recorder.finish()

    def _live(self, steps: int) -> None:
        for step in range(steps):
            if step in (steps // 3, steps * 4 // 5):
                self.kill()
            elif step == steps * 3 // 5:
                self.restart()
            self._step()

    def _step(self) -> None:
        choice = self._choice.random()
        if choice < 0.08 and not self.fs.faults:
            self._full_disk()
        elif choice < 0.16:
            self.core.mark()
        elif choice < 0.28:
            self._post()
        elif choice < 0.34:
            self._leave()
        self._publish_some(self._choice.randint(1, 4))
        self.core.commit()
        if self._choice.random() < 0.3:
            self._publish_some(1)  # it is on its way while files are saved
        self._recorder.during = self._meanwhile
        self.core.pass_time(1.0)
        self._recorder.during = lambda: None
        self.core.commit()

    def _meanwhile(self) -> None:
        """While a file is saved, now and then a batch is committed."""
        if not self._busy and self._choice.random() < 0.15:
            self._busy = True
            self._publish_some(1)
            self.core.commit()
            self._busy = False

    def _full_disk(self) -> None:
        """No room for some commits; then there is, and what was not kept comes again."""
        kind = self._choice.choice(["write", "write", "allocate"])
        # A part of what is written may find room, whole records of it too.
        written = self._choice.choice([0, 200, 600, 1500]) if kind == "write" else 0
        skip = self._choice.randint(0, 1)
        self.fs.fail(kind, errno.ENOSPC, times=2, skip=skip, written=written)
        self._publish_some(3)
        self.core.commit()
        self.fs.heal()
        for talk in self._talks.values():
            talk.send_rest()
        self.core.commit()

    # What agents do.

    def _publish_some(self, count: int) -> None:
        for _ in range(count):
            agent = self._agent()
            if self._choice.random() < 0.05:
                self._freeze(agent, ())
            else:
                events = range(self._choice.choice([1, 1, 2, 5]))
                self._freeze(agent, tuple(self._event(agent.project) for _ in events))
            self._talks[agent.name].send_rest()

    def _agent(self) -> Agent:
        # The last project grows quiet, and must not hold history back.
        quiet = len(self._account.agents) > 4
        project = self._choice.choice(PROJECTS[:2] if quiet else PROJECTS)
        of_project = [
            agent for agent in self._account.agents.values()
            if agent.project == project and not agent.gone
        ]  # fmt: skip
        if len(of_project) > 1:
            return self._choice.choice(of_project)
        name = f"0194a0b2-0000-7000-8000-{len(self._account.agents) + 1:012d}"
        agent = self._account.join(name, project)
        self._talks[name] = self.core.open(agent)
        return agent

    def _freeze(self, agent: Agent, events: tuple[Event, ...]) -> None:
        agent.batches.append(Batch(agent.name, len(agent.batches) + 1, agent.project, events))

    def _event(self, project: str) -> Event:
        number = next(self._numbers)
        tokens = self._choice.randrange(TOKENS_MAX)
        kind = self._choice.random()
        agent = self._choice.choice(["coding", "Explore"])
        if kind < 0.1:
            return usage(cache_read_tokens=9, input_tokens=8, event_id=f"bad-{number}")
        if kind < 0.5:
            return usage(self._key(project, number), agent_name=agent, input_tokens=tokens)
        return run_end(number, agent_name=agent, input_tokens=tokens, event_id=f"run-{number}")

    def _key(self, project: str, number: int) -> str:
        """A new key, or one that was used a while before.

        Not long before: keys are remembered for as long as the history is.
        """
        known = self._keys[project]
        if known and self._choice.random() < 0.3:
            return self._choice.choice(known[-RECENT_KEYS:])
        known.append(f"key-{number}")
        return known[-1]

    def _post(self) -> None:
        """Events over HTTP."""
        project = self._choice.choice(PROJECTS[:2])
        events = tuple(
            run_end(number := next(self._numbers), event_id=f"post-{number}",
                    input_tokens=self._choice.randrange(TOKENS_MAX))
            for _ in range(self._choice.randint(1, 3))
        )  # fmt: skip
        self.core.post(Batch("", 0, project, events))

    def _leave(self) -> None:
        """An agent that has seen everything acknowledged says goodbye."""
        done = [
            agent for agent in self._account.agents.values()
            if not agent.gone and agent.acked == len(agent.batches) > 0
        ]  # fmt: skip
        if done:
            self._talks.pop(done[0].name).goodbye()


def record(root: Path, *, seed: int, steps: int, fail_sync: int | None = None) -> Tape:
    """Run a workload in a directory; gives its tape."""
    return Workload(root, seed).run(steps, fail_sync)


def index_file(path: Path, state: IndexState) -> None:
    """Write an index that holds this."""
    with closing(KeyIndex.open(path)) as index:
        through_lsn, keys = state
        index.add(keys, through_lsn)
