from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
