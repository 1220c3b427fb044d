"""What happens to clients when their process forks or ends.

Importing this registers hooks and starts nothing. Clients are held weakly.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Protocol


class Mortal(Protocol):
    """What has to know of its process's forks and end."""

    def close_at_exit(self) -> None:
        """The interpreter is about to end."""

    def begin_again_in_child(self) -> None:
        """This process is a fork of the one that made this object."""


_living: weakref.WeakSet[Mortal] = weakref.WeakSet()


def watch_over(mortal: Mortal) -> None:
    """Tell it of forks and of the end, as long as it lives."""
    _living.add(mortal)


def before_threads_start() -> None:
    """Have the end of this process noticed, in a child of multiprocessing too.

    Such a child ends by ``os._exit``, without atexit, but runs finalizers of
    multiprocessing's own that were registered after it began.
    """
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is None or process is None or process.parent_process() is None:
        return
    if os.getpid() not in _finalized:
        _finalized.add(os.getpid())
        util.Finalize(None, _close_all, exitpriority=0)


_finalized: set[int] = set()


def _close_all() -> None:
    """An exception of a signal handler, in the midst of one, spares the others, and that
    one is given a second try; then it goes on."""
    failure: BaseException | None = None
    again: list[Mortal] = []
    for mortal in list(_living):
        try:
            mortal.close_at_exit()
        except BaseException as error:  # noqa: BLE001
            failure = error
            again.append(mortal)
    for mortal in again:
        mortal.close_at_exit()
    if failure is not None:
        raise failure


def _begin_again_in_child() -> None:
    for mortal in list(_living):
        mortal.begin_again_in_child()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_begin_again_in_child)
