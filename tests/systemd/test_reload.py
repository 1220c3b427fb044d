"""``systemctl reload``: what can change does, and what needs a restart is said."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.daemon import DEADLINE_SECONDS, wait_for
from tests.systemd.services import SERVICE, Service

ANSWERS = 'NOTIFY|READY=1|RELOADING=1|STOPPING=1'


@contextmanager
def settings(service: Service, text: str) -> Iterator[None]:
    """The service's configuration, as its owner writes it."""
    service.write(service.settings, text)
    try:
        yield
    finally:
        service.machine.path(service.settings).unlink()


@contextmanager
def overheard(pid: int) -> Iterator[Callable[[], list[str]]]:
    """Gives what gives the words that a process has sent to systemd since."""
    options = ("-f", "-q", "-s", "200", "-e", "trace=sendto,sendmsg")
    tracer = subprocess.Popen(
        ["strace", *options, "-p", f"{pid}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        wait_for("strace to attach", lambda: traced(pid))
        yield lambda: words(tracer)
    finally:
        tracer.kill()
        tracer.communicate(timeout=DEADLINE_SECONDS)
