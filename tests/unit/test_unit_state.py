from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tallymarkd.service.render import SERVICE, SOCKET
from tallymarkd.service.unit_state import condition, unquoted

ACTIVE = {"ActiveState": "active", "Result": "success"}
STOPPED = {"ActiveState": "inactive", "Result": "success"}


@pytest.mark.parametrize(
    ("service", "looping", "starting"),
    [
        ({"ActiveState": "activating", "SubState": "start", "NRestarts": "0"}, "", True),
        (
            {"ActiveState": "activating", "SubState": "start", "NRestarts": "3"},
            "started again 3 times",
            False,
        ),
        (
            {
                "ActiveState": "activating",
                "SubState": "auto-restart-queued",
                "Result": "exit-code",
                "ExecMainCode": "1",
                "ExecMainStatus": "74",
            },
            "exit-code, exit code 74",
            False,
        ),
        (
            {
                "ActiveState": "deactivating",
                "SubState": "stop-post",
                "Result": "core-dump",
                "ExecMainCode": "3",
                "ExecMainStatus": "6",
            },
            "core-dump, signal 6",
            False,
        ),
        ({"ActiveState": "deactivating", "SubState": "stop", "Result": "success"}, "", False),
        ({**ACTIVE, "SubState": "running", "NRestarts": "3"}, "", False),
    ],
)
def test_what_starts_again_and_again(service: dict[str, str], looping: str, starting: bool) -> None:
    found = condition(ACTIVE, service, [])
    assert (found.looping, found.starting) == (looping, starting)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Path]:
    """Both units, as they were written a minute ago."""
    paths = tmp_path / SOCKET, tmp_path / SERVICE
    for path in paths:
        path.write_text("")
        os.utime(path, times=(time.time() - 60, time.time() - 60))
    return paths


def started(seconds_ago: float) -> dict[str, str]:
    at = (time.monotonic() - seconds_ago) * 1e6
    return {**ACTIVE, "NeedDaemonReload": "no", "InactiveExitTimestampMonotonic": f"{at:.0f}"}


def test_what_was_started_before_its_unit_was_written_is_behind(
    written: tuple[Path, Path],
) -> None:
    assert condition(started(59), started(59), written).behind == ()
    assert condition(started(61), started(59), written).behind == (SOCKET,)
    assert condition(started(59), started(61), written).behind == (SERVICE,)
    # What does not run will have it when it is started.
    assert condition(started(59), {**started(61), **STOPPED}, written).behind == ()
    assert condition(started(59), {**STOPPED, "NeedDaemonReload": "yes"}, written).behind == (
        SERVICE,
    )


def test_a_file_from_the_future_or_without_one_tells_nothing(written: tuple[Path, Path]) -> None:
    socket, service = written
    socket.unlink()
    os.utime(service, times=(time.time() + 60, time.time() + 60))
    assert condition(started(5), started(5), written).behind == ()


def test_a_variable_as_systemctl_prints_it() -> None:
    assert unquoted("/plain=1") == "/plain=1"
    assert unquoted("$'/a b\\n\\'c\\\\'") == "/a b\n'c\\"
