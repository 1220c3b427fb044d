from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tallymark.errors import PathError
from tallymarkd.service import installation
from tallymarkd.service.installation import Installation
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


USUAL = Path("/usr/bin/python3")

NO_TMP = r"cannot have {} in .*tmp.*: it is below .*tmp, .*; choose another"


@pytest.mark.parametrize("folder", ["/tmp", "/var/tmp"])
def test_a_sandboxed_service_sees_no_tmp(folder: str) -> None:
    inside, outside = Path(folder) / "a" / "x", Path("/tmpfs/x")
    for refuse in (
        lambda it: installation.check_for_sandbox(it, {}),
        installation.check_for_system,
    ):
        with pytest.raises(PathError, match=NO_TMP.format("tallymarkd")):
            refuse(Installation(inside, USUAL))
    with pytest.raises(PathError, match=NO_TMP.format("the interpreter of tallymarkd")):
        installation.check_for_sandbox(Installation(outside, inside), {})
    with pytest.raises(PathError, match=NO_TMP.format("the spool directory")):
        installation.check_for_sandbox(
            Installation(outside, USUAL), {"the spool directory": inside}
        )
    installation.check_for_sandbox(Installation(outside, USUAL), {"the state directory": outside})


@pytest.mark.parametrize("path", ["/home/a/venv/bin/x", "/root/venv/bin/x", "/run/user/1/x"])
def test_the_system_sees_no_home(path: str) -> None:
    with pytest.raises(PathError, match="tallymarkd in .* the system's service cannot see"):
        installation.check_for_system(Installation(Path(path), USUAL))
    with pytest.raises(PathError, match="interpreter .* the system's service cannot see"):
        installation.check_for_system(Installation(USUAL, Path(path)))


@pytest.fixture
def opt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for everybody: the tests' own is below /tmp, and closed."""
    folder, mode = tmp_path / "opt", installation.mode
    folder.mkdir()
    monkeypatch.setattr(installation, "OWN_TO_A_SERVICE", (f"{tmp_path}/tmp",))
    monkeypatch.setattr(installation, "HIDDEN_FROM_THE_SYSTEM", (f"{tmp_path}/home",))
    monkeypatch.setattr(
        installation, "mode", lambda path: mode(path) if path.is_relative_to(folder) else 0o755
    )
    return folder


def test_links_are_followed_to_what_is_executed(tmp_path: Path, opt: Path) -> None:
    daemon, python = command(opt / "venv" / "bin"), opt / "venv" / "bin" / "python"
    shared = command(opt / "python")
    home = command(tmp_path / "home" / "uv" / "python")
    link = tmp_path / "home" / "link"
    link.symlink_to(shared)
    for target, fits in ((shared, True), (home, False), (link, False)):
        python.unlink(missing_ok=True)
        python.symlink_to(target)
        if fits:
            installation.check_for_system(Installation(daemon, python))
        else:
            with pytest.raises(PathError, match=f"the interpreter of tallymarkd in {target}"):
                installation.check_for_system(Installation(daemon, python))


def test_links_that_lead_nowhere_end(tmp_path: Path, opt: Path) -> None:
    ring = tmp_path / "tmp" / "ring"
    ring.parent.mkdir()
    ring.symlink_to(ring)
    with pytest.raises(PathError, match="the interpreter of tallymarkd"):
        installation.check_for_sandbox(Installation(opt, ring), {})


@pytest.mark.parametrize("which", ["daemon", "python"])
def test_the_system_needs_what_everybody_can_execute(opt: Path, which: str) -> None:
    daemon, real = command(opt / "bin"), command(opt / "versions" / "3")
    python = opt / "bin" / "python"
    python.symlink_to(real)
    closed = daemon if which == "daemon" else real
    installed = Installation(daemon, python)
    installation.check_for_system(installed)
    for path in (closed, closed.parent):
        mode = path.stat().st_mode
        path.chmod(0o700)
        with pytest.raises(PathError, match=f": {path} is not open to others"):
            installation.check_for_system(installed)
        path.chmod(mode)
