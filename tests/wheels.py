"""Both distributions as users get them: built, and installed from what was built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"client": ("tallymark-client", "tallymark"), "daemon": ("tallymark", "tallymarkd")}

# Read at import, before a test's own surroundings are laid: pip finds the user's settings
# and cache by them.
SURROUNDINGS = {k: v for k, v in os.environ.items() if not k.startswith("TALLYMARK_")}


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """The output of a command, which must succeed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=SURROUNDINGS,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{command} exited {done.returncode}:\n{done.stdout}"
    return done.stdout


def build(part: str, folder: Path) -> Path:
    """An sdist, and a wheel from that sdist, of a copy that has nothing around it."""
    source = folder / part
    ignored = shutil.ignore_patterns("__pycache__", "dist", "build")
    shutil.copytree(ROOT / part, source, ignore=ignored)
    run(sys.executable, "-m", "build", "--no-isolation", source)
    return source / "dist"


def environment(folder: Path, wheels: Sequence[Path]) -> Path:
    """The bin folder of a new environment that has the wheels and what they need."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-input", *wheels)
    return python.parent


def wheelhouse(folder: Path, wheels: Sequence[Path]) -> Path:
    """A folder with the wheels, what they need, and pip: enough to install without a network."""
    pip = (sys.executable, "-m", "pip", "wheel", "--no-input", "--wheel-dir")
    run(*pip, folder, "pip", *wheels)
    return folder
