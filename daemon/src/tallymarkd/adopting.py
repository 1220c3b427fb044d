"""Spools that agents left behind: the daemon delivers them to itself, once a minute.

Over its own socket, as any client would, so that there is one way for events to come.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from pathlib import Path

from tallymark.adoption import Adopted, Adopter
from tallymark.fs import FileSystem
from tallymark.spool import remove_unfinished, spool_paths
from tallymarkd._version import __version__

PAUSE_SECONDS = 60.0
"""Between two looks at the spool directory."""

log = logging.getLogger("tallymarkd")


class Adopting:
    """Looks at once and then every minute, on a thread of its own. Loop thread."""

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        socket: Path,
        *,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._adopter = Adopter(fs, directory, [socket], client=f"tallymarkd/{__version__}")
        self._pause_seconds = pause_seconds
        self.waiting: dict[Path, str] = {}
        """Spools that the last round left where they are, each with why."""
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(
            1, thread_name_prefix="tallymark-adopter"
        )

    def start(self) -> None:
        """Begin a round, and go on. The daemon must be accepting connections."""
        loop = asyncio.get_running_loop()
        round_ = loop.run_in_executor(self._thread, self._round)
        round_.add_done_callback(self._done)

    def stop(self) -> None:
        """Begin no other spool; the one under way is given up within a second."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _round(self) -> Adopted:
        remove_unfinished(self._fs, self._directory)
        return self._adopter.run(self._is_stopped)

    def _is_stopped(self) -> bool:
        return self._stopped

    def _done(self, round_: asyncio.Future[Adopted]) -> None:
        if self._stopped:
            return
        try:
            adopted = round_.result()
            self.waiting = adopted.left
            told(adopted)
        except OSError as error:
            log.warning("cannot look for spools in %s: %s", self._directory, error)
        except Exception:  # what an agent left there must not end the daemon
            log.exception("cannot deliver the spools in %s: a fault of tallymark; trying again "
                          "in %g s", self._directory, self._pause_seconds)  # fmt: skip
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._pause_seconds, self.start)


def spooled_producers(fs: FileSystem, directory: Path) -> set[str] | None:
    """The producers whose spools lie in the directory; None when that cannot be seen."""
    try:
        return {path.stem for path in spool_paths(fs, directory)}
    except OSError as error:
        log.warning("cannot look for spools in %s: %s", directory, error)
        return None


def told(adopted: Adopted) -> None:
    """Say what came of a round, if anything did."""
    if adopted.spools:
        noun = "spool that an agent" if adopted.spools == 1 else "spools that agents"
        rejected = ", ".join(f"{count} {reason}" for reason, count in adopted.rejected.items())
        log.log(
            logging.WARNING if rejected else logging.INFO,
            "delivered %d %s left behind: %d events%s",
            adopted.spools, noun, adopted.events, f"; rejected: {rejected}" if rejected else "",
        )  # fmt: skip
