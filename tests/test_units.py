"""The units: as the templates have them, clean for systemd, hardened as far as is promised."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tallymarkd.service import render
from tests.default_units import ROOT, default_units

SYSTEM_EXPOSURE_MAX = 15
USER_EXPOSURE_MAX = 30
"""What ``systemd-analyze security`` may find, in tenths."""

ODD = """odd %h $HOME 'a' "b" \\x41 ü;#"""
NOT_IN_AN_EXECUTABLE = str.maketrans("", "", "'\"\\")


def analyze(tmp_path: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    """``systemd-analyze``, which needs no systemd to run."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(exist_ok=True)
    return subprocess.run(
        ["systemd-analyze", *args],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), "SYSTEMD_COLORS": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


def verify(tmp_path: Path, kind: str, unit: Path) -> str:
    """What ``systemd-analyze verify`` has to say: nothing of a unit that is right."""
    manager = ["--user"] if kind == "user" else []
    done = analyze(tmp_path, *manager, "verify", "--man=no", unit)
    return done.stdout or f"exit {done.returncode}" * (done.returncode != 0)


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def units(kind: str, folder: Path, name: str = "plain", *, sandbox: bool = True) -> dict[str, str]:
    """The units with a daemon in ``folder``, and ``name`` in every path."""
    home = folder / name.translate(NOT_IN_AN_EXECUTABLE)
    daemon = render.executable(executable(home / "bin" / "tallymarkd"))
    # Not below ``folder``: a socket's path must be short.
    state = Path("/var/tmp") / name
    if kind == "system":
        return render.system_units(daemon=daemon, socket=render.literal(state / "t.sock"))
    return render.user_units(
        daemon=daemon,
        state_dir=render.quote(state),
        spool_dir=render.quote(state / "spool"),
        socket=render.literal(state / "run" / "t.sock"),
        writable=f"{render.quote(state)} {render.quote('-/mnt/other spool')}",
        environment=render.quote(f"XDG_CONFIG_HOME={state}"),
        sandbox=sandbox,
    )


def write(folder: Path, texts: dict[str, str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]


def test_the_repository_has_what_the_templates_give() -> None:
    expected = default_units()
    found = {
        str(path.relative_to(ROOT)): path.read_text()
        for top in ("systemd", "launchd")
        for path in (ROOT / top).rglob("*")
        if path.is_file()
    }
    assert sorted(found) == sorted(expected)
    for name, text in expected.items():
        assert found[name] == text, f"{name} is not what its template gives; make units"


@pytest.mark.parametrize("kind", ["user", "system"])
@pytest.mark.parametrize("name", ["plain", ODD])
def test_verify_is_silent(tmp_path: Path, kind: str, name: str) -> None:
    for unit in write(tmp_path / "units", units(kind, tmp_path, name)):
        assert verify(tmp_path, kind, unit) == ""


@pytest.mark.parametrize("kind", ["user", "system"])
def test_verify_tells_what_is_wrong(tmp_path: Path, kind: str) -> None:
    texts = units(kind, tmp_path)
    texts[render.SERVICE] = texts[render.SERVICE].replace("KillMode=", "KilMode=")
    _, service = write(tmp_path / "units", texts)
    assert "KilMode" in verify(tmp_path, kind, service)
    texts = units(kind, tmp_path)
    texts[render.SERVICE] = texts[render.SERVICE].replace("bin/tallymarkd", "bin/nobody")
    write(tmp_path / "units", texts)
    assert "not executable" in verify(tmp_path, kind, service)


def exposed(tmp_path: Path, service: Path, threshold: int) -> subprocess.CompletedProcess[str]:
    return analyze(
        tmp_path, "security", "--offline=true", f"--threshold={threshold}", "--no-pager", service
    )


@pytest.mark.parametrize(
    ("kind", "threshold"), [("system", SYSTEM_EXPOSURE_MAX), ("user", USER_EXPOSURE_MAX)]
)
def test_hardening(tmp_path: Path, kind: str, threshold: int) -> None:
    _, service = write(tmp_path / "units", units(kind, tmp_path))
    done = exposed(tmp_path, service, threshold)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", ["user", "system"])
def test_what_every_psutil_reads_is_not_hidden(tmp_path: Path, kind: str) -> None:
    """7.0 and older cannot be imported without /proc/stat, and the daemon takes those."""
    assert "\nProcSubset=pid\n" not in units(kind, tmp_path)[render.SERVICE]


def test_without_its_sandbox_a_user_unit_is_told_to_be_exposed(tmp_path: Path) -> None:
    texts = units("user", tmp_path, sandbox=False)
    assert "PrivateUsers" not in texts[render.SERVICE]
    _, service = write(tmp_path / "units", texts)
    assert verify(tmp_path, "user", service) == ""
    assert exposed(tmp_path, service, USER_EXPOSURE_MAX).returncode != 0


def test_sysusers_takes_the_file(tmp_path: Path) -> None:
    file = tmp_path / render.SYSUSERS
    file.write_text(render.sysusers())
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    done = subprocess.run(
        ["systemd-sysusers", f"--root={root}", file], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    passwd = (root / "etc" / "passwd").read_text().splitlines()
    (line,) = (line for line in passwd if line.startswith("tallymark:"))
    assert line.split(":")[5:] == ["/var/lib/tallymark", "/usr/sbin/nologin"]
    assert "\ntallymark:" in "\n" + (root / "etc" / "group").read_text()
