"""``systemctl reload``: what can change does, and what needs a restart is said."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.daemon import DEADLINE_SECONDS, wait_for
from tests.systemd.services import SERVICE, Service

CHANGED = """
log_format = "json"
segment_bytes_max = "1MiB"
"""


@contextmanager
def overheard(pid: int, log: Path) -> Iterator[Callable[[], list[str]]]:
    """Gives what gives the states that a process has told to systemd since."""
    options = ("-f", "-q", "-s", "200", "-e", "trace=sendto,sendmsg", "-o", str(log))
    tracer = subprocess.Popen(["strace", *options, "-p", f"{pid}"])
    try:
        wait_for("strace", lambda: "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text())
        yield lambda: re.findall(r"\b(RELOADING|READY|STOPPING)=1", log.read_text())
    finally:
        tracer.terminate()
        tracer.wait(DEADLINE_SECONDS)


def test_a_reload_takes_over_what_can_change(service: Service, tmp_path: Path) -> None:
    service.health()
    pid = service.pid()
    with (
        service.configured(CHANGED),
        overheard(pid, tmp_path / "strace.log") as told,
        service.listening() as said,
    ):
        service.systemctl("reload", SERVICE)
        service.until("the end of the reload", lambda: told() == ["RELOADING", "READY"])
        service.until("a word about it", lambda: "with the next restart" in said())
        assert service.active() == "active"
        service.systemctl("stop", SERVICE)
        lines = said()
    assert 'set log_format = "json"' in lines or "set log_format = json" in lines, lines
    assert "segment_bytes_max will change with the next restart" in lines
    # What it said when it stopped was said in the new format, by the same process.
    assert re.search(r'^\{.*"stopping: ', lines, re.MULTILINE), lines
    assert service.restarts() == 0
    assert service.show("Result") == "success"


def test_wrong_settings_leave_a_running_daemon_as_it_is(service: Service, tmp_path: Path) -> None:
    service.health()
    pid = service.pid()
    with (
        service.configured('log_fromat = "json"\n'),
        overheard(pid, tmp_path / "strace.log") as told,
        service.listening() as said,
    ):
        service.systemctl("reload", SERVICE)
        service.until("the end of the reload", lambda: told() == ["RELOADING", "READY"])
        service.until("a word about it", lambda: "log_format may be meant" in said())
        assert "the settings stay as they were" in said()
        assert service.health()["reasons"] == ["reload_refused"]
    assert service.pid() == pid
