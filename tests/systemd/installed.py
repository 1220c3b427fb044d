"""Both distributions in a guest, installed from wheels without a network."""

from __future__ import annotations

from pathlib import Path

from tests.systemd.machine import Machine, python

WHEELS = Path("/opt/tested-wheels")
"""Where a guest has what ``tests.wheels.wheelhouse`` has made."""

CODE = Path("/opt/tested-code")
"""Where a guest has this repository's ``tests``, for the programs that a test runs there."""


def install(machine: Machine, folder: Path, user: str = "root") -> Path:
    """A new environment of a user's, with both; gives its bin folder."""
    pip = next(machine.path(WHEELS).glob("pip-*.whl")).name
    machine.run(python(), "-m", "venv", "--without-pip", str(folder), user=user)
    machine.run(
        *(python(), f"{WHEELS}/{pip}/pip", "--python", f"{folder}/bin/python", "install"),
        *("--quiet", "--no-input", "--no-cache-dir", "--disable-pip-version-check"),
        *("--no-index", "--find-links", str(WHEELS), "tallymark"),
        user=user,
    )
    return folder / "bin"


__all__ = ["CODE", "WHEELS", "install"]
