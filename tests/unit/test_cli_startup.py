from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.speed import Times, quick

HEAVY = (
    "asyncio",
    "filelock",
    "genai_prices",
    "importlib.metadata",
    "psutil",
    "pydantic",
    "rich",
    "sqlite3",
    "ssl",
    "tallymarkd.app",
    "tallymarkd.core",
    "tallymarkd.sources",
)
"""What takes long to import, and is of no use for the quick commands."""

MODULES_MAX = 210
"""A count instead of milliseconds, which depend on the machine; the library's
own and click's are most of it."""


def modules_of(tmp_path: Path, *args: str) -> set[str]:
    """What the command has imported at its end."""
    program = (
        "import sys\n"
        "from tallymarkd.cli.root import run\n"
        "code = run(sys.argv[1:])\n"
        "sys.stderr.write(' '.join(['MODULES', *sys.modules]))\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path), "PATH": os.defpath},
    )
    return set(done.stderr.partition("MODULES")[2].split())


@pytest.mark.parametrize(
    "args",
    [
        ["--version"],
        ["--help"],
        ["emit", "--help"],
        ["emit", "--type", "usage", "--timeout", "0"],
        ["health"],
        ["status"],
    ],
    ids=lambda args: " ".join(args[:2]),
)
def test_a_quick_command_imports_nothing_heavy(tmp_path: Path, args: list[str]) -> None:
    modules = modules_of(tmp_path, *args)
    assert "tallymarkd.cli.root" in modules
    assert sorted(modules & set(HEAVY)) == []
    assert len(modules) <= MODULES_MAX


def test_a_command_imports_no_other_command(tmp_path: Path) -> None:
    modules = modules_of(tmp_path, "--version")
    for name in ("emit", "status", "health", "dump", "numbers", "import_claude_code"):
        assert f"tallymarkd.cli.{name}" not in modules


def test_recording_loads_nothing_that_is_for_reading(tmp_path: Path) -> None:
    modules = modules_of(tmp_path, "emit", "--help")
    assert "tallymark.client" in modules
    assert sorted(modules & {"tallymark.questions", "tallymark.state", "tallymark.aio"}) == []


START_SECONDS_MAX = 0.1
"""The promise, on a machine where Python itself starts in 11 ms."""

BARE_STARTS_MAX = 9.0
"""The same on a slower one."""


def test_emit_starts_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    env = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        # Compiled once, as an installed command is.
        "PYTHONPYCACHEPREFIX": str(tmp_path / "pyc"),
        "HOME": str(tmp_path),
        "PATH": os.defpath,
    }

    def took(program: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], env=env, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began

    emit = "import sys; from tallymarkd.cli.root import run; sys.exit(run(['emit', '--help']))"
    took(emit)

    def attempt() -> tuple[Times, None]:
        allowed = max(START_SECONDS_MAX, BARE_STARTS_MAX * took("pass"))
        return {"of the time allowed": took(emit) / allowed}, None

    quick({"of the time allowed": 1.0}, attempt)
