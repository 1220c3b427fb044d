"""The composition root: every part made and joined here, and nowhere else."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tallymark import paths
from tallymark.errors import PathError, StorageError
from tallymark.fs import FileSystem, OsFileSystem
from tallymark.ids import uuid7
from tallymarkd import parts
from tallymarkd._version import __version__
from tallymarkd.adopting import Adopting, spooled_producers
from tallymarkd.answers import BooksAnswers
from tallymarkd.config import Settings
from tallymarkd.core.admission import Admission
from tallymarkd.core.checkpoint import Checkpointer
from tallymarkd.core.committer import EXIT_IO_ERROR, Committer, Ticket
from tallymarkd.core.engine import Engine
from tallymarkd.core.layout import Layout
from tallymarkd.core.pricing import Pricer
from tallymarkd.core.restore import Restored, restore
from tallymarkd.descriptors import make_room
from tallymarkd.health import Vitals, status_line
from tallymarkd.logs import set_up_logging
from tallymarkd.manager import Manager, on_terminal
from tallymarkd.next_steps import next_steps
from tallymarkd.place import refuse_unsafe
from tallymarkd.reloading import reload, tell
from tallymarkd.room import Room
from tallymarkd.server.desk import Desk, FramePool, ServerSettings
from tallymarkd.server.listener import Listener, listen
from tallymarkd.server.peer import is_root
from tallymarkd.server.server import FIRST_WORD_SECONDS, Server, own_uid
from tallymarkd.supervision import Supervision

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_SOFTWARE = 70
"""EX_SOFTWARE of sysexits.h: a fault of ours."""

START_PROBE_SECONDS = 2.0
"""Between two tries to make something durable, before the daemon calls itself ready."""

SWITCH_INTERVAL_SECONDS = 0.0002
"""How long the busy loop may keep the interpreter from the committer: with the
default of 5 ms a commit would wait that long for its turn."""

GC_THRESHOLD = 50_000
"""Allocations between two collections: decoded events are many and short-lived."""

PRIVATE_UMASK = 0o077
"""For files that others create for us: SQLite's."""

log = logging.getLogger("tallymarkd")


