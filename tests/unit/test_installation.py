from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tallymark.errors import PathError
from tallymarkd.service import installation
from tallymarkd.service.machine import ServiceError


def command(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tallymarkd"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_daemon_beside_the_interpreter_comes_first(tmp_path: Path) -> None:
    first, second = command(tmp_path / "venv"), command(tmp_path / "local")
    assert installation.find_daemon([tmp_path, first.parent, second.parent]) == first
    first.chmod(0o644)
    if os.geteuid() != 0 or not os.access(first, os.X_OK):
        assert installation.find_daemon([first.parent, second.parent]) == second


def test_a_link_is_kept_as_it_is(tmp_path: Path) -> None:
    real = command(tmp_path / "versions" / "1.2")
    link = tmp_path / "bin" / "tallymarkd"
    link.parent.mkdir()
    link.symlink_to(real)
    assert installation.find_daemon([link.parent]) == link


def test_without_a_daemon_it_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot install the service: there is no tallymarkd in"):
        installation.find_daemon([tmp_path])


def test_this_one() -> None:
    found = installation.this_installation()
    assert found.daemon == Path(sys.executable).parent / "tallymarkd"
    assert found.python == Path(sys.executable)
    # The tests run from the source.
    assert "editable installation: the service runs what stands in /" in found.notes[-1]
    assert found.notes[-1].endswith("/daemon")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/home/a/.cache/uv/archive-v0/x1/bin/tallymarkd", "the cache of uvx"),
        ("/home/a/.local/share/pipx/.cache/0b1/bin/tallymarkd", "the cache of pipx run"),
        ("/home/a/.cache/pipx/0b1/bin/tallymarkd", "the cache of pipx run"),
        ("/home/a/.local/share/pipx/venvs/tallymark/bin/tallymarkd", ""),
        ("/home/a/.local/share/uv/tools/tallymark/bin/tallymarkd", ""),
        ("/home/a/venv/bin/tallymarkd", ""),
    ],
)
def test_what_will_not_stay_is_told(path: str, told: str) -> None:
    said = installation.notes(Path(path), "")
    assert len(said) == bool(told)
    assert told in "".join(said)


@pytest.mark.parametrize("path", ["/tmp/a/tallymarkd", "/var/tmp/tallymarkd"])
def test_a_sandboxed_service_sees_no_tmp(path: str) -> None:
    with pytest.raises(PathError, match=r"cannot have tallymarkd in .*tmp.*choose another"):
        installation.check_for_sandbox(Path(path), "tallymarkd")
    installation.check_for_sandbox(Path("/tmpfs/x"), "tallymarkd")


@pytest.mark.parametrize("path", ["/home/a/venv/bin/tallymarkd", "/root/venv/bin/tallymarkd"])
def test_the_system_sees_no_home(path: str) -> None:
    with pytest.raises(PathError, match="which the system's service cannot see"):
        installation.check_for_system(Path(path))


def test_the_system_needs_what_everybody_can_execute(tmp_path: Path) -> None:
    daemon = command(tmp_path / "opt" / "bin")
    for folder in (tmp_path / "opt", tmp_path / "opt" / "bin"):
        folder.chmod(0o755)
    for path in (daemon, daemon.parent):
        mode = path.stat().st_mode
        path.chmod(0o700)
        with pytest.raises(PathError, match="is not open to others") as caught:
            installation.check_for_system(daemon)
        assert (f": {path} is" in str(caught.value)) or path == daemon.parent
        path.chmod(mode)