def run(
    settings: Settings,
    fs: FileSystem | None = None,
    env: MutableMapping[str, str] = os.environ,
) -> int:
    """Run the daemon until it is told to stop; gives its exit code.

    What a service manager left in ``env`` is obeyed and removed. Raises
    ``StorageError``, ``UsageError`` and ``OSError`` for what keeps it from starting.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    gc.set_threshold(GC_THRESHOLD)
    os.umask(PRIVATE_UMASK)
    # Nothing can be reloaded yet, and this is no reason to end.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    fs = fs or OsFileSystem()
    manager = Manager.from_environment(settings, fs, env)
    settings = manager.settings
    with locked_state_dir(fs, settings.state_dir):
        # Before recovery, so that who connects meanwhile waits and is not refused.
        listener = manager.listener or listen(fs, settings.socket)
        try:
            manager.notifier.starting("reading the journal")
            restored = _restore(fs, settings)
            return asyncio.run(_Daemon(settings, fs, restored, listener, manager, env).serve())
        finally:
            listener.close()


@contextlib.contextmanager
def locked_state_dir(fs: FileSystem, root: Path) -> Iterator[None]:
    """Hold the directory, checked and locked; the lock is never unlinked.

    Raises ``StorageError`` when another process holds it, or when it will not do now,
    ``PathError`` when it is no directory.
    """
    try:
        fs.mkdir(root)
        lock = fs.lock(Layout(root).lock)
    except BlockingIOError:
        raise StorageError(
            f"cannot use {root}: another tallymarkd runs on it, or a backup, restore or repair "
            "is at work there; stop or await that one, or choose another directory with "
            "--state-dir"
        ) from None
    except OSError as error:
        kind = PathError if paths.is_wrong(error) else StorageError
        raise kind(
            f"cannot use {root} as the state directory: {error.strerror or error}; "
            "choose another with --state-dir"
        ) from error
    try:
        refuse_unsafe(root)
        yield
    finally:
        fs.close(lock)


def _restore(fs: FileSystem, settings: Settings) -> Restored:
    try:
        return restore(
            fs, settings.state_dir, parts.journal_settings(settings), strict=settings.strict
        )
    except OSError as error:
        if error.filename is None:  # a write knows no name
            error.filename = str(settings.state_dir)
        raise


class _Daemon:
    """Everything that lives between the start and the stop."""

    def __init__(
        self,
        settings: Settings,
        fs: FileSystem,
        restored: Restored,
        listener: Listener,
        manager: Manager,
        env: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._fs = fs
        self._restored = restored
        self._listener = listener
        self._manager = manager
        self._env = env
        self._pricer = Pricer()
        self._began = time.monotonic()
        self._reload_problem = ""
        self._running_before = restored.books.server.running_seconds

    async def serve(self) -> int:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_die_loudly)
        self._jobs = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="tallymark-save")
        self._build()
        self._committer.start()
        self._server.start(self._listener.sock)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, stop.set)
        terminal = on_terminal()
        self._loop.add_signal_handler(
            signal.SIGHUP, lambda: stop.set() if terminal and not on_terminal() else self._reload()
        )
        getting_ready = self._loop.create_task(self._get_ready())
        getting_ready.add_done_callback(fail_with)
        await stop.wait()
        getting_ready.cancel()
        return await self._drain()

    async def _get_ready(self) -> None:
        """Ready is who has made something durable."""
        while (problem := await self._probe()) is not None:
            log.warning("not ready yet: %s", problem)
            self._supervision.cannot_commit(str(problem))
            await asyncio.sleep(START_PROBE_SECONDS)
        log.info("tallymarkd %s ready: state in %s, listening on %s",
                 __version__, self._settings.state_dir, self._settings.socket)  # fmt: skip
        self._supervision.ready()
        self._adopting.start()
        for line in next_steps(self._settings.socket, self._env):
            log.info("%s", line)

    async def _probe(self) -> Exception | None:
        """Make a record durable; gives what was in the way."""
        came: asyncio.Future[Exception | None] = self._loop.create_future()
        self._engine.probe(lambda error: None if came.done() else came.set_result(error))
        return await came

    def _build(self) -> None:
        settings, restored = self._settings, self._restored
        self._adopting = Adopting(self._fs, settings.spool_dir, settings.socket)
        books, journal, keys = restored.books, restored.journal, restored.keys
        self._checkpointer = Checkpointer(
            self._fs,
            Layout(settings.state_dir),
            books,
            journal,
            keys,
            parts.checkpoint_settings(settings),
            run_job=self._run_job,
            call_later=self._loop.call_later,
        )
        self._checkpointer.adopt(restored.reaches, restored.server_reaches)
        self._committer = Committer(
            journal,
            self._from_committer,
            commit_bytes_max=settings.commit_bytes_max,
            idle_mark_seconds=settings.idle_mark_seconds,
        )
        self._engine = Engine(
            books,
            keys,
            Admission(keys, self._pricer.price_event, lambda: str(uuid7())),
            self._committer,
            parts.engine_settings(settings),
            note=self._note,
            spooled=lambda: spooled_producers(self._fs, settings.spool_dir),
        )
        self._vitals = Vitals(
            settings,
            self._fs,
            self._engine,
            self._committer,
            self._checkpointer,
            journal,
            restored.report,
            connections=lambda: self._server.connections,
            connections_max=lambda: self._desk.settings.connections_max,
            watchdog_late_seconds=lambda: self._supervision.late_seconds,
            config_problem=lambda: self._reload_problem,
            spools_waiting=lambda: len(self._adopting.waiting),
        )
        self._room = Room(
            self._engine,
            free_bytes=self._vitals.free_bytes,
            needed_bytes=lambda: self._settings.segment_chunk_bytes,
            call_later=self._loop.call_later,
        )
        self._desk = Desk(
            self._engine,
            BooksAnswers(
                self._vitals,
                self._engine,
                self._checkpointer.holds,
                owns=self._owns,
            ),
            _server_settings(settings),
            FramePool(settings.frame_pool_bytes_max),
        )
        self._server = Server(
            self._desk,
            new_id=lambda: str(uuid7()),
            own_uid=own_uid(),
            owns=self._owns,
        )
        self._supervision = Supervision(
            self._manager.notifier,
            self._manager.watchdog_seconds,
            echo=self._echo,
            status=lambda: f"ready: {status_line(self._vitals)}",
            call_later=self._loop.call_later,
        )
        if books.touched or restored.report.new_losses:
            self._note()

    def _owns(self, uid: int) -> bool:
        """Whether this is our own user, or root."""
        return uid == own_uid() or is_root(uid, self._settings.socket)

    def _from_committer(self, tickets: list[Ticket]) -> None:
        """On the committer's thread: hand what is settled over to the loop."""
        self._loop.call_soon_threadsafe(self._committed, tickets, time.perf_counter())

    def _committed(self, tickets: list[Ticket], handed_over: float) -> None:
        lag_seconds = time.perf_counter() - handed_over
        self._engine.committed(tickets)
        self._vitals.after_commit(lag_seconds)
        self._room.after_commit()

    def _echo(self, back: Callable[[], None]) -> None:
        def through() -> None:
            self._loop.call_soon_threadsafe(back)

        self._committer.echo(through)

    def _reload(self) -> None:
        """Take over what can change while we run (SIGHUP)."""
        came = reload(self._settings, self._manager.loaded)
        self._reload_problem = came.problem
        self._supervision.reload(lambda: self._apply(came.settings))
        tell(came)

    def _apply(self, settings: Settings) -> None:
        """Every part has its settings from here, at the start and at a reload."""
        self._settings = self._vitals.settings = settings
        set_up_logging(settings.log_level, settings.log_format, env=self._env)
        self._checkpointer.use(parts.checkpoint_settings(settings))
        self._engine.use(parts.engine_settings(settings))
        self._committer.use(
            commit_bytes_max=settings.commit_bytes_max,
            idle_mark_seconds=settings.idle_mark_seconds,
        )
        self._desk.settings = _server_settings(settings)

    def _note(self) -> None:
        server = self._engine.books.server
        server.running_seconds = self._running_before + time.monotonic() - self._began
        self._checkpointer.note()

    def _run_job(
        self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        future = self._loop.run_in_executor(self._jobs, job)

        def finished(future: asyncio.Future[Any]) -> None:
            error = future.exception()
            done(None if error else future.result(), error)

        future.add_done_callback(finished)

    async def _drain(self) -> int:
        """Stop accepting, commit, acknowledge, save state; the clean-stop record always."""
        deadline = time.monotonic() + self._settings.drain_timeout_seconds
        log.info("stopping: committing what has arrived")
        self._supervision.stopping()
        self._adopting.stop()
        self._room.stop()
        await self._server.stop_accepting()
        self._checkpointer.stop()
        seconds = max(0.1, deadline - time.monotonic())
        stopped = await asyncio.to_thread(self._committer.stop, seconds)
        await asyncio.sleep(0)
        self._supervision.end()
        left = max(0.0, deadline - time.monotonic())
        await self._server.say_goodbye(min(FIRST_WORD_SECONDS, left / 2))
        if not stopped:
            log.error("cannot stop cleanly: the disk did not answer within %g s", seconds)
            return EXIT_FAILED
        self._jobs.shutdown(wait=True)
        await asyncio.sleep(0)
        unsaved = self._checkpointer.save_all(deadline - 0.2)
        if unsaved:
            log.warning("no time to save %s; the journal has it", ", ".join(unsaved))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._server.idle.wait(), max(0.05, deadline - time.monotonic()))
        self._restored.journal.close()
        self._restored.keys.close()
        log.info("stopped")
        return EXIT_OK


def _server_settings(settings: Settings) -> ServerSettings:
    """With as many connections as there are file descriptors for."""
    found = parts.server_settings(settings)
    return replace(found, connections_max=make_room(found.connections_max))


def fail_with(task: asyncio.Task[None]) -> None:
    """Hand what ended a task to the loop's exception handler: nobody awaits it."""
    if not task.cancelled():
        task.result()


def _die_loudly(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An exception that nobody handles ends the process: half a daemon is worse than none.

    A disk that fails under the index is no fault of ours: the next start rebuilds it.
    """
    error = context.get("exception")
    if isinstance(error, ConnectionError | TimeoutError):
        log.debug("a connection broke: %s", error)
        return
    if isinstance(error, StorageError):
        log.critical("%s; exiting with %d", error, EXIT_IO_ERROR)
        logging.shutdown()
        os._exit(EXIT_IO_ERROR)
    log.critical("unexpected: %s; exiting", context.get("message"), exc_info=error)
    logging.shutdown()
    os._exit(EXIT_SOFTWARE)


__all__ = ["locked_state_dir", "run"]
